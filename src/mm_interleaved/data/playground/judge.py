"""A judge that needs no network: it finds the drawings in a picture and names the nearest thing and style.

It reads the ground colour from the border, cuts out what differs from it, shrinks that to 24 x 24 pixels and takes the nearest of all
templates. The templates pass through the same steps on the same ground colour, so white drawings on white lose the same parts.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from mm_interleaved.data.playground.pack import Pack
from mm_interleaved.data.playground.scene import GROUNDS, Item, Scene, compose
from mm_interleaved.errors import ShapeError

TEMPLATE_SIDE = 24
"""Side in pixels at which drawings are compared."""
PICTURE_SIDE = 64
"""Side in pixels at which templates are drawn: that of the pictures the smallest model makes."""
DIFFERENT = 24
"""Largest channel difference (of 255) from the ground that still counts as ground."""
SMALLEST_SHARE = 0.004
"""Connected parts below this share of the picture are dust."""
NEAR = 0.04
"""Parts whose boxes are closer than this fraction of the side belong to one drawing (an umbrella's drip, an i's dot)."""


class TemplateJudge:
    """Nearest of all (thing, style) templates."""

    def __init__(self, pack: Pack, things: Sequence[int], styles: Sequence[int]) -> None:
        """Takes the candidates; templates are made when a ground is first met.

        Args:
            pack: the drawings.
            things: pack indices of the things that may be named.
            styles: pack indices of the styles that may be named.
        """
        self.pack = pack
        self.pairs = [(thing, style) for thing in things for style in styles]
        self._templates: dict[int, np.ndarray] = {}

    def best(self, picture: np.ndarray) -> tuple[int, int]:
        """The thing and style of a picture with one drawing.

        Args:
            picture: H W 3 uint8.

        Raises:
            ShapeError: the array is not such a picture.
        """
        _check(picture)
        mask, ground = _foreground(picture)
        return self._nearest(picture, _drawing(mask), ground)

    def items(self, picture: np.ndarray) -> list[tuple[int, int]]:
        """Thing and style of every separate drawing, from left to right; empty when there is nothing on the ground."""
        _check(picture)
        mask, ground = _foreground(picture)
        return [self._nearest(picture, box, ground) for box in _boxes(mask)]

    def distance(self, picture: np.ndarray, thing: int, style: int) -> float:
        """Root mean square difference to one template, in units of the full 0-255 range; 0 is the same drawing."""
        _check(picture)
        mask, ground = _foreground(picture)
        wanted = self._bank(ground)[self.pairs.index((thing, style))]
        return float(np.sqrt(np.mean((_shrink(picture, _drawing(mask)) - wanted) ** 2)) / 255)

    def is_drawing(self, picture: np.ndarray, thing: int, style: int) -> bool:
        """Whether the picture is this drawing: nearest to it among all candidates, and nearer than the candidate most like it is.

        `best` alone names something for every blob; a picture as far from a drawing as another drawing is not that drawing.

        Args:
            picture: H W 3 uint8.
            thing, style: pack indices of a candidate.

        Raises:
            ShapeError: the array is not such a picture.
        """
        _check(picture)
        mask, ground = _foreground(picture)
        bank, row = self._bank(ground), self.pairs.index((thing, style))
        distances = ((bank - _shrink(picture, _drawing(mask))) ** 2).sum(1)
        to_others = np.delete(((bank - bank[row]) ** 2).sum(1), row)
        return int(distances.argmin()) == row and bool(distances[row] < to_others.min())

    def _nearest(self, picture: np.ndarray, box: tuple[int, int, int, int], ground: int) -> tuple[int, int]:
        bank = self._bank(ground)
        distances = ((bank - _shrink(picture, box)[None]) ** 2).sum(1)
        return self.pairs[int(distances.argmin())]

    def _bank(self, ground: int) -> np.ndarray:
        """Templates on one ground, pairs x features, float32."""
        if ground not in self._templates:
            rows = []
            for thing, style in self.pairs:
                item = Item(thing=thing, style=style, centre_x=0.5, centre_y=0.5, size=0.8)
                picture = compose(Scene(ground=ground, items=(item,)), self.pack, PICTURE_SIDE)
                rows.append(_shrink(picture, _drawing(_differs(picture, np.array(GROUNDS[ground].colour)))))
            self._templates[ground] = np.stack(rows)
        return self._templates[ground]


def _check(picture: np.ndarray) -> None:
    if picture.ndim != 3 or picture.shape[2] != 3 or picture.dtype != np.uint8 or min(picture.shape[:2]) < 8:
        raise ShapeError(f"the judge reads H W 3 uint8 pictures of at least 8 pixels a side; this is {picture.shape} {picture.dtype}.")


def _foreground(picture: np.ndarray) -> tuple[np.ndarray, int]:
    """Where the picture differs from its ground, and the nearest ground of the palette (by its border's median colour)."""
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    colour = np.median(border, axis=0)
    ground = int(np.argmin([np.abs(colour - np.array(entry.colour)).sum() for entry in GROUNDS]))
    return _differs(picture, colour), ground


def _differs(picture: np.ndarray, colour: np.ndarray) -> np.ndarray:
    return np.abs(picture.astype(np.int16) - colour.astype(np.int16)).max(2) > DIFFERENT


def _drawing(mask: np.ndarray) -> tuple[int, int, int, int]:
    """Left, top, right, bottom of all parts together, dust left out: a stray pixel of a painted picture would shift what is compared.
    The whole picture when nothing is there."""
    boxes = _boxes(mask)
    if not boxes:
        return 0, 0, mask.shape[1], mask.shape[0]
    lefts, tops, rights, bottoms = zip(*boxes, strict=True)
    return min(lefts), min(tops), max(rights), max(bottoms)


def _shrink(picture: np.ndarray, box: tuple[int, int, int, int]) -> np.ndarray:
    """The box as TEMPLATE_SIDE² x 3 colours and its shape (width to height), as one feature row of float32."""
    small = Image.fromarray(picture).resize((TEMPLATE_SIDE, TEMPLATE_SIDE), Image.Resampling.BOX, box=box)
    width, height = box[2] - box[0], box[3] - box[1]
    # The crop is stretched to a square; its proportions would be lost. A doubled width weighs like 20 grey levels everywhere.
    shape = np.full(TEMPLATE_SIDE**2, 20.0 * np.log2(width / height), np.float32)
    return np.concatenate([np.asarray(small, np.float32).ravel(), shape])


def _boxes(mask: np.ndarray) -> list[tuple[int, int, int, int]]:
    """Boxes of the connected parts, near ones joined, dust left out, from left to right."""
    boxes = [box for box, area in _components(mask) if area >= SMALLEST_SHARE * mask.size]
    gap = NEAR * max(mask.shape)
    joined = True
    while joined:
        joined = False
        for one in range(len(boxes)):
            for other in range(one + 1, len(boxes)):
                if _overlap(boxes[one], boxes[other], gap):
                    a, b = boxes[one], boxes.pop(other)
                    boxes[one] = (min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3]))
                    joined = True
                    break
            if joined:
                break
    return sorted(boxes, key=lambda box: box[0] + box[2])


