"""What the tasks with pictures of their own share: a canvas larger than the picture, letters on it, and no drawing where nobody looks."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from mm_interleaved.data.playground.material.lettering import Face

SIDE = 448
"""Side of a canvas in pixels. Pictures are drawn at this size whatever the wanted one, so that places in them never depend on it."""
UNSEEN = 16
"""Pictures below this side in pixels are not drawn: they belong to documents of which only the words are read."""

Colour = tuple[int, int, int]


def picture(side: int, draw: Callable[[], Image.Image]) -> np.ndarray:
    """Draws a canvas and scales it to the wanted side.

    Returns:
        side side 3 uint8 sRGB.
    """
    if side < UNSEEN:
        return np.full((side, side, 3), 128, np.uint8)
    return np.asarray(draw().resize((side, side), Image.Resampling.BOX if SIDE % side == 0 else Image.Resampling.BICUBIC))


def write(canvas: Image.Image, at: tuple[float, float], text: str, face: Face, size: int, colour: Colour, anchor: str = "mm") -> None:
    """Writes a text.

    Args:
        at: place of the anchor in pixels.
        size: of the font in pixels.
        anchor: Pillow's two letters, "mm" for the middle.

    Raises:
        DataError: the font lacks a character.
    """
    face.check(text)
    ImageDraw.Draw(canvas).text(at, text, colour, font=face.at(size), anchor=anchor)
