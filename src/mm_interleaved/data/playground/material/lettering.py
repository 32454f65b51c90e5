"""Fonts of the playground: handwriting and screens, English and Chinese, from the collection `fonts`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from PIL import ImageFont

from mm_interleaved.data.playground.material.collection import load_collection
from mm_interleaved.errors import DataError

NAME = "fonts"
VERSION = 1

Script = Literal["en", "zh"]
Use = Literal["hand", "screen"]


@dataclass(frozen=True, slots=True)
class Face:
    """One font of the collection."""

    name: str
    """Package name without its scope: the font's own name, by which it is held out."""
    member: str
    script: Script
    use: Use
    characters: frozenset[str]
    """What may be written with it."""

    def at(self, size: int) -> ImageFont.FreeTypeFont:
        """The font at a size in pixels."""
        return _font(self.member, size)

    def check(self, text: str) -> None:
        """Refuses a text with a character that the font lacks.

        Raises:
            DataError: which characters, which font, and what to do.
        """
        missing = sorted(set(text) - self.characters)
        if missing:
            raise DataError(
                f"the font {self.name} has no glyph for {' '.join(missing)} (in {text!r}); "
                "make the fonts again with `mmi data build PACKAGES --part fonts`."
            )


@lru_cache(maxsize=8)
def faces(use: Use, script: Script) -> tuple[Face, ...]:
    """All fonts for one purpose and script, in the collection's order.

    Raises:
        DataError: the collection is missing, of another version or broken.
    """
    listed = load_collection(NAME, VERSION).content["fonts"]
    return tuple(
        Face(entry["name"], entry["member"], script, use, frozenset(entry["characters"]))
        for entry in listed
        if entry["use"] == use and entry["script"] == script
    )


@lru_cache(maxsize=256)
def _font(member: str, size: int) -> ImageFont.FreeTypeFont:
    content = load_collection(NAME, VERSION).read(member)
    try:
        # The basic layout engine is in every Pillow; texts here need no shaping.
        return ImageFont.truetype(io.BytesIO(content), size, layout_engine=ImageFont.Layout.BASIC)
    except OSError as error:
        raise DataError(f"the font {member} cannot be read ({error}); run `mmi data build PACKAGES --part fonts`.") from error
