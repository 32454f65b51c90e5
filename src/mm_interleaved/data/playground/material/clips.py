"""Clips of the robot arm, from the collection `robot`: frames with white objects, coloured here."""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from PIL import Image, UnidentifiedImageError

from mm_interleaved.data.playground.material.collection import load_collection
from mm_interleaved.errors import DataError

NAME = "robot"
VERSION = 1

Colour = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Clip:
    """One thing that the arm does, as four frames; backwards it is the reverse."""

    name: str
    action: str
    shape: str
    """What is moved."""
    second: str
    """What else stands there."""


@lru_cache(maxsize=1)
def clips() -> tuple[Clip, ...]:
    """All clips, in the order in which they were rendered."""
    return tuple(Clip(**entry) for entry in load_collection(NAME, VERSION).content["clips"])


@lru_cache(maxsize=1)
def reverses() -> dict[str, str]:
    """Action -> the action that its frames show backwards."""
    return dict(load_collection(NAME, VERSION).content["pairs"])


def frame(clip: Clip, number: int, moved: Colour, second: Colour | None) -> Image.Image:
    """One frame.

    Args:
        number: 0 to 3.
        moved: sRGB colour of what is moved.
        second: colour of what else stands there; None leaves it as it was rendered.

    Raises:
        DataError: the frame is missing or unreadable.
    """
    pixels, mask = _pair(clip.name, number)
    found = pixels
    for colour, channel in ((moved, 0), (second, 1)):
        if colour is not None:
            share = mask[..., channel : channel + 1]
            # White times colour: shading stays, in integers, so that every machine gets the same.
            found = (found * ((255 - share) * 255 + share * np.array(colour, np.uint32)) + 32512) // 65025
    return Image.fromarray(found.astype(np.uint8))


def _pair(name: str, number: int) -> tuple[np.ndarray, np.ndarray]:
    collection = load_collection(NAME, VERSION)
    try:
        pair = [Image.open(io.BytesIO(collection.read(f"{name}-{number}{end}.webp"))).convert("RGB") for end in ("", "-mask")]
    except (UnidentifiedImageError, OSError) as error:
        raise DataError(f"frame {number} of {name} cannot be read ({error}); run `mmi data build PACKAGES --part robot`.") from error
    return np.asarray(pair[0], np.uint32), np.asarray(pair[1], np.uint32)
