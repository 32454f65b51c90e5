"""Continues one document at the command line: shows progress, writes the pages, keeps what was made when it is interrupted."""

from __future__ import annotations

import hashlib
import json
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from mm_interleaved.cli.console import Output
from mm_interleaved.document import Document
from mm_interleaved.errors import ConfigError
from mm_interleaved.export.files import write_atomically

if TYPE_CHECKING:
    from mm_interleaved.generation.load import Model

FORMATS = ("html", "json", "md")
MARKS = ".mmi"
"""Folder below the output folder that keeps, for every finished document, what it was made from."""


@dataclass(frozen=True, slots=True)
class Job:
    """One document to be continued and where the result goes."""

    name: str
    document: Document
    folder: Path
    formats: tuple[str, ...]
    options: dict[str, Any]

    @property
    def files(self) -> dict[str, Path]:
        """Format → file."""
        return {form: self.folder / f"{self.name}.{form}" for form in self.formats}

    @property
    def mark(self) -> Path:
        """Written last: says that the files are complete and what they were made from."""
        return self.folder / MARKS / f"{self.name}.json"


def load_quietly(path: Path | None, adapter: Path | None = None) -> Model:
    """Loads the model without transformers' own bars and warnings among our lines.

    Raises:
        CheckpointError: it is missing or cannot be read.
    """
    from transformers.utils import logging

    from mm_interleaved.generation import load

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    return load.load(path) if adapter is None else load.load(path, adapter=adapter)


def read_formats(text: str) -> tuple[str, ...]:
    """Reads `--format html,json`.

    Raises:
        ConfigError: an unknown format, or none.
    """
    formats = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    unknown = [form for form in formats if form not in FORMATS]
    if unknown or not formats:
        raise ConfigError(f"--format: expected some of {', '.join(FORMATS)}, separated by commas, got {text!r}.")
    return formats


def fingerprint(model: Model, job: Job) -> str:
    """Names everything the result depends on: prompt, settings, weights."""
    content = [job.document.to_json(), job.options, model.model_hash]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def finished_before(model: Model, job: Job) -> dict[str, Any] | None:
    """The result of an earlier run with the same prompt, settings and weights, if all its files still stand there."""
    try:
        mark = json.loads(job.mark.read_text(encoding="utf-8"))
        same = mark["fingerprint"] == fingerprint(model, job) and all(file.is_file() for file in job.files.values())
        return {**mark["result"], "skipped": True} if same else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def continue_one(model: Model, job: Job, output: Output) -> dict[str, Any]:
    """Continues and writes one document; returns what `--json` tells of it.

    Ctrl-C writes what was made so far, marked as interrupted, and is raised again.

    Raises:
        MMInterleavedError: the prompt cannot be continued, or a file cannot be written.
    """
    from mm_interleaved.generation.events import Finished, ImageDone, ImageProgress, TextDelta

    started = time.perf_counter()
    with suppress(OSError):  # a folder that cannot be written is reported when the result is
        job.mark.unlink()  # from here on, what stands there may be unfinished
    run = model.stream(job.document, **job.options)
    reason = "interrupted"
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    painted = 0
    try:
        with Progress(*columns, console=output.progress, transient=True) as progress:
            shown = progress.add_task(f"{job.name}: reading", total=None)
            for event in run:
                if isinstance(event, TextDelta):
                    progress.update(shown, description=f"{job.name}: writing", total=None)
                elif isinstance(event, ImageProgress):
                    progress.update(shown, description=f"{job.name}: painting {painted + 1}", total=event.steps, completed=event.step)
                elif isinstance(event, ImageDone):
                    painted += 1
                    output.progress.print(f"{job.name}: picture {painted} after {time.perf_counter() - started:.1f} s", markup=False)
                elif isinstance(event, Finished):
                    reason = event.reason
    finally:
        # An interrupt or an error in the middle leaves here too: what was made is written.
        if reason != "interrupted" or len(run.document) > len(job.document):
            for file in job.files.values():
                run.document.save(file)
    result = {
        "name": job.name,
        "files": {form: str(file) for form, file in job.files.items()},
        "pictures": painted,
        "picture_hashes": [image.sha256 for image in run.document.images if image.origin == "generated"],
        "reason": reason,
        "unknown_words": {unknown.word: list(unknown.nearest) for unknown in run.unknown_words},
        "seconds": round(time.perf_counter() - started, 3),
        "skipped": False,
    }
    write_atomically(job.mark, json.dumps({"fingerprint": fingerprint(model, job), "result": result}, ensure_ascii=False).encode())
    return result


def tell(result: dict[str, Any], output: Output) -> None:
    """One result for people: where it lies, how it ended, which words the model does not know."""
    files = ", ".join(result["files"].values())
    note = "made before, skipped" if result["skipped"] else f"{result['pictures']} pictures, {result['seconds']:.1f} s, {result['reason']}"
    output.say(f"{result['name']}: {files} ({note})")
    for word, nearest in result["unknown_words"].items():
        offer = f"; near it: {', '.join(nearest)}" if nearest else ""
        output.say(f"  the model never learnt {word!r}{offer}")
