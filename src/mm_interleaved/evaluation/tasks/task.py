"""What a benchmark is: official files become items, an item becomes a prompt, what was made of it becomes scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mm_interleaved.data.sources.example import Skip
from mm_interleaved.data.tuning.annotations import read_json
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError, DataError
from mm_interleaved.generation.published_options import PublishedTextOptions

Scores = dict[str, float]
"""Metric → value of one item."""

Kind = Literal["words", "options", "picture"]
"""What is made of an item: a text, one number per option, or a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """What the user has."""

    annotations: Path
    """The official annotation file."""
    images: Path | None = None
    """Folder of the pictures."""
    other: Path | None = None
    """A second official file, where a benchmark has one: questions, boxes, relevances, a split."""

    def picture(self, name: str) -> Image:
        """Opens a picture of the folder.

        Raises:
            DocumentError: it is missing or broken.
        """
        if self.images is None:
            raise ConfigError("--images: this benchmark shows pictures; give the folder that holds them.")
        return Image.open(self.images / name)


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
    corpus: Callable[[Sequence[Any], Sequence[dict[str, Any]]], dict[str, tuple[float, Sequence[float] | None]]] | None = None
    """Metrics of the whole set: value, and the items' shares where it is their mean."""
    extract: Callable[[str], str] = field(default=str.strip)
    """`ours`: from generated words to the answer."""
    published_extract: Callable[[str], str] = field(default=str.strip)
    """`published`: the same as released."""
    text: PublishedTextOptions = field(default_factory=PublishedTextOptions)
    """Released settings of the text."""


def read_annotations(path: Path, kind: type, what: str) -> Any:
    """The value of an official JSON file.

    Args:
        kind: `dict` or `list`.
        what: its form, for the message.

    Raises:
        DataError: it is missing, no JSON, or of another kind.
    """
    try:
        found = read_json(str(path))
    except Skip as error:
        raise DataError(f"{path} cannot be read as annotations ({error}); download it again.") from error
    if not isinstance(found, kind):
        raise DataError(f"{path}: expected {what}, got {type(found).__name__}; is it the file of another year or benchmark?")
    return found


def member(values: Any, name: str, path: Path, place: str = "") -> Any:
    """A field of an annotation.

    Raises:
        DataError: it is not there.
    """
    if not isinstance(values, dict) or name not in values:
        raise DataError(f"{path}{place}: expected the field '{name}'; is it the file of another year or benchmark?")
    return values[name]


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
