"""The page: one document to write, see grow, change and save, in the browser of one user on this machine.

Nothing leaves the machine: no telemetry, no fonts from elsewhere, and a content security policy that makes the browser refuse
everything but this server.

Gradio draws the fields and takes the uploads. What is clicked or typed does not take its way of events, which may drop one that is made
while another ends, may let one overtake another, and come to nothing when a connection was broken: `page.js` puts everything into one
line and asks the server for one thing after another (`/act`). What is shown comes back on one stream per tab (`/shown`).
"""

from __future__ import annotations

import json
import re
import time
from asyncio import sleep, to_thread
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cache
from http import HTTPStatus
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Annotated, Any

import fastapi
import gradio as gr
from fastapi.responses import StreamingResponse
from gradio.utils import get_upload_folder

from mm_interleaved.picture_file import MAX_BYTES
from mm_interleaved.serving import drawing
from mm_interleaved.serving.labels import LANGUAGES, Language, words
from mm_interleaved.serving.session import Desk

POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:"
)
REFRESH = 0.1
"""Seconds between two looks at a document, to show what is new."""

TabName = Annotated[str, fastapi.Path(pattern="^[0-9a-f]{8}$")]


def app(desk: Desk, language: Language = "en") -> fastapi.FastAPI:
    """The page as a web application, to be served to this machine only."""
    desk.uploads = Path(get_upload_folder()).resolve()
    made = fastapi.FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @made.middleware("http")
    async def with_policy(request: fastapi.Request, answer: Callable[[fastapi.Request], Awaitable[fastapi.Response]]) -> fastapi.Response:
        response = await answer(request)
        response.headers["content-security-policy"] = POLICY
        return response

    @made.post("/act/{tab}/{act}")
    def act(tab: TabName, act: str, given: dict[str, Any]) -> bool:
        """Does what a tab asks for; whether it was done."""
        return desk.session(tab).ask(act, **given)

    @made.get("/shown/{tab}")
    def shown(tab: TabName) -> StreamingResponse:
        """What a tab shows, as events, for as long as it is open."""
        return StreamingResponse(_shown(desk, tab), media_type="text/event-stream")

    own = [gr.themes.Font(name) for name in ("system-ui", "Noto Sans", "sans-serif")]  # the reader's, none from elsewhere
    return gr.mount_gradio_app(
        made,
        build(desk, language),
        path="/",
        server_name="127.0.0.1",
        theme=gr.themes.Base(primary_hue="teal", neutral_hue="stone", font=own, font_mono=gr.themes.Font("monospace")),
        css=_file("page.css"),
        head=f"<script>{_file('page.js')}</script>",
        allowed_paths=[str(desk.folder.resolve())],
        max_file_size=MAX_BYTES,
        footer_links=[],
        ssr_mode=False,
        show_error=True,
        app_kwargs={"exception_handlers": {OSError: _storage_fault}},
    )


async def _shown(desk: Desk, tab: str) -> AsyncIterator[str]:
    """Whenever something is new: the parts of `drawing.shown` that differ from those before."""
    session, before, version = desk.session(tab), dict[str, Any](), -1
    try:
        yield "retry: 1000\n\n"
        while True:
            if version != session.version:
                now = await to_thread(drawing.shown, session)
                yield f"data: {json.dumps({part: value for part, value in now.items() if before.get(part) != value})}\n\n"
                before, version = now, now["version"]
            await sleep(REFRESH)
    finally:
        Thread(target=session.leave).start()  # not awaited: the server has given this stream up


async def _storage_fault(_: Any, error: Exception) -> fastapi.Response:
    """What an upload that cannot be stored, on a full disk for one, tells the browser: the page shows it."""
    return fastapi.Response(f"The upload was not stored ({error}). Make room and try again.", HTTPStatus.INSUFFICIENT_STORAGE)


