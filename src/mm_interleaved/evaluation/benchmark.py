"""Runs a benchmark of `tasks` on a model: item by item, resumable, divided over processes; the protocol is written beside the figures.

`ours` decodes greedily through the engine. `published` uses the release's prompts, search, answer extraction, sampler and choice among
candidates, whichever model it is.

    OUT/samples*.jsonl   one line per finished item, after a first line with the protocol
    OUT/pictures/        what was painted
    OUT/results.json     the figures, results.csv the same; OUT/protocol.json what decided them; OUT/report.html
    OUT/items.json       each item's name, fingerprint of what was asked, and own scores, for `mmi evaluate compare`
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mm_interleaved.data.seeds import key
from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import MMInterleavedError
from mm_interleaved.evaluation.benchmark_report import write_benchmark_report
from mm_interleaved.evaluation.candidates import FIRST_SEEDS, released_painter
from mm_interleaved.evaluation.making import GREY
from mm_interleaved.evaluation.painting import (
    Instruments,
    Painted,
    Painter,
    check_pictures,
    figures,
    paint,
    painter,
    picture_file,
    unmeasured,
)
from mm_interleaved.evaluation.playground import PICTURES, REPORT, software, write_figures
from mm_interleaved.evaluation.results import FIELDS, Row, interval
from mm_interleaved.evaluation.scoring import mean
from mm_interleaved.evaluation.store import WHOLE, Part, Store
from mm_interleaved.evaluation.tasks.files import Files
from mm_interleaved.evaluation.tasks.task import Item, Task, Whole
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.load import Model
from mm_interleaved.generation.published import generate_texts

PROTOCOLS = ("ours", "published")
"""How items are asked and answers are read."""

FORMAT = 3
"""Raised when outcomes or metrics change their meaning."""

ITEMS = "items.json"
"""The items' own scores."""

NO_INSTRUMENTS = Instruments()
"""Of benchmarks that paint nothing."""


