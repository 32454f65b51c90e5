"""What a benchmark is: official files become items, an item becomes a prompt, what was made of it becomes scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mm_interleaved.document import Document
from mm_interleaved.errors import DataError
from mm_interleaved.evaluation.tasks.files import Files
from mm_interleaved.generation.published_options import PublishedImageOptions, PublishedTextOptions

Scores = dict[str, float]
"""Metric → value of one item."""

Interval = Callable[[int], tuple[float, float]]
"""Seed → bootstrap interval."""

Whole = dict[str, tuple[float, Sequence[float] | None, Interval | None]]
"""Metrics of the whole set: value, the items' shares where it is their mean, or else its interval."""

Kind = Literal["words", "options", "picture"]
"""What is made of an item: a text, one number per option, or pictures."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """One question."""

    name: str
    """Unique within the benchmark."""
    prompt: Callable[[], Document]
    """Reads the pictures, only when the item's turn comes."""
    truth: dict[str, Any]
    """What is right, JSON-able."""
    options: tuple[str, ...] = ()
    """Continuations to choose among."""
    rest: Callable[[], Document] | None = None
    """What truly follows a prompt for pictures: its pictures are painted one after the other, words between them are given."""
    needs: tuple[Path, ...] = ()
    """Pictures of prompt and rest; without one of them a distance between sets would be one of another set."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """One benchmark."""

    name: str
    about: str
    """Which official files it reads."""
    kind: Kind
    main: str
    """The metric that the paper reports."""
    read: Callable[[Files], list[Item]]
    score: Callable[[Any, dict[str, Any]], Scores] | None = None
    """What was made, and the item's truth → its scores. None where only the whole set can be scored."""
    corpus: Callable[[Sequence[Any], Sequence[dict[str, Any]]], Whole] | None = None
    """All that was made, and all truths → metrics of the whole set."""
    extract: Callable[[str], str] = field(default=str.strip)
    """`ours`: from generated words to the answer."""
    published_extract: Callable[[str], str] = field(default=str.strip)
    """`published`: the same as released."""
    measures: tuple[str, ...] = ()
    """How painted pictures are compared: names of `evaluation/painting.py`."""
    text: PublishedTextOptions = field(default_factory=PublishedTextOptions)
    """Released settings of the text."""
    image: PublishedImageOptions | None = None
    """Released settings of a picture; None where the release came without."""
    unmeasured: Callable[[], dict[str, str]] = dict
    """Metrics that cannot be taken on this machine, and what they need; raises BackendError where none can."""


def unique(items: Iterable[Item], path: Path) -> list[Item]:
    """The items in order.

    Raises:
        DataError: there is none, or two have one name.
    """
    found: dict[str, Item] = {}
    for item in items:
        if item.name in found:
            raise DataError(f"{path}: two entries are called '{item.name}'; a question that counts twice would change the figure.")
        found[item.name] = item
    if not found:
        raise DataError(f"{path} holds no entry that belongs to this benchmark's split.")
    return list(found.values())
