"""`mmi demo`: continues the example prompts on the model in the box."""

from __future__ import annotations

import time
import webbrowser
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from mm_interleaved.cli.console import JsonOption, Output
from mm_interleaved.cli.continuing import DeviceOption, Job, continue_one, load_quietly, tell
from mm_interleaved.cli.page import bind, has_screen, serve
from mm_interleaved.cli.prompts import EXAMPLES, SHOWN
from mm_interleaved.document import Document


def demo(
    out: Annotated[Path, typer.Option("--output", "-o", help="Folder for the pages.")] = Path("out"),
    seed: Annotated[int, typer.Option(help="Seed of everything random; another seed gives other pictures.")] = 0,
    model: Annotated[Path | None, typer.Option(help="Folder of a checkpoint; by default the model in the box.")] = None,
    steps: Annotated[int, typer.Option(help="Denoising steps of a picture.")] = 20,
    open_page: Annotated[
        bool, typer.Option("--open/--no-open", help="Then open 'mmi page', to write documents of your own, if there is a screen.")
    ] = True,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Continue a few example prompts with words and pictures, say where the pages lie, and open a page to write in."""
    output = Output(as_json=as_json)
    started = time.perf_counter()
    output.progress.print("loading the model …")
    loaded = load_quietly(model, device)
    results = []
    for name in SHOWN:
        document = Document.load(EXAMPLES / f"{name}.md")
        options = {"seed": seed, "steps": steps, "max_images": 4, "max_tokens": 160}
        job = Job(name, document, out, ("html", "json"), options)
        results.append(continue_one(loaded, job, output))
        tell(results[-1], output)
    seconds = time.perf_counter() - started
    pictures = sum(result["pictures"] for result in results)
    output.say(f"{pictures} pictures in {len(results)} pages, {seconds:.1f} s; open {results[0]['files']['html']}")
    output.result({"documents": results, "pictures": pictures, "seconds": round(seconds, 3), "model_hash": loaded.model_hash, "seed": seed})
    if open_page and not as_json and has_screen():
        if find_spec("gradio") is not None:
            serve(loaded, out / "page", bind(0), language="en", open_page=True, output=output)
        else:
            output.say("to write documents of your own in the browser: pip install 'mm-interleaved[page]', then mmi page")
            webbrowser.open(Path(results[0]["files"]["html"]).resolve().as_uri())
