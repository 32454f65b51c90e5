"""What an explanation says, as plain numbers: where each word, and each region of a painted picture, looked in the earlier pictures.

`generation/trace.py` makes it; `explain_page.py` shows it; its JSON form is for papers. Floor 0: no torch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from mm_interleaved.document import Document, Image, Text
from mm_interleaved.errors import ConfigError

Numbers: TypeAlias = npt.NDArray[np.float64]
Moment: TypeAlias = Literal["read", "written"]
"""`read`: while the word itself is read. `written`: one token earlier, while it is predicted."""

HEAT_SIDE = 16
"""Cells per side of a heat map."""
_DIGITS = 5  # of weights and places in JSON


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What was read from one earlier picture: sampled places and their weights."""

    image: int
    """Which picture of the document, counted from 0."""
    xy: Numbers
    """(points, 2): fractions of the picture's width and height; outside 0 … 1 there is nothing to read."""
    weights: Numbers
    """(points,): share of the whole attention."""

    @property
    def share(self) -> float:
        """Share of the whole attention that this picture gets."""
        return float(self.weights.sum())

    def heat(self, side: int = HEAT_SIDE) -> Numbers:
        """Heat map, (side, side), rows from top to bottom: each point's weight spread over the four nearest cell centres."""
        found = np.zeros((side, side))
        inside = ((self.xy >= 0) & (self.xy <= 1)).all(axis=1)
        places = np.clip(self.xy[inside] * side - 0.5, 0, side - 1)
        low = np.floor(places).astype(int)
        high = np.minimum(low + 1, side - 1)
        part = places - low
        for column, across in ((low[:, 0], 1 - part[:, 0]), (high[:, 0], part[:, 0])):
            for row, down in ((low[:, 1], 1 - part[:, 1]), (high[:, 1], part[:, 1])):
                np.add.at(found, (row, column), self.weights[inside] * across * down)
        return found

    def hottest(self) -> tuple[float, float] | None:
        """Centre of the hottest cell as fractions (x, y); None where every point lies outside of the picture."""
        heat = self.heat()
        if not heat.any():
            return None
        row, column = np.unravel_index(int(heat.argmax()), heat.shape)
        return (float(column) + 0.5) / HEAT_SIDE, (float(row) + 0.5) / HEAT_SIDE

    def strongest(self, count: int) -> "Look":
        """The same with its `count` heaviest points."""
        kept = np.argsort(-self.weights, kind="stable")[:count]
        return Look(self.image, self.xy[kept], self.weights[kept])

    def to_json(self) -> dict[str, Any]:
        """Points as [x, y, weight]."""
        points = np.column_stack([self.xy, self.weights]).round(_DIGITS).tolist()
        return {"image": self.image, "share": round(self.share, _DIGITS), "hottest": self.hottest(), "points": points}


@dataclass(frozen=True, slots=True)
class Reading:
    """Everything that one word or region read; the shares of its pictures and the null share sum to 1."""

    looks: tuple[Look, ...]
    """One entry per picture it could see, in reading order; empty where there is no earlier picture."""
    null_share: float
    """Share of the attention that went to no picture."""
    null_by_layer: tuple[float, ...]
    """The same for each layer."""

    def to_json(self) -> dict[str, Any]:
        return {
            "null_share": round(self.null_share, _DIGITS),
            "null_by_layer": [round(share, _DIGITS) for share in self.null_by_layer],
            "pictures": [look.to_json() for look in self.looks],
        }


@dataclass(frozen=True, slots=True)
class Layer:
    """A synchronizer that was listened to."""

    name: str
    gate: float | None
    """tanh of its gate: how much of what it read enters; the image decoder's have none."""


@dataclass(frozen=True, slots=True)
class Word:
    """A word, a Han character or a mark of a text."""

    text: str
    segment: int
    """Segment of the document."""
    start: int
    """First character in the segment's words as the tokens spell them."""
    end: int
    """Behind its last character."""
    tokens: tuple[int, ...]
    """Positions of its tokens in the document."""


