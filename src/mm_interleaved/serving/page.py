"""The page: one document to write, see grow, change and save, in the browser of one user on this machine.

Gradio draws it; what it does is `tab.py`. Nothing leaves the machine: no telemetry, no fonts from elsewhere, and a content security
policy that makes the browser refuse everything but this server.

What is clicked or typed does not take Gradio's way of events, which may drop one that is made while another ends, and may let one
overtake another: `page.js` puts everything into one line and asks the server for one thing after another. What is shown comes back
through one event per tab that lasts as long as the tab.
"""

from __future__ import annotations

import re
import time
from asyncio import sleep, to_thread
from collections.abc import AsyncIterator
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from typing import Any

import fastapi
import gradio as gr
from gradio.utils import get_upload_folder

from mm_interleaved.picture_file import MAX_BYTES
from mm_interleaved.serving.labels import LANGUAGES, Language, words
from mm_interleaved.serving.session import Desk
from mm_interleaved.serving.tab import Tab

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
CONNECT = """page.connect({ element, props, server, watch, again: () => trigger("click"), refused: () => trigger("submit") });"""
REFRESH = 0.1
"""Seconds between two looks at a document, to show what is new."""


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
        css=_file("page.css"),
        head=f"<script>{_file('page.js')}</script>",
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
    """Lays the page out and joins it to its tabs."""
    say = words(language)
    tabs: dict[str, Tab] = {}

    def act(asked: dict[str, Any]) -> bool | None:
        """Does what a tab asks for: whether it was done; None if the tab is not known any more."""
        tab = tabs.get(asked["tab"])
        return None if tab is None else tab.ask(asked)

    with gr.Blocks(title=say["title"], analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        tongue = gr.Radio(list(LANGUAGES), value=language, label=say["language"], show_label=False, container=False, elem_id="tongue")
        head = gr.HTML(_head(say), elem_id="head")
        start = gr.Dropdown(_starts(desk, language), value="", label=say["start"], elem_id="start")
        document = gr.HTML("", html_template=" ", js_on_load=CONNECT, server_functions=[act], elem_id="document", apply_default_css=False)
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

        def joined(request: gr.Request, tongue: Language) -> Tab:
            key = str(request.session_hash)
            return tabs.setdefault(key, Tab(desk.session(key), tongue, Path(get_upload_folder()).resolve()))

        async def shown(request: gr.Request, tongue: Language) -> AsyncIterator[tuple[Any, ...]]:
            """The tab from its beginning to its end: all that is new on it, in the order it became so."""
            tab, key, moment, before = joined(request, tongue), str(request.session_hash), None, ("", "", "")
            yield gr.update(choices=_starts(desk, tab.language)), f'<div data-tab="{key}"></div>', "", ""
            while key in tabs and key in desk.sessions:
                if moment != (moment := tab.moment()):
                    after = await to_thread(tab.shown)
                    yield gr.skip(), *[gr.skip() if new == old else new for new, old in zip(after, before, strict=True)]
                    before = after
                await sleep(REFRESH)

        def relabelled(request: gr.Request, tongue: Language) -> tuple[Any, ...]:
            joined(request, tongue).language = tongue
            say = words(tongue)
            named = [gr.Button(say[key]) for key in buttons]
            labelled = [gr.update(label=say[key]) for key in labels]
            top = (_head(say), gr.update(choices=_starts(desk, tongue), label=say["start"]), _hint(say["hero_hint"]))
            return (*top, gr.update(placeholder=say["compose"]), *named, *labelled)

        def left(request: gr.Request) -> None:
            tabs.pop(str(request.session_hash), None)
            desk.leave(str(request.session_hash))

        settable = {"pictures": pictures, "seed": seed, "steps": steps, "guidance": guidance, "temperature": temperature}
        buttons = {"continue": go, "stop": stop, "add": add, "save": save, "print": printed, "hero_story": tell}
        labels: dict[str, Any] = {"language": tongue, "hero": hero, "hero_name": name, "settings": settings, **settable}
        options = f"{{ options: page.options({list(settable)}, values) }}"
        page.load(shown, tongue, [start, document, live, status], show_progress="hidden", concurrency_limit=None)
        # What is done goes through `page.js`; Gradio only gathers what stands in its components.
        values = list(settable.values())
        for source, inputs, output, js in (
            (go.click, [composer, *values], composer, f"(made, ...values) => page.compose('continue', made, {options})"),
            (add.click, composer, composer, "(made) => page.compose('add', made)"),
            (
                tell.click,
                [composer, name, *values],
                composer,
                f"(made, name, ...values) => page.compose('hero', made, {{ name, ...{options} }})",
            ),
            (document.submit, composer, composer, "(made) => page.refused(made)"),
            (document.click, values, None, f"(...values) => page.again({options})"),
            (stop.click, None, None, "() => { page.ask('stop'); }"),
            (save.click, None, None, "() => { page.ask('save'); }"),
            (start.input, start, None, "(start) => { page.ask('begin', { start }); }"),
            (printed.click, None, None, "() => window.print()"),
        ):
            source(None, inputs, output, js=js)
        renamed = [head, start, hero_hint, composer, *buttons.values(), *labels.values()]
        tongue.change(relabelled, tongue, renamed, queue=False, show_progress="hidden")
        page.unload(left)
    return page


def _file(name: str) -> str:
    return files("mm_interleaved.serving").joinpath(name).read_text(encoding="utf-8")


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
