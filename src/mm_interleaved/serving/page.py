"""The page: one document to write, see grow, change and save, in the browser of one user on this machine.

Gradio draws it; what it does is `session.py`. Nothing leaves the machine: no telemetry, no fonts from elsewhere, and a content
security policy that makes the browser refuse everything but this server.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
import numpy as np

from mm_interleaved.document import Image, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.export.files import data_uri
from mm_interleaved.generation.events import Finished, ImageDone, ImageProgress, TextDelta
from mm_interleaved.picture_file import MAX_BYTES
from mm_interleaved.serving.labels import LANGUAGES, Language, words
from mm_interleaved.serving.session import Desk, Session

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
REFRESH = 0.15
"""Seconds between two showings of growing words."""
PREVIEWS = 5
"""Previews of a picture while it is painted."""

Shown = tuple[Any, ...]
"""What every action gives back: document, growing words and picture, message, composer, seed, saved files."""


def app(desk: Desk, language: Language = "en") -> fastapi.FastAPI:
    """The page as a web application, to be served to this machine only."""
    made = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    made.add_middleware(_Policy)
    own = [gr.themes.Font(name) for name in ("system-ui", "Noto Sans", "sans-serif")]  # the reader's, none from elsewhere
    theme = gr.themes.Base(primary_hue="teal", neutral_hue="stone", font=own, font_mono=gr.themes.Font("monospace"))
    return gr.mount_gradio_app(
        made,
        build(desk, language),
        path="/",
        server_name="127.0.0.1",
        theme=theme,
        css=files("mm_interleaved.serving").joinpath("page.css").read_text(encoding="utf-8"),
        allowed_paths=[str(desk.folder.resolve())],
        max_file_size=MAX_BYTES,
        footer_links=[],
        ssr_mode=False,
        show_error=True,
        app_kwargs={"exception_handlers": {OSError: _storage_fault}},
    )


async def _storage_fault(_: Any, error: Exception) -> fastapi.Response:
    """What an upload that cannot be stored, on a full disk for one, tells the browser: the page shows it."""
    return fastapi.Response(f"The upload was not stored ({error}). Make room and try again.", HTTPStatus.INSUFFICIENT_STORAGE)


def build(desk: Desk, language: Language = "en") -> gr.Blocks:
    """Lays the page out and joins it to the sessions of its tabs.

    Every event belongs to a component that is never drawn anew: what is clicked or typed while the document is redrawn arrives, with
    the key of the segment it was meant for.
    """
    say = words(language)
    with gr.Blocks(title=say["title"], analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        tongue = gr.Radio(list(LANGUAGES), value=language, label=say["language"], show_label=False, container=False, elem_id="tongue")
        head = gr.HTML(_head(say), elem_id="head")
        start = gr.Dropdown(_starts(desk, language), value="", label=say["start"], elem_id="start")
        script = files("mm_interleaved.serving").joinpath("page.js").read_text(encoding="utf-8")
        document = gr.HTML("", elem_id="document", js_on_load=script, apply_default_css=False)
        live = gr.HTML("", elem_id="live", elem_classes=["live"])
        status = gr.HTML("", elem_id="status")
        composer = gr.MultimodalTextbox(
            show_label=False,
            label=say["compose"],
            placeholder=say["compose"],
            file_types=["image"],
            file_count="multiple",
            sources=["upload"],
            lines=2,
            submit_btn=False,
            max_plain_text_length=100_000,  # longer pastes would become files
            elem_id="composer",
        )
        with gr.Row(elem_id="actions"):
            go = gr.Button(say["continue"], variant="primary", elem_id="continue")
            stop = gr.Button(say["stop"], elem_id="stop")
            add = gr.Button(say["add"], elem_id="add")
            save = gr.Button(say["save"], elem_id="save")
            printed = gr.Button(say["print"], elem_id="print")
        saved = gr.Files(visible=False, label=say["files"], elem_id="files", interactive=False)
        with gr.Accordion(say["hero"], open=False, elem_id="hero") as hero:
            hero_hint = gr.HTML(_hint(say["hero_hint"]))
            with gr.Row():
                name = gr.Textbox(label=say["hero_name"], max_lines=1, elem_id="hero-name", scale=3)
                tell = gr.Button(say["hero_story"], elem_id="hero-story", scale=2)
        with gr.Accordion(say["settings"], open=False, elem_id="settings") as settings:
            pictures = gr.Slider(0, 8, value=3, step=1, label=say["pictures"])
            seed = gr.Number(0, precision=0, minimum=0, label=say["seed"], elem_id="seed")
            steps = gr.Slider(1, 50, value=20, step=1, label=say["steps"], elem_id="steps")
            guidance = gr.Slider(1, 8, value=2, step=0.5, label=say["guidance"])
            temperature = gr.Slider(0, 1.5, value=0, step=0.1, label=say["temperature"])

        def tab(request: gr.Request, tongue: Language) -> _Tab:
            return _Tab(desk.session(str(request.session_hash)), words(tongue))

        def continued(request: gr.Request, tongue: Language, composed: Any, *values: float) -> Iterator[Shown]:
            yield from tab(request, tongue).run(composed, None, _options(*values))

        def added(request: gr.Request, tongue: Language, composed: Any, *_: float) -> Shown:
            here = tab(request, tongue)
            wrong = here.guarded(lambda: here.add(composed))
            return here.result(wrong, cleared=not wrong)

        def moved(request: gr.Request, event: gr.EventData, tongue: Language, *_: Any) -> Shown:
            here = tab(request, tongue)
            return here.result(here.guarded(lambda: here.move(event.act, int(event.key))))

        def made_again(request: gr.Request, event: gr.EventData, tongue: Language, _: Any, *values: float) -> Iterator[Shown]:
            yield from tab(request, tongue).make_again(event.act, int(event.key), _options(*values))

        def edited(request: gr.Request, event: gr.EventData, tongue: Language) -> str:
            here = tab(request, tongue)
            with here.session.changing:
                return here.guarded(lambda: here.session.edit(here.session.place(int(event.key)), event.text))

        def stopped(request: gr.Request) -> None:
            desk.session(str(request.session_hash)).stop()

        def stored(request: gr.Request, tongue: Language, *_: Any) -> Shown:
            here, made = tab(request, tongue), list[Path]()
            wrong = here.guarded(lambda: made.extend(here.session.save()))
            if wrong:
                return here.result(wrong)
            told = _note(f"{here.say['saved']} {desk.folder}: {', '.join(path.name for path in made)}")
            return here.result(told, files=gr.Files([str(path) for path in made], visible=True))

        def begun(start: str, tongue: Language, request: gr.Request) -> Shown:
            here = tab(request, tongue)
            return here.result(here.guarded(lambda: here.session.begin(Path(start) if start else None)))

        def told(request: gr.Request, name: str, tongue: Language, composed: Any, *values: float) -> Iterator[Shown]:
            here = tab(request, tongue)
            picture = next(iter((composed or {}).get("files") or []), None)
            around = (here.say["hero_before"], here.say["hero_behind"])
            wrong = here.guarded(lambda: here.session.begin_hero(picture, name, around))
            yield here.result(wrong, cleared=not wrong)
            if not wrong:
                yield from here.run(None, None, _options(*values))

        def relabelled(request: gr.Request, tongue: Language) -> tuple[Any, ...]:
            say = words(tongue)
            named = [gr.Button(say[key]) for key in buttons]
            labelled = [gr.update(label=say[key]) for key in labels]
            top = (_head(say), gr.update(choices=_starts(desk, tongue), label=say["start"]), _hint(say["hero_hint"]))
            return (tab(request, tongue).document(), *top, gr.update(placeholder=say["compose"]), *named, *labelled)

        def left(request: gr.Request) -> None:
            desk.leave(str(request.session_hash))

        asked = [tongue, composer, pictures, seed, steps, guidance, temperature]
        shown = [document, live, status, composer, seed, saved]
        buttons = {"continue": go, "stop": stop, "add": add, "save": save, "print": printed, "hero_story": tell}
        labels = {"language": tongue, "hero": hero, "hero_name": name, "files": saved, "settings": settings, "pictures": pictures}
        labels |= {"seed": seed, "steps": steps, "guidance": guidance, "temperature": temperature}
        hidden: dict[str, Any] = {"show_progress": "hidden", "concurrency_limit": None}
        page.load(lambda tongue: gr.update(choices=_starts(desk, tongue)), tongue, start, show_progress="hidden")
        for button, act in ((go, continued), (add, added), (save, stored)):
            button.click(act, asked, shown, **hidden)
        tell.click(told, [name, *asked], shown, **hidden)
        document.click(made_again, asked, shown, trigger_mode="multiple", **hidden)
        # One at a time, so that what was moved or typed last is what stays and is shown.
        document.select(moved, asked, shown, trigger_mode="multiple", show_progress="hidden", concurrency_limit=1)
        document.input(edited, tongue, status, trigger_mode="multiple", show_progress="hidden", concurrency_limit=1)
        stop.click(stopped, queue=False, **hidden)
        printed.click(None, js="() => window.print()")
        start.input(begun, [start, tongue], shown, show_progress="hidden")
        renamed = [document, head, start, hero_hint, composer, *buttons.values(), *labels.values()]
        tongue.change(relabelled, tongue, renamed, show_progress="hidden")
        page.unload(left)
    return page


@dataclass(frozen=True)
class _Tab:
    """One tab as the page shows it: its session, and the page's own words in its language."""

    session: Session
    say: dict[str, str]

    def document(self) -> str:
        """All segments that no longer grow, each with what can be done to it."""
        drawn, number = [], 0
        for index, (key, segment) in enumerate(self.session.keyed()):
            made = segment.origin == "generated"
            if isinstance(segment, Text):
                label, text = f"{self.say['paragraph']} {index + 1}", html.escape(segment.text.strip(), quote=True)
                shown = f'<textarea rows="1" aria-label="{label}" data-key="{key}" data-text="{text}"></textarea>'
            else:
                number += 1
                shown = _figure(segment, f"{self.say['picture']} {number}", self.say)
            acts = [*(["reroll"] if made and isinstance(segment, Image) else []), "from_here", *(["up"] if index else []), "remove"]
            tools = "".join(f'<button type="button" data-key="{key}" data-act="{act}">{self.say[act]}</button>' for act in acts)
            drawn.append(f'<section class="segment {"made" if made else "given"}">{shown}<div class="tools">{tools}</div></section>')
        # Never the same twice, so that the browser is told of every redraw and sends words that were refused before again.
        return "".join(drawn) + f'<span hidden data-drawn="{time.monotonic_ns()}"></span>'

    def result(self, message: str, *, cleared: bool = False, seed: int | None = None, files: gr.Files | None = None) -> Shown:
        """Shows the document as it stands now, nothing growing, and a message; `cleared` empties the composer."""
        others = [gr.skip() if value is None else value for value in (seed, files)]
        return (self.document(), "", message, {"text": "", "files": []} if cleared else gr.skip(), *others)

    def guarded(self, action: Callable[[], Any]) -> str:
        """Does it; the message if it failed, else nothing."""
        try:
            action()
        except Exception as error:
            return self.wrong(error)
        return ""

    def wrong(self, error: Exception) -> str:
        """What went wrong, as the page shows it."""
        told = str(error) if isinstance(error, MMInterleavedError) else f"{self.say['fault']} ({type(error).__name__}: {error})"
        return f'<p class="wrong" role="alert">{html.escape(told)}</p>'

    def add(self, composed: Any) -> None:
        """Appends what was composed."""
        if composed:
            self.session.add(composed.get("text") or "", list(composed.get("files") or []))

    def move(self, act: str, key: int) -> None:
        """Moves a segment up or removes it."""
        with self.session.changing:
            (self.session.up if act == "up" else self.session.remove)(self.session.place(key))

    def make_again(self, act: str, key: int, options: dict[str, Any]) -> Iterator[Shown]:
        """Draws a picture again, or goes on behind a segment; what follows is dropped."""
        try:
            place = self.session.place(key)
        except MMInterleavedError as error:
            yield self.result(self.wrong(error))
            return
        if act == "reroll":
            options |= {"seed": self.session.seed_of_next_roll(place), "force_image": True, "max_images": max(1, options["max_images"])}
        yield from self.run(None, place if act == "reroll" else place + 1, options)

    def run(self, composed: Any, until: int | None, options: dict[str, Any]) -> Iterator[Shown]:
        """Adds what was composed, continues, and shows every event."""
        wrong = self.guarded(lambda: self.add(composed))
        if wrong:
            yield self.result(wrong)
            return
        yield self.result(_note(self.say["reading"]), cleared=bool(composed), seed=options["seed"])
        text, picture, preview, shown_at = "", "", "", 0.0
        try:
            for event in self.session.run(until=until, **options):
                text = text + event.text if isinstance(event, TextDelta) else text
                if isinstance(event, ImageProgress):
                    if event.preview is not None:
                        preview = f'<img src="{data_uri(Image.from_array(np.asarray(event.preview)))}" alt="">'
                    picture = _progress(event, preview, self.say)
                if isinstance(event, ImageDone):
                    text = picture = preview = ""
                    yield self.result("")
                elif isinstance(event, Finished):
                    yield self.result(_ending(event, self.say))
                elif isinstance(event, ImageProgress) or time.monotonic() - shown_at > REFRESH:
                    shown_at = time.monotonic()
                    yield _growing(text, picture)
        except Exception as error:
            yield self.result(self.wrong(error))


