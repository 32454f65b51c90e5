"""Drawings that never look the same twice: mirrored, turned, stretched, recoloured, blurred, partly covered.

A few hundred drawings are soon known by heart, each with its name and style, and then a known thing in a style that it was never seen
in is named wrongly. For pictures that are only read: what is painted should look as the pack has it.
"""

from __future__ import annotations

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.pack import Pack

TURN = 0.3
"""Radians, to either side."""
STRETCH = 0.25
"""Change of the width against the height."""
HUE = 0.35
"""Radians on the circle of colours, to either side; more would make a lemon of an orange."""
LIGHT = 0.25
"""Change of brightness and contrast."""
COLOUR = 0.5
"""Change of colourfulness."""
COARSEST = 0.35
"""Smallest share of the resolution that blurring leaves."""
COVERED = 0.45
"""Largest share of a drawing's sides that a hole takes."""
OFTEN, SELDOM = 0.5, 0.3
"""How often drawings are mirrored, and how often blurred and covered."""


class VariedPack(Pack):
    """A pack whose drawings are altered anew in every sample, and alike within it."""

    def __init__(self, pack: Pack, seed: int, strength: float) -> None:
        """
        Args:
            pack: where drawings come from; nothing of it is copied.
            strength: 0 changes nothing but the side that a drawing faces, 1 is the full variety.
        """
        self.__dict__.update(pack.__dict__)
        self._plain = pack
        self._seed = seed
        self._strength = strength
        self._altered: dict[tuple[int, int], np.ndarray] = {}

    def drawing(self, thing_index: int, style_index: int) -> np.ndarray:
        """One drawing, altered; shape and errors are those of `Pack.drawing`."""
        key = (thing_index, style_index)
        if key not in self._altered:
            plain = Image.fromarray(self._plain.drawing(*key))
            self._altered[key] = np.asarray(alter(plain, np.random.default_rng((self._seed, *key)), self._strength))
        return self._altered[key]


def alter(drawing: Image.Image, random: np.random.Generator, strength: float) -> Image.Image:
    """A changed drawing, RGBA, cropped to what is visible."""
    turn, stretch, hue, light, contrast, colour = random.uniform(-1, 1, 6) * strength
    mirrored, blurred, covered = random.random(3) < (OFTEN, SELDOM, SELDOM)
    coarse = 1 - random.random() * (1 - COARSEST) * strength
    corner, sides = random.random(2), random.random(2) * COVERED * strength
    altered = _recoloured(drawing, HUE * hue, 1 + COLOUR * colour, 1 + LIGHT * contrast, 255 * LIGHT * light / 2)
    if covered:
        hole = [round(share * side) for share, side in zip(sides, drawing.size, strict=True)]
        left, top = (round(place * (side - gap)) for place, side, gap in zip(corner, drawing.size, hole, strict=True))
        altered.paste((0, 0, 0, 0), (left, top, left + hole[0], top + hole[1]))
    altered = _turned(altered, TURN * turn, (-1 if mirrored else 1) * (1 + STRETCH * stretch))
    if blurred:
        small = [max(1, round(side * coarse)) for side in altered.size]
        altered = altered.resize((small[0], small[1]), Image.Resampling.BILINEAR).resize(altered.size, Image.Resampling.BILINEAR)
    return altered.crop(altered.getchannel("A").getbbox())


def _turned(drawing: Image.Image, turn: float, stretch: float) -> Image.Image:
    """Stretched from left to right (mirrored by a negative factor), then turned, on as large a sheet as that needs."""
    forth = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ np.diag([stretch, 1.0])
    size = np.ceil(np.abs(forth) @ drawing.size).astype(int)
    back = np.linalg.inv(forth)
    (shift_x, shift_y) = np.array(drawing.size) / 2 - back @ (size / 2)
    matrix = (back[0, 0], back[0, 1], shift_x, back[1, 0], back[1, 1], shift_y)
    premultiplied = drawing.convert("RGBa").transform(
        (int(size[0]), int(size[1])), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR
    )
    return premultiplied.convert("RGBA")


def _recoloured(drawing: Image.Image, hue: float, colour: float, contrast: float, light: float) -> Image.Image:
    """Turned on the circle of colours, with more or less colour, contrast and light: one linear map of red, green and blue."""
    grey = np.tile(np.array([0.299, 0.587, 0.114]), (3, 1))
    across = np.eye(3) - np.ones((3, 3)) / 3
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / np.sqrt(3)
    circle = np.ones((3, 3)) / 3 + np.cos(hue) * across + np.sin(hue) * cross
    linear = contrast * (grey + colour * (np.eye(3) - grey)) @ circle
    shift = np.full((3, 1), 128 * (1 - contrast) + light)
    shown = drawing.convert("RGB").convert("RGB", tuple(np.hstack([linear, shift]).ravel().tolist()))
    shown.putalpha(drawing.getchannel("A"))
    return shown