def build(desk: Desk, language: Language = "en") -> gr.Blocks:
    """Lays the page out and joins it to `page.js`."""
    say = words(language)
    with gr.Blocks(title=say["title"], analytics_enabled=False, delete_cache=(3600, 24 * 3600)) as page:
        tongue = gr.Radio(list(LANGUAGES), value=language, label=say["language"], show_label=False, container=False, elem_id="tongue")
        head = gr.HTML(_head(say), elem_id="head")
        start = gr.Dropdown(_starts(desk, language), value="", label=say["start"], elem_id="start")
        document = gr.HTML(
            '<div id="sheet"></div><div id="growing"></div><div id="told"></div>',
            js_on_load="page.connect(element, trigger)",
            elem_id="document",
            apply_default_css=False,
        )
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
            hero_hint = gr.HTML(say["hero_hint"])
            with gr.Row():
                name = gr.Textbox(label=say["hero_name"], max_lines=1, elem_id="hero-name", scale=3)
                tell = gr.Button(say["hero_story"], elem_id="hero-story", scale=2)
        with gr.Accordion(say["settings"], open=False, elem_id="settings") as settings:
            pictures = gr.Slider(0, 8, value=3, step=1, label=say["pictures"])
            seed = gr.Number(0, precision=0, minimum=0, label=say["seed"], elem_id="seed")
            steps = gr.Slider(1, 50, value=20, step=1, label=say["steps"], elem_id="steps")
            guidance = gr.Slider(1, 8, value=2, step=0.5, label=say["guidance"])
            temperature = gr.Slider(0, 1.5, value=0, step=0.1, label=say["temperature"])

        settable: dict[str, Any] = {"language": tongue, "seed": seed, "steps": steps, "guidance": guidance, "temperature": temperature}
        buttons = {"continue": go, "stop": stop, "add": add, "save": save, "print": printed, "hero_story": tell}
        labels: dict[str, Any] = {"hero": hero, "hero_name": name, "settings": settings, "pictures": pictures, **settable}
        settable["max_images"] = pictures

        def relabelled(tongue: Language) -> list[Any]:
            say = words(tongue)
            starts = gr.update(choices=_starts(desk, tongue), label=say["start"])
            top = [_head(say), say["hero_hint"], starts, gr.update(placeholder=say["compose"])]
            return [*top, *[gr.update(value=say[key]) for key in buttons], *[gr.update(label=say[key]) for key in labels]]

        fields = list(settable.values())
        renamed = [head, hero_hint, start, composer, *buttons.values(), *labels.values()]
        # Without `trigger_mode` a choice that is made before the page has loaded would be dropped.
        gr.on([page.load, tongue.change], relabelled, tongue, renamed, queue=False, show_progress="hidden", trigger_mode="always_last")
        # What is done goes through `page.js`; Gradio only gathers what stands in its fields. A continuation takes the settings along: the
        # event of a field that has just been changed may come after the click.
        put = f"page.set({list(settable)}, values);"
        for triggers, inputs, output, js in (
            ([page.load, *(field.change for field in fields)], fields, None, f"(...values) => {{ {put} }}"),
            ([go.click], [composer, *fields], composer, f"(made, ...values) => {{ {put} return page.compose('go_on', made); }}"),
            (
                [tell.click],
                [composer, name, *fields],
                composer,
                f"(made, name, ...values) => {{ {put} return page.compose('begin_hero', made, {{ name }}); }}",
            ),
            ([add.click], composer, composer, "(made) => page.compose('add', made)"),
            ([document.submit], composer, composer, "page.refused"),
            ([stop.click], None, None, "() => { page.ask('stop'); }"),
            ([save.click], None, None, "() => { page.ask('save'); }"),
            ([start.input], start, None, "(start) => { page.ask('begin', { start }); }"),
            ([printed.click], None, None, "() => window.print()"),
        ):
            gr.on(triggers, None, inputs, output, js=js, trigger_mode="multiple")
    return page


def _file(name: str) -> str:
    return files("mm_interleaved.serving").joinpath(name).read_text(encoding="utf-8")


def _head(say: dict[str, str]) -> str:
    return f"<h1>{say['title']}</h1><p>{say['hint']}</p>"


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
