"""The page: one document to write, see grow, change and save, in the browser of one user on this machine.

Gradio draws it; what it does is `session.py`. Nothing leaves the machine: no telemetry, no fonts from elsewhere, and a content
security policy that makes the browser refuse everything but this server.
"""

from __future__ import annotations

import html
import re
import time
from collections.abc import Callable, Iterator
from functools import cache
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
"""What every action gives back: growing words and picture, message, composer, revision of the document, seed, saved files."""


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
    )


def build(desk: Desk, language: Language = "en") -> gr.Blocks:
    """Lays the page out and joins it to the sessions of its tabs."""
    say = words(language)
    with gr.Blocks(title=say["title"], analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        revision = gr.State(0)
        tongue = gr.Radio(list(LANGUAGES), value=language, label=say["language"], show_label=False, container=False, elem_id="tongue")
        head = gr.HTML(_head(say), elem_id="head")
        start = gr.Dropdown(_starts(desk, language), value="", label=say["start"], elem_id="start")
        with gr.Column(elem_id="document"):

            @gr.render(inputs=[tongue], triggers=[page.load, revision.change, tongue.change], show_progress="hidden")
            def document(tongue: Language, request: gr.Request) -> None:
                session, say, number = desk.session(str(request.session_hash)), words(tongue), 0
                for index, segment in enumerate(session.whole):
                    number += isinstance(segment, Image)
                    _segment(session, index, f"{say['picture']} {number}", say, joined, again, change, status)

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

        asked = [tongue, composer, pictures, seed, steps, guidance, temperature]
        shown = [live, status, composer, revision, seed, saved]

        def joined(button: gr.Button, act: Callable[..., Any]) -> None:
            """A click acts with all settings, and its result is shown."""
            button.click(act, asked, shown, show_progress="hidden", concurrency_limit=None)

        def again(session: Session, *, until: int | None, redraw: bool) -> Callable[..., Iterator[Shown]]:
            """Continues, with what stands in the composer added first unless something is drawn or written again."""

            def act(tongue: Language, composed: Any, *values: float) -> Iterator[Shown]:
                options = _options(*values)
                if redraw and until is not None:
                    options |= {"seed": session.seed_of_next_roll(until), "force_image": True}
                    options["max_images"] = max(1, options["max_images"])
                yield from _told(session, words(tongue), None if until is not None else composed, until, options)

            return act

        def change(session: Session, alter: Callable[[], None]) -> Callable[..., Shown]:
            """Changes the document; the message says what is wrong."""

            def act(tongue: Language, *_: Any) -> Shown:
                return _result(_guarded(alter, words(tongue)))

            return act

        def continued(request: gr.Request, tongue: Language, composed: Any, *values: float) -> Iterator[Shown]:
            yield from again(desk.session(str(request.session_hash)), until=None, redraw=False)(tongue, composed, *values)

        def added(request: gr.Request, tongue: Language, composed: Any, *_: float) -> Shown:
            session = desk.session(str(request.session_hash))
            wrong = _guarded(lambda: _add(session, composed), words(tongue))
            return _result(wrong, cleared=not wrong)

        def stopped(request: gr.Request) -> None:
            desk.session(str(request.session_hash)).stop()

        def stored(request: gr.Request, tongue: Language, *_: Any) -> Shown:
            made: list[Path] = []
            say = words(tongue)
            wrong = _guarded(lambda: made.extend(desk.session(str(request.session_hash)).save()), say)
            if wrong:
                return _result(wrong)
            told = _note(f"{say['saved']} {desk.folder}: {', '.join(path.name for path in made)}")
            return _result(told, files=gr.Files([str(path) for path in made], visible=True))

        def begun(start: str, tongue: Language, request: gr.Request) -> Shown:
            session = desk.session(str(request.session_hash))
            return _result(_guarded(lambda: session.begin(Path(start) if start else None), words(tongue)))

        def told(request: gr.Request, name: str, tongue: Language, composed: Any, *values: float) -> Iterator[Shown]:
            session, say = desk.session(str(request.session_hash)), words(tongue)
            picture = next(iter((composed or {}).get("files") or []), None)
            wrong = _guarded(lambda: session.begin_hero(picture, name, (say["hero_before"], say["hero_behind"])), say)
            yield _result(wrong, cleared=not wrong)
            if not wrong:
                yield from _told(session, say, None, None, _options(*values))

        def relabelled(tongue: Language) -> tuple[Any, ...]:
            say = words(tongue)
            named = [gr.Button(say[key]) for key in buttons]
            labelled = [gr.update(label=say[key]) for key in labels]
            top = (_head(say), gr.update(choices=_starts(desk, tongue), label=say["start"]), _hint(say["hero_hint"]))
            return (*top, gr.update(placeholder=say["compose"]), *named, *labelled)

        buttons = {"continue": go, "stop": stop, "add": add, "save": save, "print": printed, "hero_story": tell}
        labels = {"language": tongue, "hero": hero, "hero_name": name, "files": saved, "settings": settings, "pictures": pictures}
        labels |= {"seed": seed, "steps": steps, "guidance": guidance, "temperature": temperature}
        page.load(lambda tongue: gr.update(choices=_starts(desk, tongue)), tongue, start, show_progress="hidden")
        joined(go, continued)
        joined(add, added)
        joined(save, stored)
        stop.click(stopped, show_progress="hidden", concurrency_limit=None, queue=False)
        printed.click(None, js="() => window.print()")
        start.input(begun, [start, tongue], shown, show_progress="hidden")
        tell.click(told, [name, *asked], shown, show_progress="hidden", concurrency_limit=None)
        renamed = [head, start, hero_hint, composer, *buttons.values(), *labels.values()]
        tongue.change(relabelled, tongue, renamed, show_progress="hidden")

        def left(request: gr.Request) -> None:
            desk.leave(str(request.session_hash))

        page.unload(left)
    return page


def _segment(session: Session, index: int, name: str, say: dict[str, str], joined: Any, again: Any, change: Any, status: gr.HTML) -> None:
    """One text, or one picture with its name, of the document, with what can be done to it."""
    segment = session.document[index]
    made = segment.origin == "generated"
    with gr.Column(elem_classes=["segment", "made" if made else "given"]):
        if isinstance(segment, Text):
            label = f"{say['paragraph']} {index + 1}"
            box = gr.Textbox(segment.text.strip(), label=label, show_label=False, container=False, lines=1, max_lines=200, interactive=True)

            def edited(text: str) -> str:
                return _guarded(lambda: session.edit(index, text), say)

            # `input` comes with keys only, not with pasted words or those of an input method for Chinese: `blur` brings these.
            for left in (box.input, box.blur):
                left(edited, box, status, show_progress="hidden", trigger_mode="always_last", concurrency_limit=None)
        else:
            gr.HTML(_figure(segment, name, say))
        with gr.Row(elem_classes=["tools"]):
            if isinstance(segment, Image) and made:
                joined(gr.Button(say["reroll"], size="sm"), again(session, until=index, redraw=True))
            joined(gr.Button(say["from_here"], size="sm"), again(session, until=index + 1, redraw=False))
            if index > 0:
                joined(gr.Button(say["up"], size="sm"), change(session, lambda: session.up(index)))
            joined(gr.Button(say["remove"], size="sm"), change(session, lambda: session.remove(index)))


def _told(session: Session, say: dict[str, str], composed: Any, until: int | None, options: dict[str, Any]) -> Iterator[Shown]:
    """Adds what was composed, continues, and shows every event."""
    wrong = _guarded(lambda: _add(session, composed), say)
    if wrong:
        yield _result(wrong)
        return
    yield _result(_note(say["reading"]), cleared=bool(composed), seed=options["seed"])
    text, picture, preview, shown_at = "", "", "", 0.0
    try:
        for event in session.run(until=until, **options):
            text = text + event.text if isinstance(event, TextDelta) else text
            if isinstance(event, ImageProgress):
                if event.preview is not None:
                    preview = f'<img src="{data_uri(Image.from_array(np.asarray(event.preview)))}" alt="">'
                picture = _progress(event, preview, say)
            if isinstance(event, ImageDone):
                text = picture = preview = ""
                yield _result("")
            elif isinstance(event, Finished):
                yield _result(_ending(event, say))
            elif isinstance(event, ImageProgress) or time.monotonic() - shown_at > REFRESH:
                shown_at = time.monotonic()
                yield _growing(text, picture)
    except Exception as error:
        yield _result(_wrong(error, say))


def _add(session: Session, composed: Any) -> None:
    if composed:
        session.add(composed.get("text") or "", list(composed.get("files") or []))


def _options(pictures: float, seed: float, steps: float, guidance: float, temperature: float) -> dict[str, Any]:
    whole = {"max_images": int(pictures), "seed": int(seed or 0), "steps": int(steps), "preview_every": max(1, int(steps) // PREVIEWS)}
    return {**whole, "guidance": float(guidance), "temperature": float(temperature)}


def _guarded(action: Callable[[], Any], say: dict[str, str]) -> str:
    """Does it; the message if it failed, else nothing."""
    try:
        action()
    except Exception as error:
        return _wrong(error, say)
    return ""


def _wrong(error: Exception, say: dict[str, str]) -> str:
    told = str(error) if isinstance(error, MMInterleavedError) else f"{say['fault']} ({type(error).__name__}: {error})"
    return f'<p class="wrong" role="alert">{html.escape(told)}</p>'


def _result(message: str, *, cleared: bool = False, seed: int | None = None, files: gr.Files | None = None) -> Shown:
    """Shows the document as it stands now, nothing growing, and a message; `cleared` empties the composer."""
    others = [gr.skip() if value is None else value for value in (seed, files)]
    return ("", message, {"text": "", "files": []} if cleared else gr.skip(), time.monotonic_ns(), *others)


def _growing(text: str, picture: str) -> Shown:
    """Shows growing words and the picture on the easel; the document above stays as it is."""
    words = f"<p>{html.escape(text.strip())}</p>" if text.strip() else ""
    return (words + picture, "", *[gr.skip()] * 4)


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
