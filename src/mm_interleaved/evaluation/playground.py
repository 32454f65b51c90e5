"""Measures a model on the playground: samples of every task that training never shows, one by one, resumable.

    OUT/samples*.jsonl   one line per finished sample, after a first line with the protocol; never rewritten
    OUT/pictures/        generated pictures of the first samples of each task, for the pages
    OUT/results.json     the figures, when all samples are finished; results.csv the same
    OUT/protocol.json    everything that decides them, what they took, what could not be answered and why
    OUT/report.html      the figures with their baselines, best and worst samples
    OUT/sheet.html       generated pictures beside their targets

Samples are made in groups, a group always whole and by one process with one thread; so neither a kill nor the number of processes
changes a result.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
import yaml

from mm_interleaved.data.playground import pack
from mm_interleaved.data.playground.pack import PACK_VERSION, Pack
from mm_interleaved.data.playground.tasks import FIRST_TASKS, TASKS, Sample, sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.document import Image
from mm_interleaved.errors import ConfigError
from mm_interleaved.evaluation.making import Made, Maker
from mm_interleaved.evaluation.report import write_report
from mm_interleaved.evaluation.results import FIELDS, MAIN, Row, absent, results
from mm_interleaved.evaluation.sheet import SHOWN, write_sheet
from mm_interleaved.evaluation.store import WHOLE, Part, Store
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.load import Model
from mm_interleaved.training.feed import VALIDATION_START, key

RESULTS, TABLE, PROTOCOL, REPORT, SHEET, PICTURES = (
    "results.json",
    "results.csv",
    "protocol.json",
    "report.html",
    "sheet.html",
    "pictures",
)

GROUP = 8
"""Samples made side by side; an interrupted run makes at most so many again."""

EXAMPLES_START = VALIDATION_START + (1 << 32)
"""Indices from here on are those of solved examples: neither trained on nor asked."""

FORMAT = 2
"""Raised when outcomes or metrics change their meaning."""

SUITES = ("playground", "demonstrations")
"""`playground` is what the model was trained on; `demonstrations` is every row of the mission, whether it was trained or not."""

ROWS: dict[str, str] = {
    "caption": "–",
    "question": "–",
    "picture": "–",
    "arithmetic": "1",
    "logo": "2",
    "handwriting": "3",
    "robot": "4",
    "blocks": "5",
    "screens": "6",
    "referring": "7",
    "silhouette": "8",
    "style": "9",
    "style_named": "9, style named",
    "two_roles": "10",
    "surroundings": "11",
    "joined_scene": "11b",
    "context_style": "12",
    "layout_map": "13",
    "story": "14, short",
    "tale": "14",
    "process": "15",
    "episode": "16",
    "own_hero": "17",
    "conversation": "18",
}
"""Task → which demonstration it measures; the first three are what the others rest on."""

MATERIAL = Path(pack.__file__).parent
"""Folder of the playground."""

RECIPE = "recipe.yaml"
"""The recipe that training leaves beside the weights."""


def world_of(model_folder: Path | None, split: str) -> WorldConfig:
    """The world that a model was trained in, on one side of its held-out line; the default world when the folder has no recipe.

    Raises:
        ConfigError: the recipe's world has unknown fields or values.
    """
    named = _trained_on(model_folder, "world")
    unknown = sorted(set(named) - {field.name for field in fields(WorldConfig)})
    if unknown:
        raise ConfigError(
            f"{model_folder}/{RECIPE}: data.world has unknown keys: {', '.join(unknown)}; evaluate with the version that trained the model."
        )
    return WorldConfig(**{**named, "split": split})


def tasks_of(model_folder: Path | None) -> tuple[str, ...]:
    """The tasks that a model was trained on, in the order of `TASKS`; the first ones when the folder has no recipe.

    Raises:
        ConfigError: the recipe cannot be read.
    """
    named = _trained_on(model_folder, "tasks")
    return tuple(task for task in TASKS if float(named.get(task, 0)) > 0) or FIRST_TASKS


def _trained_on(model_folder: Path | None, part: str) -> dict[str, Any]:
    """One part of a recipe's `data` section; empty without a recipe."""
    path = None if model_folder is None else model_folder / RECIPE
    if path is None or not path.is_file():
        return {}
    try:
        recipe = yaml.safe_load(path.read_text(encoding="utf-8"))
        return dict((recipe.get("data") or {}).get(part) or {})
    except (OSError, UnicodeDecodeError, yaml.YAMLError, AttributeError, TypeError, ValueError) as error:
        raise ConfigError(f"{path} cannot be read as a recipe ({error}); copy it again from the training run, or remove it.") from error


