"""What every format has in common: a name, files, and how a record becomes a document."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from mm_interleaved.data.sources.example import Example, Record, Skip
from mm_interleaved.data.sources.files import Pictures, list_shards
from mm_interleaved.data.sources.records import read_records
from mm_interleaved.document import Document, Image
from mm_interleaved.errors import ConfigError

Note = Callable[[Skip], None]
"""Told of a picture that is left out of a sample that is used."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A set of files in one format. Subclasses add the format's own rules as fields, the publication's values as defaults."""

    name: str
    """What it is called in recipes, counts and messages."""
    files: tuple[str, ...]
    """Paths, patterns (`{00..31}`, `*`) or URLs of its shards."""
    images: str | None = None
    """Folder or URL that names of pictures are relative to."""
    fetch: bool = False
    """Whether pictures at web addresses are downloaded while training."""

    _blank = False  # no field: recipes cannot set it

    def __post_init__(self) -> None:
        if not self.files:
            raise ConfigError(f"source '{self.name}': files is empty; name at least one shard.")

    def shards(self) -> tuple[str, ...]:
        """The files, in their own order.

        Raises:
            DataError: a pattern names nothing.
        """
        return list_shards(self.files, where=f"source '{self.name}'")

    def records(self, shard: str) -> Iterator[Record]:
        """The entries of a shard; no picture is read.

        Raises:
            Skip: the shard is broken here.
        """
        return read_records(shard)

    def example(self, record: Record, random: np.random.Generator, note: Note) -> Example:
        """The training document of a record.

        Args:
            random: the sample's own stream: the same record in the same epoch gives the same document.
            note: told of pictures that are left out.

        Raises:
            Skip: the record gives no document.
        """
        raise NotImplementedError

    def made(self, document: Document, record: Record, prompt: int = 0) -> Example:
        """An example of this source."""
        return Example(document=document, prompt=prompt, place=record.place, task=self.name)

    def picture(self, reference: object) -> Image:
        """Reads a picture.

        Raises:
            Skip: it cannot be used.
        """
        return Pictures(self.images, fetch=self.fetch, blank=self._blank).read(reference)

    def with_blank_pictures(self) -> Source:
        """The same source with black pictures of the same sizes, which are not decoded: for a pass that wants words alone.

        A `markdown` folder's pictures are decoded all the same; its files are few.
        """
        twin = copy.copy(self)
        object.__setattr__(twin, "_blank", True)
        return twin

    def check_share(self, name: str) -> None:
        """
        Raises:
            ConfigError: a field is no probability.
        """
        value: Any = getattr(self, name)
        if not 0 <= value <= 1:
            raise ConfigError(f"source '{self.name}': {name} is {value}; expected a share from 0 to 1.")
