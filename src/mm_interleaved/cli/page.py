"""`mmi page`: the page in the browser, for one user on this machine."""

from __future__ import annotations

import os
import socket
import sys
import webbrowser
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from threading import Timer
from typing import TYPE_CHECKING, Annotated

import typer

from mm_interleaved.cli.console import JsonOption, Output
from mm_interleaved.cli.continuing import DeviceOption, load_quietly
from mm_interleaved.cli.prompts import EXAMPLES, SHOWN
from mm_interleaved.errors import ConfigError

if TYPE_CHECKING:
    from mm_interleaved.generation.load import Model
    from mm_interleaved.serving.labels import Language

HOST = "127.0.0.1"


def page(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder where documents are saved and kept.")] = Path("out/page"),
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on this machine; 0 takes a free one.")] = 7860,
    language: Annotated[str, typer.Option(help="Language of the page at first: en or zh.")] = "en",
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show it in a browser, if there is a screen.")] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Write, paste pictures, see the model go on, change and save, in the browser. Ctrl-C ends it; documents are kept."""
    output = Output(as_json=as_json)
    if language not in ("en", "zh"):
        raise ConfigError(f"--language: expected en or zh, got {language!r}.")
    if find_spec("gradio") is None:
        raise ConfigError("the page needs Gradio, which is not installed; install it: pip install 'mm-interleaved[page]'.")
    taken = bind(port)
    output.progress.print("loading the model …")
    serve(load_quietly(model, device), out, taken, language="zh" if language == "zh" else "en", open_page=open_page, output=output)


def serve(model: Model, out: Path, taken: socket.socket, *, language: Language, open_page: bool, output: Output) -> None:
    """Serves the page to this machine, at a socket of `bind`, until Ctrl-C."""
    import uvicorn

    from mm_interleaved.serving.page import app
    from mm_interleaved.serving.session import Desk

    others = sorted(path for path in EXAMPLES.glob("*.md") if path.stem not in SHOWN)
    address = f"http://{HOST}:{taken.getsockname()[1]}/"
    served = app(Desk(model, out, [*(EXAMPLES / f"{name}.md" for name in SHOWN), *others]), language)
    output.say(f"the page is at {address}; documents go to {out}; Ctrl-C ends it")
    output.result({"address": address, "folder": str(out)})
    if open_page and has_screen():
        Timer(1.0, webbrowser.open, [address]).start()
    server = uvicorn.Server(uvicorn.Config(served, log_level="warning", timeout_graceful_shutdown=3))
    with suppress(KeyboardInterrupt):  # the way to end it
        server.run(sockets=[taken])


def has_screen() -> bool:
    """Whether a person sits here and a browser could show them something."""
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY") or sys.platform in ("darwin", "win32")
    return bool(screen) and sys.stdout.isatty()


def bind(port: int) -> socket.socket:
    """A listening socket of this machine alone; a browser that comes before the server is up waits instead of being refused.

    Raises:
        ConfigError: the port is taken or not allowed.
    """
    found = socket.socket()
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((HOST, port))
        found.listen()
    except OSError as error:
        raise ConfigError(f"--port: {port} cannot be used ({error.strerror}); choose another, or 0 for a free one.") from error
    return found
