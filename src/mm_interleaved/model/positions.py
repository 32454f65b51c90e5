"""Fixed sine-cosine position tables in one and two dimensions, and their resizing.

Source: arXiv 2401.10208; the tables of the release (spec: visual tokenizer, image decoder, context of the image decoder).
Deviations: none. Frequencies and angles are float32 numbers, as the published ones: at position 2000 that is 1e-4 away from exact.
Axes: L positions · S cells of a square grid, row-major · W width · h w target grid.
"""

from __future__ import annotations

import math

import numpy
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from mm_interleaved.errors import ShapeError

BASE = 10000.0
"""Ratio between the slowest and the fastest frequency."""


def sincos_1d(positions: Int[Tensor, " L"] | Float[Tensor, " L"], width: int) -> Float[Tensor, "L {width}"]:
    """Encodes positions as [sin(p w_0) … sin(p w_n), cos(p w_0) … cos(p w_n)] with w_i = 10000^(-i / (width / 2)).

    Args:
        positions: in any unit; the fastest wave turns by one radian per unit.
        width: even.

    Raises:
        ShapeError: `width` is odd.
    """
    if width % 2:
        raise ShapeError(f"A 1-D sine-cosine table needs an even width, got {width}; choose a multiple of 2.")
    exponents = numpy.arange(width // 2, dtype=numpy.float32) / numpy.float32(width // 2)
    frequencies = torch.from_numpy(1 / numpy.float32(BASE) ** exponents).to(positions.device, non_blocking=True)
    angles = positions.float()[:, None] * frequencies  # L W/2
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(side: int, width: int) -> Float[Tensor, "{side}*{side} {width}"]:
    """Encodes the cells of a square grid, row-major: the row index in the first half of the width, the column in the second.

    Raises:
        ShapeError: `width` is no multiple of 4.
    """
    if width % 4:
        raise ShapeError(f"A 2-D sine-cosine table needs a width that is a multiple of 4, got {width}.")
    line = sincos_1d(torch.arange(side), width // 2)  # side W/2
    rows = line[:, None, :].expand(side, side, width // 2)
    columns = line[None, :, :].expand(side, side, width // 2)
    return torch.cat([rows, columns], dim=2).reshape(side * side, width)


def resize_table(table: Float[Tensor, "S W"], shape: tuple[int, int]) -> Float[Tensor, "h w W"]:
    """Resizes the table of a square grid to `shape` = (h, w) by bicubic interpolation (align_corners False) in its own dtype.

    Raises:
        ShapeError: the number of rows is no square.
    """
    cells, width = table.shape
    side = math.isqrt(cells)
    if side * side != cells:
        raise ShapeError(f"A position table of {cells} rows is not that of a square grid; pass the grid cells without the class row.")
    grid = table.view(side, side, width)
    if shape == (side, side):
        return grid
    channels_first = grid.permute(2, 0, 1)[None]
    return F.interpolate(channels_first, size=shape, mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
