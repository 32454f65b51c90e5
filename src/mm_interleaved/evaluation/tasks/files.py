"""The user's copies of a benchmark's official files, and how they are read: a field that is not there is an error that names its place."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mm_interleaved.data.sources.example import Record, Skip
from mm_interleaved.data.tuning.annotations import read_json
from mm_interleaved.document import Image
from mm_interleaved.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Files:
    """What the user has."""

    annotations: Path
    """The official annotation file."""
    images: Path | None = None
    """Folder of the pictures."""
    other: Path | None = None
    """A second official file, where a benchmark has one: questions, boxes, relevances, a split; or a folder: label maps."""

    def check(self) -> None:
        """
        Raises:
            ConfigError: no folder of pictures was given, or it is none; every question would count as wrong.
        """
        if self.images is None or not self.images.is_dir():
            given = "nothing was given" if self.images is None else f"{self.images} is none"
            raise ConfigError(f"--images: this benchmark shows pictures; expected the folder that holds them, {given}.")

    def picture(self, name: str) -> Image:
        """Opens a picture of the folder.

        Raises:
            DocumentError: it is missing or broken.
        """
        return Image.open(self.path(name))

    def path(self, name: str) -> Path:
        """Where a picture of the folder lies.

        Raises:
            ConfigError: no folder was given.
        """
        if self.images is None:
            raise ConfigError("--images: this benchmark shows pictures; give the folder that holds them.")
        return self.images / name


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


def by_id(values: Any, part: str, path: Path, name: str = "id") -> dict[Any, Any]:
    """The entries of a list by their ids.

    Raises:
        DataError: the list or an id is not there, or an id stands twice.
    """
    found: dict[Any, Any] = {}
    for number, each in enumerate(member(values, part, path)):
        own = member(each, name, path, f", {part}[{number}]")
        if own in found:
            raise DataError(f"{path}: two of '{part}' have the {name} {own}; one would be lost, or count twice. Download the file again.")
        found[own] = each
    return found


def whole(records: Iterable[Record], path: Path) -> list[Record]:
    """The records of a training source, of which a benchmark may lose none.

    Raises:
        DataError: one of them, or the file, cannot be read.
    """
    try:
        found = list(records)
    except Skip as error:
        raise DataError(f"{path} cannot be read as annotations ({error}); download it again.") from error
    for record in found:
        if record.problem is not None:
            raise DataError(f"{record.place}: {record.problem}; is it the file of another year or benchmark?")
    return found
