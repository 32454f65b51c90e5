"""Boxes in words: `(x1,y1)(x2,y2)` in thousandths of the picture's width and height, 0 to 999."""

from __future__ import annotations

import re

Box = tuple[float, float, float, float]
"""Left, top, right, bottom as fractions of width and height."""

_BOX = re.compile(r"\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)\s*\(\s*(\d{1,3})\s*,\s*(\d{1,3})\s*\)")


def in_words(box: Box) -> str:
    """ "(120,300)(455,610)"."""
    left, top, right, bottom = (min(999, max(0, round(edge * 1000))) for edge in box)
    return f"({left},{top})({right},{bottom})"


def read(text: str) -> Box | None:
    """The first box in a text, its corners put in order; None when there is none."""
    found = _BOX.search(text)
    if found is None:
        return None
    one_x, one_y, other_x, other_y = (int(number) / 1000 for number in found.groups())
    return min(one_x, other_x), min(one_y, other_y), max(one_x, other_x), max(one_y, other_y)


def overlap(one: Box, other: Box) -> float:
    """Intersection over union, 0 to 1."""
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    shared = max(0.0, width) * max(0.0, height)
    whole = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other)) - shared
    return shared / whole if whole > 0 else 0.0
