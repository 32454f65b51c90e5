"""From finished samples to figures: one row per metric, with a bootstrap interval and everything that it is compared with.

    chance      a guesser who knows what the split shows: its things, styles and pairs, the judge's rivals
    blind       the same model without what the task is about: grey instead of the given pictures, or, where nothing is given but words,
                another sample's prompt
    copy        a reader that copies something near at hand
    ceiling     what the judge gives the true words and pictures: its own mistakes
    ablation    the same model with closed synchronizers

A prompt that the model cannot take counts as wrong in everything; no sample is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from mm_interleaved.data.playground.tasks import TASKS, larger
from mm_interleaved.data.playground.world import World
from mm_interleaved.evaluation import reading, scoring
from mm_interleaved.evaluation.scoring import Names, Scores

RESAMPLES = 2000
"""Bootstrap resamples of an interval."""

FIELDS = ("task", "metric", "score", "low", "high", "n", "chance", "blind", "copy", "ceiling", "ablation", "split")
"""What every row of results.json has, in this order."""

UNSCALED = ("fid", "fid_64_published", "rank")
"""Metrics that are no shares and are not shown in percent."""

RIGHT, ALL = "right", "all"
"""Metrics of every larger task: the share of its aspects that are right, and whether all are."""

MAIN = {
    "caption": "slots",
    "question": "exact",
    "picture": "both",
    "style": "both",
    "story": "hero",
    **reading.MAIN,
    **dict.fromkeys(larger.TASKS, RIGHT),
}
"""The one metric that stands for a task."""

BLIND_KIND = {"picture": "other_prompt", "story": "other_prompt"}
"""What the blind baseline lacks in tasks of `making` that give no picture; in the others it is `grey`."""

ABSENT = {
    "chance": "words cannot be guessed, nor can a whole map",
    "blind": "one sample has no other prompt",
    "copy": "the prompt holds nothing of the kind that is wanted",
    "ceiling": "the samples were made before it was taken",
    "ablation": "not asked for (--no-ablation)",
}
"""Why a task's main figure lacks a baseline."""

FORMS = ("form", "turn", "kind")
"""Fields of the truth that divide a task into forms, each measured apart as well."""

Record = Mapping[str, Any]
"""A finished sample: task, index, truth, outcome, seconds."""

Row = dict[str, Any]
"""One figure, with `FIELDS`."""


def shown(metric: str, value: float | None) -> str:
    """A value as it is shown: a share in percent, a distance or a rank as it is."""
    if value is None:
        return "–"
    return f"{value:.2f}" if metric in UNSCALED else f"{100 * value:.1f}"


def results(records: Sequence[Record], world: World, seed: int) -> list[Row]:
    """One row per task and metric, for tasks of several forms also per form (`exact/where`).

    Args:
        records: finished samples; what is missing is not scored.
        seed: seed of the bootstrap.
    """
    names = Names.of(world.pack)
    rows: list[Row] = []
    for task in TASKS:
        members = sorted((record for record in records if record["task"] == task), key=lambda record: int(record["index"]))
        if not members:
            continue
        rows += _rows(task, members, world, names, seed)
        field = next((name for name in FORMS if name in members[0]["truth"]), None)
        for form in sorted({record["truth"][field] for record in members}) if field else ():
            rows += _rows(task, [record for record in members if record["truth"][field] == form], world, names, seed, suffix=f"/{form}")
    return rows


def absent(row: Row) -> dict[str, str]:
    """Baselines that a task's main figure lacks, and why."""
    return {name: reason for name, reason in ABSENT.items() if row[name] is None}


def score(record: Record, names: Names, production: str = "made") -> Scores:
    """A sample's scores by one of its productions; empty where there is none of that kind."""
    made = record["outcome"].get(production)
    if made is None:
        return {}
    found = _scores(record["task"], made, record["truth"], names)
    return dict.fromkeys(found, 0.0) if "reason" in made else found


def blind_score(record: Record, other: Record, names: Names) -> Scores:
    """The scores of the blind baseline; metrics that have none are missing.

    Args:
        other: another sample of the task, whose prompt stands in where there is no picture to take away.
    """
    task, truth = record["task"], record["truth"]
    if task not in BLIND_KIND:
        found = score(record, names, "blind")
    else:
        strangers = other["outcome"]["made"]
        found = dict.fromkeys(score(record, names), 0.0) if "reason" in strangers else _scores(task, strangers, truth, names)
        if task == "story" and "reason" not in strangers:
            # Words and right drawings of one story always fit each other: for `second` only the pictures come from the other story.
            mine = record["outcome"]["made"]["texts"]
            found["second"] = scoring.story(mine, strangers["panels"], True, truth, names)["second"]
    return {name: value for name, value in found.items() if name not in ("drawn", "pictures")}


