"""Continues documents at the command line, many at once: shows progress, writes each page when it is finished, keeps what was made when
it is interrupted, and leaves alone what was finished before."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from mm_interleaved.cli.console import Output
from mm_interleaved.document import Document
from mm_interleaved.errors import ConfigError, MMInterleavedError
from mm_interleaved.export.files import write_atomically

if TYPE_CHECKING:
    from mm_interleaved.generation.events import Event, Failed
    from mm_interleaved.generation.load import Model
    from mm_interleaved.generation.scheduler import Scheduler

FORMATS = ("html", "json", "md")
MARKS = ".mmi"
"""Folder below the output folder that keeps, for every finished document, what it was made from."""


DeviceOption = Annotated[
    str, typer.Option("--device", help="Where the model computes: auto (a GPU if torch can use one), cpu, cuda:1, mps.")
]


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


@dataclass(frozen=True, slots=True)
class FailedJob:
    """A document that could not be continued, or whose result could not be written."""

    name: str
    error: Exception


def load_quietly(path: Path | None, device: str = "cpu", **computing: Any) -> Model:
    """Loads the model without transformers' own bars and warnings among our lines; on a CPU this process keeps the memory it frees.

    Args:
        device: of `DeviceOption`.
        computing: of `load`: dtype, quantize, vae_tiling, adapter; only what differs from its defaults.

    Raises:
        CheckpointError: it is missing or cannot be read.
        BackendError: a package that this needs is missing.
        ConfigError: torch cannot use this device.
    """
    from transformers.utils import logging

    from mm_interleaved.generation import load
    from mm_interleaved.ops.freed_memory import keep_freed_memory

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    place = read_device(device)
    if place == "cpu":
        keep_freed_memory()
    return load.load(path, device=place, **computing)


def read_device(text: str) -> str:
    """Reads `--device`.

    Raises:
        ConfigError: torch cannot use it.
    """
    import torch

    if text == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(1, device=text)
    except (RuntimeError, AssertionError) as error:  # an AssertionError where torch was built without it
        raise ConfigError(f"--device: torch cannot use {text!r:.60} ({str(error).splitlines()[0]}); try auto, or cpu.") from error
    return text


def read_computing(dtype: str, *, quantize: str, vae_tiling: bool, adapter: Path | None) -> dict[str, Any]:
    """Reads `--dtype`, `--quantize`, `--vae-tiling` and `--adapter` into arguments of `load`, without those that are its defaults.

    Raises:
        ConfigError: an unknown dtype or number of bits.
    """
    import torch

    from mm_interleaved.checkpoint.quantized import FEW_BITS

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    if dtype not in known:
        raise ConfigError(f"--dtype: expected {' or '.join(known)}, got {dtype!r:.60}.")
    if quantize and quantize not in FEW_BITS:
        raise ConfigError(f"--quantize: expected {' or '.join(FEW_BITS)}, got {quantize!r:.60}.")
    given = {"dtype": known[dtype], "quantize": quantize, "vae_tiling": vae_tiling, "adapter": adapter}
    return {name: value for name, value in given.items() if value and value is not known["float32"]}


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
    """Names everything the result depends on: prompt, settings, weights and how they compute."""
    content = [job.document.to_json(), job.options, model.model_hash, model.form]
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

    Raises:
        MMInterleavedError: the prompt cannot be continued, or a file cannot be written.
    """
    (result,) = continue_many(model, [job], output, together=1)
    if isinstance(result, FailedJob):
        raise result.error
    return result


