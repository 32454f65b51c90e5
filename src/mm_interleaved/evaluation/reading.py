"""Scores of the tasks that end in words or in a box: sums, logos, handwriting, robot, screens, hidden things.

Each is a pure function of the text that was made and of the truth; none ever saw a sample of training. Beside each stands what chance
scores, and what a reader scores who copies the nearest wrong thing: a total that is shown, another word of the page, another look-alike.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import Any

from mm_interleaved.data.playground.tasks import boxes, robot
from mm_interleaved.evaluation.scoring import ENDS, Scores, mean

HIT = 0.5
"""Intersection over union from which a box counts as found."""

Scorer = Callable[[str, dict[str, Any]], Scores]


def exact(text: str, truth: dict[str, Any]) -> Scores:
    """Right is the whole answer and nothing else."""
    return {"exact": float(_plain(text) == truth["answer"])}


def word(text: str, truth: dict[str, Any]) -> Scores:
    """A word that was read: whole, and the share of letters in common (difflib ratio)."""
    return {**exact(text, truth), "letters": difflib.SequenceMatcher(None, _plain(text), truth["answer"]).ratio()}


def facts(text: str, truth: dict[str, Any]) -> Scores:
    """A text about a company or country: share of its facts that are named, and all of them."""
    found = [slot in text for slot in truth["slots"]]
    return {"facts": mean(found), "all": float(all(found)), "name": float(found[0])}


def action(text: str, truth: dict[str, Any]) -> Scores:
    """What a robot does: the whole sentence, and its action, object and colour."""
    said = robot.read(_plain(text), truth["language"]) or ("", "", "")
    names = ("action", "shape", "colour")
    return {**exact(text, truth), **{name: float(said[place] == truth[name]) for place, name in enumerate(names)}}


def tap(text: str, truth: dict[str, Any]) -> Scores:
    """The next tap: its words, its box, both. Where nothing is left to tap, a box is wrong."""
    found = boxes.read(text)
    words = _plain(text.split("(")[0]) == truth["words"]
    placed = found is None if truth["box"] is None else found is not None and boxes.overlap(found, tuple(truth["box"])) >= HIT
    return {"both": float(words and placed), "words": float(words), "box": float(placed)}


def box(text: str, truth: dict[str, Any]) -> Scores:
    """A box: found at IoU 0.5, and the overlap itself; `other` is the share that lies on a look-alike instead."""
    found = boxes.read(text)
    if found is None:
        return {"found": 0.0, "overlap": 0.0, "other": 0.0}
    overlap = boxes.overlap(found, tuple(truth["box"]))
    other = max((boxes.overlap(found, tuple(each)) for each in truth["others"]), default=0.0)
    return {"found": float(overlap >= HIT), "overlap": overlap, "other": float(other >= HIT)}


SCORERS: dict[str, Scorer] = {
    "arithmetic": exact,
    "logo": facts,
    "handwriting": word,
    "robot": action,
    "screens": tap,
    "referring": box,
}
"""Task -> its scorer."""

MAIN = {"arithmetic": "exact", "logo": "all", "handwriting": "exact", "robot": "exact", "screens": "both", "referring": "found"}
"""Task -> the one metric that stands for it."""

LIMITS = {"arithmetic": 8, "logo": 160, "handwriting": 32, "robot": 48, "screens": 64, "referring": 40}
"""Task -> most tokens of its answer, with room for a tokenizer that never read these tasks."""


def chance(task: str, truth: dict[str, Any]) -> Scores:
    """What a guesser scores who knows the possible answers but sees nothing.

    For `referring` and `screens` it knows the boxes that there are; of a text about a logo, only the name can be guessed.
    """
    guess = 1 / truth["answers"]
    if task == "logo":
        return {"name": guess} if len(truth["slots"]) > 1 else {"facts": guess, "all": guess, "name": guess}
    if task == "robot":
        return {"exact": guess, "action": 1 / len(robot.ACTIONS), "colour": 1 / len(robot.COLOURS)}
    return {MAIN[task]: guess}


def copied(task: str, truth: dict[str, Any]) -> Scores:
    """What a reader scores who copies something near at hand; empty where there is nothing to copy."""
    if task == "arithmetic":
        return {"exact": mean(str(total) == truth["answer"] for total in truth["totals"])}
    if task == "handwriting":
        return {"exact": mean(each == truth["answer"] for each in truth["words"])}
    if task == "referring":
        return {"found": mean(boxes.overlap(tuple(other), tuple(truth["box"])) >= HIT for other in truth["others"])}
    return {}


def _plain(text: str) -> str:
    return text.strip().rstrip(ENDS).strip()