def evaluate(
    model: Model,
    config: WorldConfig,
    out: Path,
    *,
    tasks: Sequence[str] = FIRST_TASKS,
    count: int = 200,
    seed: int = 0,
    steps: int = 20,
    guidance: float = 2.0,
    ablate: bool = True,
    shots: int = 0,
    part: Part = WHOLE,
    told: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Makes what is missing of `count` samples per task, then scores all of them.

    Args:
        config: world and split.
        out: folder of the results; samples finished there by the same model with the same settings are kept.
        seed: of the samples, the noise and the bootstrap.
        steps: denoising steps of a picture.
        guidance: scale of classifier-free guidance.
        ablate: make every sample with closed synchronizers, too.
        shots: solved examples of the same task before each prompt, from training's own split, where training never comes.
        part: which share of the samples to make, and of how many; anything but the whole is not scored.
        told: called after every group with its task, how many of all are finished, and how many there are.

    Returns:
        `results` as in results.json and the content of protocol.json; nothing of them for a part.

    Raises:
        ConfigError: an unknown task, or the folder holds an evaluation with other settings.
        StorageError: something cannot be written.
    """
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f"--tasks: no task is called {task!r}; there are {', '.join(TASKS)}.")
    if count < 1:
        raise ConfigError(f"--n: expected at least one sample per task, got {count}.")
    world = World(Pack.load(), config)
    protocol = _protocol(model, config, seed=seed, steps=steps, guidance=guidance, ablate=ablate)
    if shots:
        protocol["shots"] = shots
    shown = world if not shots else World(world.pack, replace(config, split="train"))
    store = Store(out, protocol, part)
    maker = Maker(model, world, steps=steps, guidance=guidance, ablate=ablate)
    side = int(model.network.config.image_side)
    wanted = [(task, index) for task in tasks for index in range(count)]
    finished = sum(member in store.records for member in wanted)
    # In training's own split, indices that training never reaches.
    offset = VALIDATION_START if config.split == "train" else 0

    def asked(task: str, index: int) -> Sample:
        return sample(task, world, seed, offset + index, side=side)

    def solved(task: str, index: int) -> list[Sample]:
        numbers = range(EXAMPLES_START + index * shots, EXAMPLES_START + (index + 1) * shots)
        return [sample(task, shown, seed, number, side=side) for number in numbers]

    groups = [(task, range(first, min(first + GROUP, count))) for task in tasks for first in range(0, count, GROUP)]
    for task, group in groups[part[0] :: part[1]]:
        missing = [index for index in group if (task, index) not in store.records]
        if not missing:
            continue
        started = time.perf_counter()
        # Always the whole group: rounding in a batch depends on its size, and a resumed run shall give the same.
        samples = [asked(task, index) for index in group]
        seeds = [key("evaluation", seed, task, index) for index in group]
        made = maker.make(samples, seeds, solved=[solved(task, index) for index in group])
        seconds = round((time.perf_counter() - started) / len(group), 3)
        for index, question, found in zip(group, samples, made, strict=True):
            if index in missing:
                for number, picture in enumerate(found.pictures if index < SHOWN else ()):
                    write_atomically(out / PICTURES / f"{task}-{index}-{number}.png", Image.from_array(picture).data)
                store.append(_record(model, task, index, question, found, seconds))
        finished += len(missing)
        if told is not None:
            told(task, finished, len(wanted))
    if part != WHOLE:
        return {}
    records = [store.records[member] for member in wanted]
    rows = results(records, world, seed)
    about = {
        task: _about(
            task,
            [record for record in records if record["task"] == task],
            next(row for row in rows if row["task"] == task and row["metric"] == MAIN[task]),
            asked(task, 0),
        )
        for task in tasks
    }
    protocol |= {"tasks": about, "n": count}
    write_figures(out, rows, protocol)
    drawn = [record for record in records if record["index"] < SHOWN]
    write_report(out / REPORT, out / PICTURES, rows, protocol, drawn, asked, world)
    write_sheet(out / SHEET, out / PICTURES, drawn, asked)
    return {"results": rows, **protocol}


def _record(model: Model, task: str, index: int, question: Sample, found: Made, seconds: float) -> dict[str, Any]:
    given = " ".join(part for part in question.segments[: question.prompt] if isinstance(part, str))
    return {
        "task": task,
        "index": index,
        "truth": {name: value for name, value in question.truth.items() if name != "scenes"},
        "outcome": found.outcome,
        "unknown": [word for word, _ in model.processor.unknown_words(given)],
        "seconds": seconds,
    }


def _about(task: str, records: Sequence[dict[str, Any]], main: Row, first: Sample) -> dict[str, Any]:
    """What a reader of a task's figures must know: its main metric, how it asks, what it took, what stood in the way and what lacks."""
    reasons = Counter(record["outcome"]["made"]["reason"] for record in records if "reason" in record["outcome"]["made"])
    return {
        "row": ROWS[task],
        "main": MAIN[task],
        "first prompt": "".join(part if isinstance(part, str) else "<image>" for part in first.segments[: first.prompt]),
        "absent": absent(main),
        "seconds": round(sum(record["seconds"] for record in records), 1),
        "prompts with words that the model never read": sum(bool(record["unknown"]) for record in records),
        "refused": sum(reasons.values()),
        "reasons": dict(reasons.most_common(5)),
    }


def write_figures(out: Path, rows: Sequence[dict[str, Any]], protocol: dict[str, Any]) -> None:
    """Writes results.json, the same as results.csv, and protocol.json.

    Raises:
        StorageError: one cannot be written.
    """
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / RESULTS, (json.dumps(rows, ensure_ascii=False, indent=2) + "\n").encode())
    write_atomically(out / TABLE, stream.getvalue().encode())
    write_atomically(out / PROTOCOL, (json.dumps(protocol, ensure_ascii=False, indent=2) + "\n").encode())


def _protocol(model: Model, config: WorldConfig, *, seed: int, steps: int, guidance: float, ablate: bool) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "temperature": 0.0,
        "ablation": ablate,
        "group": GROUP,
        "model_hash": model.model_hash,
        **software(model),
        "pack_version": PACK_VERSION,
        "material_hash": _material_hash(),
        "world": asdict(config),
    }


def software(model: Model) -> dict[str, Any]:
    """The part of a protocol that says on what a model ran."""
    return {
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "device": str(model.network.device),
        "threads": torch.get_num_threads(),
        "versions": {name: _version(name) for name in ("mm-interleaved", "torch", "transformers", "diffusers", "numpy", "pillow")},
    }


@lru_cache(maxsize=1)
def _material_hash() -> str:
    """Fingerprint of everything that samples are composed from and judged by: drawings, tables, collections, the judges' weights."""
    digest = hashlib.sha256()
    for path in sorted(path for path in MATERIAL.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")):
        digest.update(f"{path.relative_to(MATERIAL).as_posix()}\n".encode() + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()[:16]


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