def continue_many(
    model: Model, jobs: Iterable[Job | FailedJob], output: Output, *, together: int, count: int | None = None, overwrite: bool = True
) -> Iterator[dict[str, Any] | FailedJob]:
    """Continues documents, `together` at a time, and gives the result of each as soon as its files are written.

    Jobs are taken one by one as places become free. Ctrl-C writes what was made so far of those in progress and is raised again.

    Args:
        jobs: documents; one that could not even be read comes as the failure that it is.
        count: how many jobs there are, for the progress bar; None is one.
        overwrite: make again what was finished before.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=output.progress, transient=True) as progress:
        batch = _Batch(model, model.scheduler(places=together), output, progress, progress.add_task("reading", total=count or 1))
        coming = iter(jobs)
        exhausted = False
        try:
            while True:
                while not exhausted and batch.scheduler.free:
                    job = next(coming, None)
                    if job is None:
                        exhausted = True
                    elif isinstance(job, FailedJob):
                        yield batch.done(job)
                    elif (made := None if overwrite else finished_before(model, job)) is not None:
                        yield batch.done(made)
                    else:
                        batch.begin(job)
                told = next(batch.events, None)
                if told is not None:
                    if (result := batch.tell(*told)) is not None:
                        yield batch.done(result)
                elif exhausted and batch.scheduler.idle:
                    return
                else:
                    batch.events = iter(batch.scheduler)
        finally:
            batch.keep_unfinished()


@dataclass(slots=True)
class _Work:
    """A job in progress."""

    job: Job
    started: float
    pictures: int = 0
    unknown_words: dict[str, list[str]] = field(default_factory=dict)


class _Batch:
    def __init__(self, model: Model, scheduler: Scheduler, output: Output, progress: Progress, bar: TaskID) -> None:
        self.scheduler = scheduler
        self.events: Iterator[tuple[Any, Event | Failed]] = iter(())
        self._model = model
        self._output = output
        self._progress = progress
        self._bar = bar
        self._working: dict[str, _Work] = {}

    def begin(self, job: Job) -> None:
        with suppress(OSError):  # a folder that cannot be written is reported when the result is
            job.mark.unlink()  # from here on, what stands there may be unfinished
        self._working[job.name] = _Work(job, time.perf_counter())
        self.scheduler.add(job.name, job.document, **job.options)

    def tell(self, name: str, event: Event | Failed) -> dict[str, Any] | FailedJob | None:
        """Shows an event; gives the result if it was the last one."""
        from mm_interleaved.generation.events import Failed, Finished, ImageDone, ImageProgress

        work = self._working[name]
        if isinstance(event, Failed):
            del self._working[name]
            with suppress(MMInterleavedError):  # the first error is the one to tell
                if len(event.document) > len(work.job.document):
                    self._write(work, event.document)
            return FailedJob(name, event.error)
        if isinstance(event, Finished):
            del self._working[name]
            work.unknown_words = {unknown.word: list(unknown.nearest) for unknown in event.unknown_words}
            try:
                self._write(work, event.document)
                return self._mark(work, event.document, event.reason)
            except MMInterleavedError as error:
                return FailedJob(name, error)
        if isinstance(event, ImageDone):
            work.pictures += 1
            seconds = time.perf_counter() - work.started
            self._progress.console.print(f"{name}: picture {work.pictures} after {seconds:.1f} s", markup=False)
        step = f", step {event.step} of {event.steps}" if isinstance(event, ImageProgress) else ""
        self._describe(name, step)
        return None

    def done(self, result: dict[str, Any] | FailedJob) -> dict[str, Any] | FailedJob:
        """One more job is done, well or not."""
        self._progress.advance(self._bar)
        return result

    def keep_unfinished(self) -> None:
        """Writes what was made of the documents in progress, marked as interrupted; nothing if there are none."""
        documents = self.scheduler.documents
        for name, work in self._working.items():
            document = documents.get(name)
            if document is not None and len(document) > len(work.job.document):
                self._write(work, document)
                self._mark(work, document, "interrupted")

    def _describe(self, name: str, step: str) -> None:
        if len(self._working) == 1:
            work = self._working[name]
            text = f"{name}: painting {work.pictures + 1}{step}" if step else f"{name}: writing"
        else:
            activities = self.scheduler.activities
            text = ", ".join(f"{count} {activity}" for activity, count in activities.items() if count and activity != "waiting")
        self._progress.update(self._bar, description=text)

    def _write(self, work: _Work, document: Document) -> None:
        for file in work.job.files.values():
            document.save(file)

    def _mark(self, work: _Work, document: Document, reason: str) -> dict[str, Any]:
        job = work.job
        result = {
            "name": job.name,
            "files": {form: str(file) for form, file in job.files.items()},
            "pictures": work.pictures,
            "picture_hashes": [image.sha256 for image in document.images if image.origin == "generated"],
            "reason": reason,
            "unknown_words": work.unknown_words,
            "seconds": round(time.perf_counter() - work.started, 3),
            "skipped": False,
        }
        if reason != "interrupted":
            mark = {"fingerprint": fingerprint(self._model, job), "result": result}
            write_atomically(job.mark, json.dumps(mark, ensure_ascii=False).encode())
        return result


def tell(result: dict[str, Any], output: Output) -> None:
    """One result for people: where it lies, how it ended, which words the model does not know."""
    files = ", ".join(result["files"].values())
    note = "made before, skipped" if result["skipped"] else f"{result['pictures']} pictures, {result['seconds']:.1f} s, {result['reason']}"
    output.say(f"{result['name']}: {files} ({note})")
    for word, nearest in result["unknown_words"].items():
        offer = f"; near it: {', '.join(nearest)}" if nearest else ""
        output.say(f"  the model never learnt {word!r}{offer}")
