"""Measures a model on the playground: samples of every task that training never shows, one by one, resumable.

OUT/samples.jsonl   one line per finished sample, after a first line with the settings; never rewritten
OUT/pictures/       generated pictures of the first samples of each task, for the contact sheet
OUT/results.json    figures and settings, when all samples are finished
OUT/sheet.html      generated pictures beside their targets
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

from mm_interleaved.data.playground.pack import PACK_VERSION, Pack
from mm_interleaved.data.playground.tasks import FIRST_TASKS, TASKS, Sample, sample
from mm_interleaved.data.playground.world import World, WorldConfig
from mm_interleaved.document import Image
from mm_interleaved.errors import ConfigError, DataError, StorageError
from mm_interleaved.evaluation.making import Maker
from mm_interleaved.evaluation.results import MAIN, results
from mm_interleaved.evaluation.sheet import SHOWN, write_sheet
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.load import Model
from mm_interleaved.training.feed import VALIDATION_START, key

SAMPLES, RESULTS, SHEET, PICTURES = "samples.jsonl", "results.json", "sheet.html", "pictures"

GROUP = 8
"""Samples made side by side; an interrupted run makes at most so many again."""

FORMAT = 1
"""Raised when outcomes or metrics change their meaning."""

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
    told: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Makes what is missing of `count` samples per task, then scores all of them.

    Args:
        config: world and split.
        out: folder of the results; samples finished there by the same model with the same settings are kept.
        seed: of the samples, the noise and the bootstrap.
        steps: denoising steps of a picture.
        guidance: scale of classifier-free guidance.
        told: called after every group with its task, how many of all are finished, and how many there are.

    Returns:
        The content of results.json: `settings`, `results`, `seconds`.

    Raises:
        ConfigError: an unknown task, one that is not measured yet, or the folder holds an evaluation with other settings.
        StorageError: something cannot be written.
    """
    for task in tasks:
        if task not in TASKS:
            raise ConfigError(f"--tasks: no task is called {task!r}; there are {', '.join(TASKS)}.")
        if task not in MAIN:
            raise ConfigError(f"--tasks: task {task!r} has no measure here yet; measured are {', '.join(MAIN)}.")
    if count < 1:
        raise ConfigError(f"--n: expected at least one sample per task, got {count}.")
    world = World(Pack.load(), config)
    settings = _settings(model, config, seed=seed, steps=steps, guidance=guidance)
    store = _Store(out / SAMPLES, settings)
    maker = Maker(model, world, steps=steps, guidance=guidance)
    side = int(model.network.config.image_side)
    wanted = [(task, index) for task in tasks for index in range(count)]
    finished = sum(member in store.records for member in wanted)
    # In training's own split, indices that training never reaches.
    offset = VALIDATION_START if config.split == "train" else 0

    def asked(task: str, index: int) -> Sample:
        return sample(task, world, seed, offset + index, side=side)

    for task in tasks:
        for first in range(0, count, GROUP):
            group = range(first, min(first + GROUP, count))
            missing = [index for index in group if (task, index) not in store.records]
            if not missing:
                continue
            started = time.perf_counter()
            # Always the whole group: rounding in a batch depends on its size, and a resumed run shall give the same.
            samples = [asked(task, index) for index in group]
            made = maker.make(samples, [key("evaluation", seed, task, index) for index in group])
            seconds = round((time.perf_counter() - started) / len(group), 3)
            for index, question, found in zip(group, samples, made, strict=True):
                if index not in missing:
                    continue
                for number, picture in enumerate(found.pictures if index < SHOWN else ()):
                    write_atomically(out / PICTURES / f"{task}-{index}-{number}.png", Image.from_array(picture).data)
                truth = {name: value for name, value in question.truth.items() if name != "scenes"}
                store.append({"task": task, "index": index, "truth": truth, "outcome": found.outcome, "seconds": seconds})
            finished += len(missing)
            if told is not None:
                told(task, finished, len(wanted))
    records = [store.records[member] for member in wanted]
    report = {
        "settings": settings,
        "results": results(records, world, seed),
        "seconds": {task: round(sum(record["seconds"] for record in records if record["task"] == task), 1) for task in tasks},
    }
    write_atomically(out / RESULTS, (json.dumps(report, ensure_ascii=False, indent=2) + "\n").encode())
    drawn = [record for record in records if record["index"] < SHOWN]
    write_sheet(out / SHEET, out / PICTURES, drawn, asked)
    return report


def _settings(model: Model, config: WorldConfig, *, seed: int, steps: int, guidance: float) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "suite": "playground",
        "seed": seed,
        "steps": steps,
        "guidance": guidance,
        "temperature": 0.0,
        "model_hash": model.model_hash,
        "dtype": str(model.network.dtype).removeprefix("torch."),
        "device": str(model.network.device),
        "versions": {name: _version(name) for name in ("mm-interleaved", "torch", "transformers", "diffusers", "numpy", "pillow")},
        "pack_version": PACK_VERSION,
        "world": asdict(config),
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"


class _Store:
    """The finished samples of one evaluation: a file that only grows."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.records: dict[tuple[str, int], dict[str, Any]] = {}
        lines = self._read()
        if not lines:
            write_atomically(path, _line({"settings": settings}))
            return
        earlier = lines[0].get("settings")
        if earlier != settings:
            differing = sorted(name for name in settings if not isinstance(earlier, dict) or earlier.get(name) != settings[name])
            raise ConfigError(
                f"{path} holds samples of another evaluation (different: {', '.join(differing) or 'unknown'}); "
                "choose another output folder, or the settings of that one."
            )
        for record in lines[1:]:
            self.records[record["task"], record["index"]] = record

    def append(self, record: dict[str, Any]) -> None:
        """Adds one finished sample; it is on disk when this returns."""
        try:
            with self.path.open("ab") as file:
                file.write(_line(record))
        except OSError as error:
            raise StorageError(f"{self.path} cannot be written ({error}); free some space, then run the same command again.") from error
        self.records[record["task"], record["index"]] = record

    def _read(self) -> list[dict[str, Any]]:
        try:
            content = self.path.read_bytes()
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"{self.path} cannot be read ({error}); choose another output folder.") from error
        whole = content[: content.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
        except ValueError as error:
            raise DataError(f"{self.path} was changed and cannot be read ({error}); remove it to measure again.") from error
        if len(whole) < len(content) and whole:
            write_atomically(self.path, whole)  # the run was killed inside its last line; that sample is made again
        return lines


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record, ensure_ascii=False, sort_keys=True) + "\n").encode()