def ceiling_score(record: Record, names: Names) -> Scores:
    """What the judge gives the true words and pictures."""
    found = score(record, names, "ceiling")
    if record["task"] == "story" and found:
        return scoring.story(record["truth"]["texts"], record["outcome"]["ceiling"]["panels"], True, record["truth"], names)
    return found


def copy_score(record: Record, names: Names) -> Scores:
    """What a reader scores that copies something near at hand; empty where there is nothing to copy."""
    return score(record, names, "copy") or reading.copied(record["task"], record["truth"])


def chance(record: Record, world: World, names: Names) -> Scores:
    """What a guesser scores on average; metrics without a meaningful guess are missing."""
    things, styles, truth, task = len(world.styles_of), len(world.things_of), record["truth"], record["task"]
    if task in larger.TASKS:
        guessed = record["outcome"]["chance"]["scores"]
        # Words cannot be guessed; the share of aspects is guessed as well as they are on average.
        shares = [guessed.get(name, 0.0) for name in score(record, names) if name not in (RIGHT, ALL)]
        return {**guessed, RIGHT: scoring.mean(shares)} if guessed else {}
    if task in reading.SCORERS:
        return reading.chance(task, truth)
    if task == "question":
        return {"exact": 1 / truth["answers"]}
    if task == "caption":
        return scoring.caption_chance(truth, things=things, styles=styles, grounds=world.grounds)
    guess = {"thing": 1 / things, "style": 1 / styles, "both": 1 / len(world.pairs)}
    if task == "story":
        return {"hero": guess["both"], "hero_thing": guess["thing"], "hero_style": guess["style"], "second": 1 / len(world.train_things)}
    return guess


def interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of the mean; a function of its arguments only."""
    found = np.asarray(values, np.float64)
    random = np.random.Generator(np.random.Philox(seed))
    means = found[random.integers(len(found), size=(RESAMPLES, len(found)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def resampled(parts: np.ndarray, figure: Callable[[np.ndarray], float], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval of a figure of the whole set, which is no mean of its samples' figures.

    Args:
        parts: what each sample adds, samples first.
        figure: sums over samples → the figure.
    """
    random = np.random.Generator(np.random.Philox(seed))
    drawn = (parts[random.integers(len(parts), size=len(parts))].sum(0) for _ in range(RESAMPLES))
    low, high = np.quantile([figure(sums) for sums in drawn], [0.025, 0.975])
    return float(low), float(high)


def _scores(task: str, made: Mapping[str, Any], truth: Mapping[str, Any], names: Names) -> Scores:
    known = dict(truth)
    if task in larger.TASKS:
        found: Scores = made["scores"]
        return {RIGHT: scoring.mean(found.values()), ALL: float(all(value == 1 for value in found.values())), **found}
    if task in reading.SCORERS:
        return reading.SCORERS[task](made["text"], known)
    if task == "question":
        return scoring.answer(made["text"], known)
    if task == "caption":
        return scoring.caption(made["text"], known, names)
    if task == "story":
        return scoring.story(made["texts"], made["panels"], made["ended"], known, names)
    return scoring.drawing(made["judged"], known)


def _rows(task: str, records: Sequence[Record], world: World, names: Names, seed: int, suffix: str = "") -> list[Row]:
    scores = [score(record, names) for record in records]
    alone = BLIND_KIND.get(task) == "other_prompt" and len(records) < 2
    compared = {
        "chance": [chance(record, world, names) for record in records],
        "blind": [] if alone else [blind_score(record, records[(place + 1) % len(records)], names) for place, record in enumerate(records)],
        "copy": [copy_score(record, names) for record in records],
        "ceiling": [ceiling_score(record, names) for record in records],
        "ablation": [score(record, names, "ablation") for record in records],
    }
    rows = []
    for metric in dict.fromkeys(name for found in scores for name in found):
        values = _values(scores, metric)
        low, high = interval(values, seed)
        row = {"task": task, "metric": metric + suffix, "score": scoring.mean(values), "low": low, "high": high, "n": len(values)}
        others = {kind: _values(found, metric) for kind, found in compared.items()}
        row |= {kind: scoring.mean(found) if found else None for kind, found in others.items()}
        rows.append({**row, "split": world.config.split})
    return rows


def _values(scores: Sequence[Scores], metric: str) -> list[float]:
    return [found[metric] for found in scores if metric in found]
