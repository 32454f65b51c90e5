"""Two evaluations of the same samples, sample by sample: is one better than the other, or is it chance?

For every metric the mean difference with its paired bootstrap interval, and the probability of so large a difference if the two were
alike: a sign-flip permutation test of the differences, exact for up to `EXACT` samples that differ. A benchmark's figures of the whole
set (BLEU, FID, mIoU) have no samples to pair; of them only the difference is told.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.evaluation.benchmark import ITEMS
from mm_interleaved.evaluation.playground import RESULTS
from mm_interleaved.evaluation.results import MAIN, UNSCALED, Record, interval, score
from mm_interleaved.evaluation.scoring import Names, mean
from mm_interleaved.evaluation.store import read_samples
from mm_interleaved.evaluation.tasks import TASKS

EXACT = 12
"""Samples that differ, up to which every flip of signs is tried."""

FLIPS = 10_000
"""Random flips beyond that."""

SAME = ("format", "seed", "material_hash", "world")
"""What both protocols must share, or the samples would not be the same."""

SAME_BENCHMARK = ("format", "suite", "data", "instruments")
"""The same of a benchmark; its seed is only that of noise and intervals."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of a task: B against A."""

    task: str
    metric: str
    a: float
    b: float
    difference: float
    """Mean of B - A over the samples that both have."""
    low: float | None
    high: float | None
    """Paired bootstrap interval; none of a figure of the whole set."""
    p: float | None
    """Two-sided probability of so large a mean difference by chance; none of a figure of the whole set."""
    n: int
    main: bool


def compare(first: Path, second: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Compares all samples that two folders of results have in common; of benchmarks, which must have the same, all.

    Raises:
        ConfigError: they hold different samples.
        DataError: a folder holds none, or a benchmark is not finished.
    """
    (protocol, one), (other_protocol, two) = read_samples(first), read_samples(second)
    benchmarks = "suite" in protocol or "suite" in other_protocol
    differing = [name for name in (SAME_BENCHMARK if benchmarks else SAME) if protocol.get(name) != other_protocol.get(name)]
    if differing or not set(one) & set(two):
        asked = "annotations and networks" if benchmarks else "seed and split"
        raise ConfigError(
            f"{first} and {second} hold different samples ({', '.join(differing) or 'no task and index in common'}); "
            f"evaluate both models with the same suite, {asked}."
        )
    return _benchmark(first, second, protocol["suite"], seed) if benchmarks else paired(one, two, seed)


def paired(one: Mapping[tuple[str, int], Record], two: Mapping[tuple[str, int], Record], seed: int) -> list[dict[str, Any]]:
    """Compares the samples of the playground that two evaluations have in common."""
    common = sorted(set(one) & set(two))
    names = Names.of(Pack.load())
    found = []
    for task in dict.fromkeys(task for task, _ in common):
        members = [member for member in common if member[0] == task]
        scores = [(score(one[member], names), score(two[member], names)) for member in members]
        for metric in dict.fromkeys(name for pair in scores for name in pair[0]):
            pairs = [(a[metric], b[metric]) for a, b in scores if metric in a and metric in b]
            if pairs:
                found.append(asdict(_difference(task, metric, pairs, seed, main=metric == MAIN[task])))
    return found


def _benchmark(first: Path, second: Path, suite: str, seed: int) -> list[dict[str, Any]]:
    one, two = ({item["name"]: item for item in _read(folder, ITEMS)} for folder in (first, second))
    if odd := sorted(set(one) ^ set(two)):
        holder = first if odd[0] in one else second
        raise ConfigError(
            f"{first} and {second} hold different samples ({len(one)} and {len(two)}; only {holder} has '{odd[0]}'); a figure of some "
            "samples is no part of a figure of others, so evaluate both models on all of them, or both with --quick."
        )
    if changed := [name for name in one if one[name]["given"] != two[name]["given"]]:
        raise ConfigError(
            f"{first} and {second} hold different samples ({len(changed)} of {len(one)} were asked with another picture or other words, "
            f"first '{changed[0]}'); evaluate both models on the same pictures."
        )
    whole = [{row["metric"]: row["score"] for row in _read(folder, RESULTS)} for folder in (first, second)]
    found = []
    for metric in (name for name in whole[0] if name in whole[1]):
        main = metric == TASKS[suite].main
        pairs = [(one[name]["scores"].get(metric), two[name]["scores"].get(metric)) for name in one]
        if all(None not in pair for pair in pairs):
            found.append(_difference(suite, metric, pairs, seed, main=main))
        else:
            a, b = whole[0][metric], whole[1][metric]
            found.append(Difference(suite, metric, a, b, b - a, None, None, None, len(pairs), main))
    return [asdict(each) for each in found]


def _read(folder: Path, name: str) -> Any:
    try:
        return json.loads((folder / name).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder / name} cannot be read ({error}); the benchmark is not finished there: run its command again, then compare."
        ) from error


def table(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """The comparison in lines, main metrics marked."""
    lines = [f"{'task':13} {'metric':22} {'A':>6} {'B':>6} {'B - A':>7} {'95 %':>15} {'p':>7} {'n':>5}"]
    for row in compared:
        scale = 1 if row["metric"] in UNSCALED else 100
        between = "–" if row["low"] is None else f"{scale * row['low']:+.1f} {scale * row['high']:+.1f}"
        p = "–" if row["p"] is None else f"{row['p']:.4f}"
        values = f"{scale * row['a']:>6.1f} {scale * row['b']:>6.1f} {scale * row['difference']:>+7.1f}"
        lines.append(f"{row['task']:13} {row['metric']:22} {values} {between:>15} {p:>7} {row['n']:>5}{' *' if row['main'] else ''}")
    return lines


def sign_flip(differences: Sequence[float], seed: int) -> float:
    """Two-sided probability that the mean is as far from 0 if every difference had either sign with equal chance."""
    found = np.asarray([each for each in differences if each != 0], np.float64)
    if not len(found):
        return 1.0
    if len(found) <= EXACT:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(found))))
        extra = 0
    else:
        signs = np.random.Generator(np.random.Philox(seed)).choice((-1, 1), size=(FLIPS, len(found)))
        extra = 1  # what was observed is one of the flips
    # Sums in another order differ in the last bit.
    as_far = int((np.abs(signs @ found) >= abs(found.sum()) - 1e-9).sum())
    return (as_far + extra) / (len(signs) + extra)


def _difference(task: str, metric: str, pairs: Sequence[tuple[float, float]], seed: int, *, main: bool) -> Difference:
    differences = [b - a for a, b in pairs]
    low, high = interval(differences, seed)
    a, b = mean(a for a, _ in pairs), mean(b for _, b in pairs)
    return Difference(task, metric, a, b, b - a, low, high, sign_flip(differences, seed), len(pairs), main)