def evaluate_benchmark(
    model: Model,
    task: Task,
    files: Files,
    out: Path,
    *,
    protocol: str = "ours",
    count: int | None = None,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 2.0,
    blind: bool = True,
    instruments: Instruments = NO_INSTRUMENTS,
    part: Part = WHOLE,
    told: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Makes what is missing of a benchmark's items, then scores all of them.

    Args:
        count: only so many first items; None takes all.
        seed: of the noise and the bootstrap.
        steps: denoising steps of a picture under `ours`.
        guidance: scale of classifier-free guidance under `ours`.
        blind: also with grey pictures instead of the given ones.
        instruments: the user's networks, for pictures.
        part: which share of the items to make; anything but the whole is not scored.
        told: called after every item.

    Returns:
        `results` as in results.json, and the protocol; nothing of them for a part.

    Raises:
        ConfigError: no network that compares pictures, a painted benchmark that the release came without settings for or whose candidates
            no CLIP can choose among (`published`), or the folder holds an evaluation with other settings.
        DataError: the annotations are of another form or year.
        BackendError: an optional package of a metric is missing.
    """
    paints = task.kind == "picture"
    missing = unmeasured(task, instruments) if paints else task.unmeasured()
    released = paints and protocol == "published"
    painted: Painter = released_painter(model, task, instruments.clip) if released else painter(model, steps=steps, guidance=guidance)
    files.check()
    items = task.read(files)
    items = items if count is None else items[:count]
    check_pictures(task, items)
    settings = {
        "format": FORMAT,
        "suite": task.name,
        "protocol": protocol,
        "seed": seed,
        "decoding": _decoding(task, protocol, steps, guidance),
        "blind": blind,
        "data": {name: _hash(path) for name, path in (("annotations", files.annotations), ("other", files.other)) if path is not None},
        "model_hash": model.model_hash,
        "instruments": instruments.fingerprints(),
        **software(model),
    }
    store = Store(out, settings, part)
    for number in range(part[0], len(items), part[1]):
        if (task.name, number) in store.records:
            continue
        started = time.perf_counter()
        record: dict[str, Any] = {"task": task.name, "index": number, "name": items[number].name, "given": _given(items[number])}
        if paints:
            file = partial(picture_file, out / PICTURES, record)
            record["outcome"] = {"made": paint(items[number], painted, key("benchmark", seed, task.name, number), file)}
        else:
            record["outcome"] = {"made": _make(model, task, items[number], settings)}
            if blind:
                record["outcome"]["blind"] = _make(model, task, items[number], settings, grey=True)
        store.append({**record, "seconds": round(time.perf_counter() - started, 3)})
        if told is not None:
            told(task.name, len(store.records), len(items))
    if part != WHOLE:
        return {}
    records = [store.records[task.name, number] for number in range(len(items))]
    if paints:
        all_painted = Painted(items=items, records=records, folder=out / PICTURES, instruments=instruments, blind=blind, seed=seed)
        found = figures(task, all_painted)
    else:
        found = _found(task, items, records, seed)
    each = {row["metric"]: row.pop("each", None) for row in found}
    rows = [{**dict.fromkeys(FIELDS), "task": task.name, "n": len(items), "split": "official", **row} for row in found]
    refused = {record["name"]: record["outcome"]["made"]["reason"] for record in records if "reason" in record["outcome"]["made"]}
    full = {
        **settings,
        "n": len(items),
        "main": task.main,
        "first_prompt": _words(items[0]),
        "refused": refused,
        "unmeasured": missing,
        "seconds": round(sum(each["seconds"] for each in records), 1),
    }
    write_figures(out, rows, full)
    own = [{name: values[place] for name, values in each.items() if values is not None} for place in range(len(items))]
    listed = [{"name": record["name"], "given": record["given"], "scores": scores} for record, scores in zip(records, own, strict=True)]
    write_atomically(out / ITEMS, (json.dumps(listed, ensure_ascii=False, indent=1) + "\n").encode())
    write_benchmark_report(out / REPORT, out / PICTURES, task, rows, full, items, records, each)
    return {"results": rows, "tasks": {task.name: {"main": task.main}}, **full}


def _decoding(task: Task, protocol: str, steps: int, guidance: float) -> dict[str, Any]:
    if task.kind == "picture":
        if protocol == "published" and (image := task.image) is not None:
            named = {"steps": image.steps, "guidance": image.guidance, "candidates": image.candidates}
            return {**named, "first_seeds": FIRST_SEEDS, "chosen_by": "clip" if image.candidates > 1 else None}
        return {"steps": steps, "guidance": guidance, "candidates": 1}
    if task.kind == "options":
        return {"score": "sum of log-probabilities"}
    released = task.text
    if protocol == "published":
        return {name: getattr(released, name) for name in released.__dataclass_fields__}
    return {"temperature": 0.0, "max_tokens": released.max_new_tokens}


def _make(model: Model, task: Task, item: Item, settings: dict[str, Any], *, grey: bool = False) -> dict[str, Any]:
    """What the model answers, or why it cannot; an item that cannot be asked is wrong, never left out."""
    try:
        document = item.prompt()
        if grey:
            document = Document(_greyed(segment) for segment in document)
        if task.kind == "options":
            return {"options": [score.log_likelihood for score in model.score(document, list(item.options))]}
        published = settings["protocol"] == "published"
        text = _published_text(model, document, task) if published else _text(model, document, task)
        return {"text": text, "answer": (task.published_extract if published else task.extract)(text)}
    except MMInterleavedError as error:
        return {"text": "", "answer": "", "options": [0.0] * len(item.options), "reason": str(error)}


def _text(model: Model, document: Document, task: Task) -> str:
    made = model.continue_document(document, max_images=0, max_tokens=task.text.max_new_tokens)
    return "".join(segment.text for segment in made.segments[len(document) :] if isinstance(segment, Text))


def _published_text(model: Model, document: Document, task: Task) -> str:
    layout = model.processor.open_layout(document)
    ids = torch.tensor([layout.token_ids], device=model.network.device)
    pixels = torch.stack([model.processor.pixels(picture) for picture in document.images]).to(model.network.device, model.network.dtype)
    made = generate_texts(model.network, ids, torch.ones_like(ids), pixels, task.text)
    stops = (model.network.config.eos_token_id, model.network.config.begin_image_token_id, model.network.config.pad_token_id)
    written = made[0, 1:].tolist()
    end = next((place for place, token in enumerate(written) if token in stops), len(written))
    return model.processor.decode_text(written[:end])


def _greyed(segment: Text | Image) -> Text | Image:
    return segment if isinstance(segment, Text) else Image.from_array(np.full_like(segment.array(), GREY))


def _found(task: Task, items: Sequence[Item], records: Sequence[dict[str, Any]], seed: int) -> list[Row]:
    truths = [item.truth for item in items]
    productions = {kind: [record["outcome"][kind] for record in records] for kind in ("made", "blind") if kind in records[0]["outcome"]}
    scored = {kind: _scored(task, made, truths) for kind, made in productions.items()}
    rows = []
    for metric, (value, each, resample) in scored["made"].items():
        low, high = interval(each, seed) if each is not None else resample(seed) if resample is not None else (None, None)
        other = scored["blind"][metric][0] if "blind" in scored else None
        rows.append({"metric": metric, "score": value, "low": low, "high": high, "blind": other, "each": each})
    return rows


def _scored(task: Task, made: Sequence[dict[str, Any]], truths: Sequence[dict[str, Any]]) -> Whole:
    answers = [each["options"] if task.kind == "options" else each["answer"] for each in made]
    found: Whole = {}
    if task.score is not None:
        scores = [task.score(answer, truth) for answer, truth in zip(answers, truths, strict=True)]
        for place, each in enumerate(made):
            if "reason" in each:
                scores[place] = dict.fromkeys(scores[place], 0.0)
        for metric in scores[0]:
            values = [score[metric] for score in scores]
            found[metric] = (mean(values), values, None)
    return found | (task.corpus(answers, truths) if task.corpus is not None else {})


def _given(item: Item) -> str | None:
    """Fingerprint of what is asked, words and pictures; None where it cannot be read."""
    try:
        document = item.prompt()
    except MMInterleavedError:
        return None
    parts = [segment.text if isinstance(segment, Text) else segment.sha256 for segment in document]
    return sha256(repr(parts).encode()).hexdigest()[:16]


def _words(item: Item) -> str:
    """A prompt in words."""
    try:
        return "".join(segment.text if isinstance(segment, Text) else "<image>" for segment in item.prompt())
    except MMInterleavedError as error:
        return str(error)


def _hash(path: Path) -> str:
    """Of a file its content, of a folder the names and sizes of its files."""
    if path.is_dir():
        listed = sorted((str(each.relative_to(path)), each.stat().st_size) for each in path.rglob("*") if each.is_file())
        return sha256(repr(listed).encode()).hexdigest()[:16]
    return sha256(path.read_bytes()).hexdigest()[:16] if path.is_file() else "missing"
