"""From finished samples to figures: one row per metric, with a bootstrap interval, chance and the blind baseline.

Chance is that of a guesser who knows what the split shows: its things, styles and pairs. "Blind" is the same model without what the task
is about: grey instead of the given picture, or, where nothing is given but words, another sample's prompt. "Copy" is a reader that copies
something near at hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mm_interleaved.data.playground.world import World
from mm_interleaved.evaluation import reading, scoring
from mm_interleaved.evaluation.scoring import Names, Scores

RESAMPLES = 2000
"""Bootstrap resamples of an interval."""

MAIN = {"caption": "slots", "question": "exact", "picture": "both", "style": "both", "story": "hero", **reading.MAIN}
"""The one metric that stands for a task."""

BLIND_KIND = {
    "caption": "grey",
    "question": "grey",
    "picture": "other_prompt",
    "style": "grey",
    "story": "other_prompt",
    **dict.fromkeys(reading.SCORERS, "grey"),
}
"""What the blind baseline lacks, per task."""

Record = Mapping[str, Any]
"""A finished sample: task, index, truth, outcome, seconds."""


def results(records: Sequence[Record], world: World, seed: int) -> list[dict[str, Any]]:
    """One row per task and metric, for tasks of several forms also per form (`exact/where`).

    Args:
        records: finished samples; what is missing is not scored.
        seed: seed of the bootstrap.
    """
    names = Names.of(world.pack)
    rows: list[dict[str, Any]] = []
    for task in MAIN:
        members = sorted((record for record in records if record["task"] == task), key=lambda record: int(record["index"]))
        if not members:
            continue
        rows += _rows(task, members, world, names, seed)
        if "form" in members[0]["truth"]:
            for form in sorted({record["truth"]["form"] for record in members}):
                asked = [record for record in members if record["truth"]["form"] == form]
                rows += _rows(task, asked, world, names, seed, suffix=f"/{form}")
    return rows


def score(record: Record, names: Names) -> Scores:
    """A sample's scores."""
    outcome, truth = record["outcome"], record["truth"]
    if record["task"] in reading.SCORERS:
        return reading.SCORERS[record["task"]](outcome["text"], truth)
    if record["task"] == "question":
        return scoring.answer(outcome["text"], truth)
    if record["task"] == "caption":
        return scoring.caption(outcome["text"], truth, names)
    if record["task"] == "story":
        return scoring.story(outcome["texts"], outcome["panels"], outcome["ended"], truth, names)
    return scoring.drawing(outcome["judged"], truth)


def blind_score(record: Record, other: Record, names: Names) -> Scores:
    """The scores of the blind baseline; metrics that have none are missing.

    Args:
        other: another sample of the task, whose prompt stands in where there is no picture to take away.
    """
    outcome, truth = record["outcome"], record["truth"]
    if record["task"] in reading.SCORERS:
        return reading.SCORERS[record["task"]](outcome["blind"], truth)
    if record["task"] == "question":
        return scoring.answer(outcome["blind"], truth)
    if record["task"] == "caption":
        return scoring.caption(outcome["blind"], truth, names)
    if record["task"] == "style":
        found = scoring.drawing(outcome["blind"], truth)
    elif record["task"] == "picture":
        # The same noise would cost another picture per sample; what matters is that the words belong to another sample.
        found = scoring.drawing(other["outcome"]["judged"], truth)
    else:
        strangers = other["outcome"]
        found = scoring.story(strangers["texts"], strangers["panels"], strangers["ended"], truth, names)
        # Words and right drawings of one story always fit each other: for `second` only the pictures come from the other story.
        found["second"] = scoring.story(outcome["texts"], strangers["panels"], True, truth, names)["second"]
    return {name: value for name, value in found.items() if name not in ("drawn", "pictures")}


def ceiling_score(record: Record, names: Names) -> Scores:
    """What the judge gives the true pictures: its own mistakes. Empty for tasks without pictures to judge."""
    outcome, truth = record["outcome"], record["truth"]
    if record["task"] == "story":
        return scoring.story(truth["texts"], outcome["ceiling"], True, truth, names)
    return scoring.drawing(outcome["ceiling"], truth) if "ceiling" in outcome else {}


def chance(record: Record, world: World) -> Scores:
    """What a guesser scores on average; metrics without a meaningful guess are missing."""
    things, styles, truth = len(world.styles_of), len(world.things_of), record["truth"]
    if record["task"] in reading.SCORERS:
        return reading.chance(record["task"], truth)
    if record["task"] == "question":
        return {"exact": 1 / truth["answers"]}
    if record["task"] == "caption":
        return scoring.caption_chance(truth, things=things, styles=styles, grounds=world.grounds)
    guess = {"thing": 1 / things, "style": 1 / styles, "both": 1 / len(world.pairs)}
    if record["task"] == "story":
        return {"hero": guess["both"], "hero_thing": guess["thing"], "hero_style": guess["style"], "second": 1 / len(world.train_things)}
    return guess


def interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """95 % bootstrap interval (percentiles) of the mean; a function of its arguments only."""
    found = np.asarray(values, np.float64)
    random = np.random.Generator(np.random.Philox(seed))
    means = found[random.integers(len(found), size=(RESAMPLES, len(found)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def _rows(task: str, records: Sequence[Record], world: World, names: Names, seed: int, suffix: str = "") -> list[dict[str, Any]]:
    scores = [score(record, names) for record in records]
    guesses = [chance(record, world) for record in records]
    ceilings = [ceiling_score(record, names) for record in records]
    copies = [reading.copied(task, record["truth"]) for record in records]
    alone = BLIND_KIND[task] == "other_prompt" and len(records) < 2
    blinds = [] if alone else [blind_score(record, records[(place + 1) % len(records)], names) for place, record in enumerate(records)]
    rows = []
    for metric in scores[0]:
        low, high = interval([found[metric] for found in scores], seed)
        blind = _values(blinds, metric)
        row: dict[str, Any] = {
            "task": task,
            "metric": metric + suffix,
            "score": scoring.mean(found[metric] for found in scores),
            "low": low,
            "high": high,
            "n": len(records),
            "chance": scoring.mean(_values(guesses, metric)) if _values(guesses, metric) else None,
            "blind": scoring.mean(blind) if blind else None,
            "blind_high": interval(blind, seed)[1] if blind else None,
            "blind_kind": BLIND_KIND[task] if blind else None,
            "ceiling": scoring.mean(_values(ceilings, metric)) if _values(ceilings, metric) else None,
            "copy": scoring.mean(_values(copies, metric)) if _values(copies, metric) else None,
            "split": world.config.split,
            "main": metric == MAIN[task] and not suffix,
        }
        rows.append(row)
    return rows


def _values(scores: Sequence[Scores], metric: str) -> list[float]:
    return [found[metric] for found in scores if metric in found]
