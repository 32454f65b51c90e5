"""Sources: one file per format, files → documents. `data.kinds.make_source` is the way in.

A source lists its shards, gives the records of a shard one after the other without touching a picture, and turns one record into a
document. What cannot be used is skipped, counted by reason and listed (`example.Skips`); nothing is swallowed.
"""

from __future__ import annotations

from mm_interleaved.data.sources.conversations import Llava, Messages
from mm_interleaved.data.sources.example import Example, Record, Skip, Skips
from mm_interleaved.data.sources.folder import MarkdownFolder
from mm_interleaved.data.sources.mmc4 import Mmc4
from mm_interleaved.data.sources.obelics import Obelics
from mm_interleaved.data.sources.pairs import Captions, Laion
from mm_interleaved.data.sources.source import Source

__all__ = ["FORMATS", "Example", "Record", "Skip", "Skips", "Source"]

FORMATS: dict[str, type[Source]] = {
    "mmc4": Mmc4,
    "obelics": Obelics,
    "laion": Laion,
    "captions": Captions,
    "llava": Llava,
    "messages": Messages,
    "markdown": MarkdownFolder,
}
"""Class of each `kind` of a recipe."""
