"""How long the page makes people wait: `python benchmarks/page.py` prints one JSON object, seconds in a real Chromium.

From the click on Continue to the first word and to the first finished picture that the browser shows, with the model in the box on two
threads. `first_…` is the first click after the server began, when nothing was computed yet; every click has a fresh tab. Needs the extra
`page`, playwright and a chromium on the path.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import threading
from pathlib import Path

import torch
import uvicorn
from measuring import report
from playwright.sync_api import Page, sync_playwright

from mm_interleaved.cli.page import bind
from mm_interleaved.generation.load import load
from mm_interleaved.serving.page import app
from mm_interleaved.serving.session import Desk

PROMPT = "tell a story: a 3D camel travels to a castle."
WATCH = """() => {
  const seen = window.seen = {}, note = (name) => { if (!(name in seen)) seen[name] = performance.now(); };
  document.querySelector("#continue").addEventListener("click", () => note("click"), { once: true, capture: true });
  const before = document.querySelectorAll(".made img").length;
  new MutationObserver((_, watcher) => {
    if (document.querySelector("#growing p")?.textContent.trim()) note("word");
    if (document.querySelectorAll(".made img").length > before) { note("picture"); watcher.disconnect(); }
  }).observe(document.body, { childList: true, subtree: true, characterData: true });
}"""


def wait_for_story(page: Page) -> dict[str, float]:
    """Writes the prompt, clicks, and gives the seconds until a word and until a picture stood there; then stops."""
    page.fill("#composer textarea", PROMPT)
    page.evaluate(WATCH)
    page.click("#continue")
    page.wait_for_function("'picture' in window.seen", timeout=120_000)
    page.click("#stop")
    page.locator("#told p").wait_for()
    seen = page.evaluate("window.seen")
    return {name: (seen[name] - seen["click"]) / 1000 for name in ("word", "picture")}


def main() -> None:
    """Parses, serves, measures, prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    torch.set_num_threads(2)
    taken = bind(0)
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        server = uvicorn.Server(uvicorn.Config(app(Desk(load(), Path(folder))), log_level="warning"))
        threading.Thread(target=server.run, kwargs={"sockets": [taken]}, daemon=True).start()
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        found = []
        for _ in range(repeats):
            page = browser.new_page()
            page.goto(f"http://127.0.0.1:{taken.getsockname()[1]}/")
            page.locator("#composer textarea").wait_for()
            page.wait_for_timeout(1000)
            found.append(wait_for_story(page))
            page.close()
        browser.close()
        server.should_exit = True
    row = {"case": "page", "repeats": repeats, "threads": torch.get_num_threads()}
    for name in ("word", "picture"):
        seconds = [one[name] for one in found]
        row |= {f"first_{name}": seconds[0], f"median_{name}": statistics.median(seconds), f"worst_{name}": max(seconds)}
    report(row)


if __name__ == "__main__":
    main()
