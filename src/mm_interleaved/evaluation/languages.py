"""The same held-out samples in English and in Chinese: two evaluations, and their difference sample by sample.

    OUT/en, OUT/zh       an evaluation each, as `playground.evaluate` writes it
    OUT/languages.json   one row per task and metric: both figures, Chinese - English with its paired interval and probability

A sample's pictures and truth do not depend on its language. Two tasks show words: `handwriting` has another page by another hand in each
language, so its figures are of equally many samples and not of the same; `screens` has the same phones with their labels in either.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mm_interleaved.data.playground.world import WorldConfig
from mm_interleaved.errors import ConfigError
from mm_interleaved.evaluation import playground
from mm_interleaved.evaluation.compare import paired
from mm_interleaved.evaluation.store import WHOLE, read_samples
from mm_interleaved.export.files import write_atomically
from mm_interleaved.generation.load import Model

CHINESE = {"en": 0.0, "zh": 1.0}
"""Language → the world's share of Chinese samples."""

NAME = "languages"
"""Of the files with both languages."""

FILES = (f"{NAME}.json", f"{NAME}.csv", *(f"{language}/{playground.REPORT}" for language in CHINESE))
"""What a reader opens first."""

OTHER_SAMPLES = ("handwriting",)
"""Tasks whose samples are not the same in both languages."""

FIELDS = ("task", "metric", "en", "zh", "difference", "low", "high", "p", "n", "main", "same_samples")
"""What a row has, in this order; `difference` is zh - en."""


def check(languages: str, suite: str, suites: Sequence[str]) -> None:
    """
    Args:
        languages: both, separated by a comma.
        suites: those whose samples are in both.

    Raises:
        ConfigError: other languages, or a suite in one language.
    """
    if {name.strip() for name in languages.split(",")} != set(CHINESE):
        raise ConfigError(f"--languages: expected {','.join(CHINESE)}, which are compared with each other, got {languages!r}.")
    if suite not in suites:
        raise ConfigError(f"--languages: {suite} is in one language; {' and '.join(suites)} are in both.")


def evaluate_languages(model: Model, config: WorldConfig, out: Path, *, seed: int = 0, **options: Any) -> dict[str, Any]:
    """Measures a model in each language and compares.

    Args:
        seed: of samples, noise and intervals.
        **options: further ones of `playground.evaluate`.

    Returns:
        `languages`, the rows of languages.json, and under each language what `playground.evaluate` returns; nothing of them for a part.

    Raises:
        ConfigError, StorageError: as `playground.evaluate`.
    """
    reports = {
        language: playground.evaluate(model, replace(config, chinese=share), out / language, seed=seed, **options)
        for language, share in CHINESE.items()
    }
    if options.get("part", WHOLE) != WHOLE:
        return {}
    (_, english), (_, chinese) = (read_samples(out / language) for language in CHINESE)
    asked = {(row["task"], index) for row in reports["en"]["results"] for index in range(reports["en"]["n"])}
    both = paired({member: english[member] for member in asked}, {member: chinese[member] for member in asked}, seed)
    rows = [
        {**row, "en": row["a"], "zh": row["b"], "same_samples": row["task"] not in OTHER_SAMPLES}
        for row in sorted(both, key=lambda row: list(playground.ROWS).index(row["task"]))
    ]
    rows = [{name: row[name] for name in FIELDS} for row in rows]
    stream = io.StringIO()
    writer = csv.DictWriter(stream, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(out / FILES[0], (json.dumps(rows, ensure_ascii=False, indent=2) + "\n").encode())
    write_atomically(out / FILES[1], stream.getvalue().encode())
    return {NAME: rows, **reports}


def table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Both languages in lines, the main metric of each task."""
    lines = [f"{'task':14} {'metric':8} {'en':>6} {'zh':>6} {'zh - en':>8} {'95 %':>14} {'p':>7} {'n':>5}"]
    for row in rows:
        if row["main"]:
            between = f"{100 * row['low']:+.1f} {100 * row['high']:+.1f}"
            values = f"{100 * row['en']:>6.1f} {100 * row['zh']:>6.1f} {100 * row['difference']:>+8.1f} {between:>14} {row['p']:>7.4f}"
            lines.append(f"{row['task']:14} {row['metric']:8} {values} {row['n']:>5}{'' if row['same_samples'] else ' other samples'}")
    return lines
