"""`mmi page`: the page in the browser, for one user on this machine."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from pathlib import Path
from threading import Timer
from typing import Annotated

import typer

from mm_interleaved.cli.console import JsonOption, Output
from mm_interleaved.cli.continuing import load_quietly
from mm_interleaved.errors import ConfigError

HOST = "127.0.0.1"


def page(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder where documents are saved and kept.")] = Path("out/page"),
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 7860,
    language: Annotated[str, typer.Option(help="Language of the page at first: en or zh.")] = "en",
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show it in a browser, if there is a screen.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write, paste pictures, see the model go on, change and save, in the browser. Ctrl-C ends it; documents are kept."""
    output = Output(as_json=as_json)
    if language not in ("en", "zh"):
        raise ConfigError(f"--language: expected en or zh, got {language!r}.")
    try:
        import uvicorn

        from mm_interleaved.serving.page import app
    except ModuleNotFoundError as error:
        raise ConfigError(f"the page needs Gradio ({error.name} is missing); install it: pip install 'mm-interleaved[page]'.") from error
    taken = _bind(port)
    address = f"http://{HOST}:{taken.getsockname()[1]}/"
    output.progress.print("loading the model …")
    served = app(load_quietly(model), out, "zh" if language == "zh" else "en")
    output.say(f"the page is at {address}; documents go to {out}; Ctrl-C ends it")
    output.result({"address": address, "folder": str(out)})
    if open_page and has_screen():
        Timer(1.0, webbrowser.open, [address]).start()
    server = uvicorn.Server(uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=3))
    server.run(sockets=[taken])


def has_screen() -> bool:
    """Whether a browser could show something here."""
    return bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in ("darwin", "win32"))


def _bind(port: int) -> socket.socket:
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()  # a browser that comes early waits instead of being refused
    except OSError as error:
        raise ConfigError(f"--port: {port} cannot be used ({error.strerror}); choose another, or 0 for a free one.") from error
    return found