def _options(pictures: float, seed: float, steps: float, guidance: float, temperature: float) -> dict[str, Any]:
    whole = {"max_images": int(pictures), "seed": int(seed or 0), "steps": int(steps), "preview_every": max(1, int(steps) // PREVIEWS)}
    return {**whole, "guidance": float(guidance), "temperature": float(temperature)}


def _growing(text: str, picture: str) -> Shown:
    """Shows growing words and the picture on the easel; the document above stays as it is."""
    words = f"<p>{html.escape(text.strip())}</p>" if text.strip() else ""
    return (gr.skip(), words + picture, "", *[gr.skip()] * 3)


def _progress(event: ImageProgress, preview: str, say: dict[str, str]) -> str:
    label = f"{say['painting']} {event.step}/{event.steps}"
    bar = f'<progress max="{event.steps}" value="{event.step}" aria-label="{label}"></progress>'
    return f"<figure>{preview}<figcaption>{label}</figcaption></figure>{bar}"


def _figure(image: Image, name: str, say: dict[str, str]) -> str:
    seed = "" if image.generation is None else f" · {say['seed_of']} {image.generation.seed}"
    alt = html.escape(image.alt or name, quote=True)
    return f'<figure><img src="{data_uri(image)}" alt="{alt}"><figcaption>{name}{seed}</figcaption></figure>'


def _ending(event: Finished, say: dict[str, str]) -> str:
    unknown = [f"{word.word} ({', '.join(word.nearest)})" if word.nearest else word.word for word in event.unknown_words]
    return _note(" ".join([say[event.reason], *([f"{say['unknown']} {'; '.join(unknown)}."] if unknown else [])]))


def _note(text: str) -> str:
    return f'<p role="status">{html.escape(text)}</p>'


def _head(say: dict[str, str]) -> str:
    return f"<h1>{say['title']}</h1><p>{say['hint']}</p>"


def _hint(text: str) -> str:
    return f"<p>{text}</p>"


def _starts(desk: Desk, language: Language) -> list[tuple[str, str]]:
    """What a document can start from: nothing, drafts, demonstrations; those in the language of the page come first."""
    say = words(language)
    drafts = [(f"{say['draft']} {time.strftime('%m-%d %H:%M', time.localtime(path.stat().st_mtime))}", str(path)) for path in desk.drafts()]
    shown = [(_last_line(path), str(path)) for path in desk.demonstrations]
    shown.sort(key=lambda named: (re.search(r"[\u4e00-\u9fff]", named[0]) is None) == (language == "zh"))
    return [(say["new"], ""), *drafts, *shown]


@cache
def _last_line(path: Path) -> str:
    return path.read_text(encoding="utf-8").strip().splitlines()[-1]


class _Policy:
    """Adds the content security policy to every answer."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def with_policy(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY.encode())]
            await send(message)

        await self.app(scope, receive, with_policy)
