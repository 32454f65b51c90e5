"""Logos and flags with what is known about them, from the collection `logos`."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from mm_interleaved.data.playground.material.collection import load_collection
from mm_interleaved.errors import DataError

NAME = "logos"
VERSION = 1
BRANDS = Path(__file__).parents[1] / "brands.tsv"
COUNTRIES = Path(__file__).parents[1] / "countries.tsv"


@dataclass(frozen=True, slots=True)
class Brand:
    """A company and its logo."""

    id: str
    name_en: str
    name_zh: str
    kind: str
    """What sort of company; a key of the wording."""
    country: str
    """Code of the country that it comes from."""
    drawings: tuple[str, ...]
    """Members of the collection: one or two ways of drawing the logo."""


@dataclass(frozen=True, slots=True)
class Country:
    """A country and its flag."""

    code: str
    """ISO 3166 code, two lower-case letters."""
    name_en: str
    name_zh: str
    capital_en: str
    capital_zh: str
    continent: str
    drawings: tuple[str, ...]


@lru_cache(maxsize=1)
def brands() -> tuple[Brand, ...]:
    """All companies, in the table's order."""
    listed = load_collection(NAME, VERSION).content["brands"]
    return tuple(Brand(**{**entry, "drawings": tuple(entry["drawings"])}) for entry in listed)


@lru_cache(maxsize=1)
def countries() -> dict[str, Country]:
    """All countries by code, in the table's order."""
    listed = load_collection(NAME, VERSION).content["countries"]
    return {entry["code"]: Country(**{**entry, "drawings": tuple(entry["drawings"])}) for entry in listed}


@lru_cache(maxsize=512)
def drawing(member: str) -> Image.Image:
    """One logo or flag as RGBA, longest side 136 pixels.

    Raises:
        DataError: it is missing or unreadable.
    """
    try:
        return Image.open(io.BytesIO(load_collection(NAME, VERSION).read(member))).convert("RGBA")
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"the drawing {member} cannot be read ({error}); run `mmi data build PACKAGES --part logos`.") from error
