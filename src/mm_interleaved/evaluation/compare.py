"""Two evaluations of the same samples, sample by sample: is one better than the other, or is it chance?

For every metric the mean difference with its paired bootstrap interval, and the probability of so large a difference if the two were
alike: a sign-flip permutation test of the differences, exact for up to `EXACT` samples that differ.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.errors import ConfigError
from mm_interleaved.evaluation.results import MAIN, interval, score
from mm_interleaved.evaluation.scoring import Names, mean
from mm_interleaved.evaluation.store import read_samples

EXACT = 12
"""Samples that differ, up to which every flip of signs is tried."""

FLIPS = 10_000
"""Random flips beyond that."""

SAME = ("format", "seed", "material_hash", "world")
"""What both protocols must share, or the samples would not be the same."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of a task: B against A."""

    task: str
    metric: str
    a: float
    b: float
    difference: float
    """Mean of B - A over the samples that both have."""
    low: float
    high: float
    p: float
    """Two-sided probability of so large a mean difference by chance."""
    n: int
    main: bool


def compare(first: Path, second: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Compares all samples that two folders of results have in common.

    Raises:
        ConfigError: they hold different samples.
        DataError: a folder holds none.
    """
    (protocol, one), (other_protocol, two) = read_samples(first), read_samples(second)
    differing = [name for name in SAME if protocol.get(name) != other_protocol.get(name)]
    common = sorted(set(one) & set(two))
    if differing or not common:
        raise ConfigError(
            f"{first} and {second} hold different samples ({', '.join(differing) or 'no task and index in common'}); "
            "evaluate both models with the same suite, seed and split."
        )
    names = Names.of(Pack.load())
    found = []
    for task in dict.fromkeys(task for task, _ in common):
        members = [member for member in common if member[0] == task]
        scores = [(score(one[member], names), score(two[member], names)) for member in members]
        for metric in dict.fromkeys(name for pair in scores for name in pair[0]):
            pairs = [(a[metric], b[metric]) for a, b in scores if metric in a and metric in b]
            if pairs:
                found.append(asdict(_difference(task, metric, pairs, seed)))
    return found


def table(compared: Sequence[Mapping[str, Any]]) -> list[str]:
    """The comparison in lines, main metrics marked."""
    lines = [f"{'task':13} {'metric':22} {'A':>6} {'B':>6} {'B - A':>7} {'95 %':>15} {'p':>7} {'n':>5}"]
    for row in compared:
        between = f"{100 * row['low']:+.1f} {100 * row['high']:+.1f}"
        figures = (
            f"{100 * row['a']:>6.1f} {100 * row['b']:>6.1f} {100 * row['difference']:>+7.1f} {between:>15} {row['p']:>7.4f} {row['n']:>5}"
        )
        lines.append(f"{row['task']:13} {row['metric']:22} {figures}{' *' if row['main'] else ''}")
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


def _difference(task: str, metric: str, pairs: Sequence[tuple[float, float]], seed: int) -> Difference:
    differences = [b - a for a, b in pairs]
    low, high = interval(differences, seed)
    a, b = mean(a for a, _ in pairs), mean(b for _, b in pairs)
    return Difference(task, metric, a, b, b - a, low, high, sign_flip(differences, seed), len(pairs), metric == MAIN[task])