def _overlap(one: tuple[int, int, int, int], other: tuple[int, int, int, int], gap: float) -> bool:
    return one[0] - gap < other[2] and other[0] - gap < one[2] and one[1] - gap < other[3] and other[1] - gap < one[3]


def _components(mask: np.ndarray) -> list[tuple[tuple[int, int, int, int], int]]:
    """Eight-connected parts as (box, area), in the order of their first pixels: a run of pixels joins the runs that it touches in the
    row above. scipy, which has this, is no dependency."""
    edges = np.diff(np.pad(mask.astype(np.int8), ((0, 0), (1, 1))), axis=1)
    rows, starts = np.nonzero(edges == 1)
    stops = np.nonzero(edges == -1)[1]
    joined: list[int] = []  # by run: an earlier run of the same part, or itself

    def first(run: int) -> int:
        while joined[run] != run:
            run = joined[run]
        return run

    runs = list(zip(rows.tolist(), starts.tolist(), stops.tolist(), strict=True))
    above = 0  # first run that may touch the present one
    for run, (row, start, stop) in enumerate(runs):
        joined.append(run)
        while runs[above][0] < row - 1:
            above += 1
        for other in range(above, run):
            other_row, other_start, other_stop = runs[other]
            if other_row == row:
                break
            if other_start <= stop and start <= other_stop:
                one, two = first(run), first(other)
                joined[max(one, two)] = min(one, two)
    found: dict[int, list[int]] = {}
    for run, (row, start, stop) in enumerate(runs):
        part = found.setdefault(first(run), [start, row, stop, row + 1, 0])
        part[:] = [min(part[0], start), part[1], max(part[2], stop), row + 1, part[4] + stop - start]
    return [((left, top, right, bottom), area) for left, top, right, bottom, area in found.values()]