@dataclass(frozen=True, slots=True)
class PaintedPicture:
    """Regions of one painted picture and what each read while it was painted."""

    image: int
    """Which picture of the document, counted from 0."""
    side: int
    """Regions per side."""
    noise_levels: tuple[float, ...]
    """Shares of noise at which the image decoder was listened to: 0 is the clean picture, 1 pure noise."""
    regions: tuple[tuple[Reading, ...], ...]
    """For each noise level one reading per region, row by row."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one document looked at."""

    document: Document
    texts: dict[int, str]
    """Segment → its words as the tokens spell them."""
    words: tuple[Word, ...]
    readings: tuple[Reading, ...]
    """One per word."""
    moment: Moment
    layers: tuple[Layer, ...]
    """Synchronizers of the language model."""
    pictures: tuple[PaintedPicture, ...]
    picture_layers: tuple[Layer, ...]
    """Synchronizers of the image decoder."""
    seed: int
    """Of the noise in the painted pictures."""
    model_hash: str

    def find(self, wanted: str) -> int:
        """Number of a word: its number as digits, or the word itself, which is looked for from the end of the document.

        Raises:
            ConfigError: there is no such word.
        """
        if wanted.isdecimal() and int(wanted) < len(self.words):
            return int(wanted)
        for number in reversed(range(len(self.words))):
            if self.words[number].text.lower() == wanted.strip().lower():
                return number
        known = ", ".join(dict.fromkeys(word.text for word in self.words if word.text.isalnum()))
        raise ConfigError(f"word {wanted!r}: expected 0 to {len(self.words) - 1} or a word of the document, got neither. Words: {known}.")

    def region(self, image: int, row: int, column: int) -> Reading:
        """What one region read, averaged over the noise levels; pictures, rows and columns count from 0.

        Raises:
            ConfigError: the picture was not traced, or has no such region.
        """
        for picture in self.pictures:
            if picture.image == image and 0 <= row < picture.side and 0 <= column < picture.side:
                return average([level[row * picture.side + column] for level in picture.regions])
        traced = ", ".join(f"{picture.image} (0 to {picture.side - 1})" for picture in self.pictures) or "none"
        raise ConfigError(
            f"region {image},{row},{column}: expected a painted picture, a row and a column; pictures that have them: {traced}."
        )

    def to_json(self) -> dict[str, Any]:
        """Everything as JSON-ready objects, each picture named by its number and SHA-256."""
        words = [
            {
                "text": word.text,
                "segment": word.segment,
                "characters": [word.start, word.end],
                "tokens": list(word.tokens),
                **read.to_json(),
            }
            for word, read in zip(self.words, self.readings, strict=True)
        ]
        pictures = [
            {
                "image": picture.image,
                "side": picture.side,
                "levels": [
                    {"noise": level, "regions": [region.to_json() for region in regions]}
                    for level, regions in zip(picture.noise_levels, picture.regions, strict=True)
                ],
            }
            for picture in self.pictures
        ]
        return {
            "model_hash": self.model_hash,
            "moment": self.moment,
            "seed": self.seed,
            "layers": [{"name": layer.name, "gate": layer.gate} for layer in self.layers],
            "picture_layers": [layer.name for layer in self.picture_layers],
            "images": [{"image": number, "sha256": image.sha256, "alt": image.alt} for number, image in enumerate(self.document.images)],
            "texts": [{"segment": index, "text": text} for index, text in self.texts.items()],
            "words": words,
            "painted": pictures,
        }


def average(readings: Sequence[Reading]) -> Reading:
    """Readings of the same pictures as one, each with an equal part."""
    part = 1 / len(readings)
    looks = tuple(
        Look(same[0].image, np.concatenate([look.xy for look in same]), np.concatenate([look.weights for look in same]) * part)
        for same in zip(*(reading.looks for reading in readings), strict=True)
    )
    layers = np.mean([reading.null_by_layer for reading in readings], axis=0)
    return Reading(looks, float(np.mean([reading.null_share for reading in readings])), tuple(float(share) for share in layers))


def image_places(document: Document) -> dict[int, int]:
    """Segment → number of the picture that stands there."""
    segments = [index for index, segment in enumerate(document) if isinstance(segment, Image)]
    return {segment: number for number, segment in enumerate(segments)}


def text_places(document: Document) -> list[int]:
    """Segments that hold words."""
    return [index for index, segment in enumerate(document) if isinstance(segment, Text)]
