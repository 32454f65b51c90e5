"""The kernels of `triton.py`: one program per (row, query, head), a tile of points × head width at a time.

Imported only where triton is installed. Sums are float32, or float64 for float64 values. Triton looks names up while it compiles and
knows none of `typing`: arguments carry no annotation but `tl.constexpr`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import triton
import triton.language as tl


def _jit(function: Callable[..., Any]) -> Any:
    return triton.jit(inspect.unwrap(function))  # a type checker may stand around it


@_jit
def _corner(x, y, rows, columns, known, STEP_X: tl.constexpr, STEP_Y: tl.constexpr):
    """One of the four cells around each point: its number in the level, its shares along x and y, and whether it lies on the map."""
    left, top = tl.floor(x), tl.floor(y)
    cell_x, cell_y = left + STEP_X, top + STEP_Y
    inside = known & (cell_x >= 0) & (cell_x < columns) & (cell_y >= 0) & (cell_y < rows)
    share_x = x - left if STEP_X else 1 - (x - left)
    share_y = y - top if STEP_Y else 1 - (y - top)
    cell = tl.where(inside, cell_y, 0).to(tl.int64) * columns + tl.where(inside, cell_x, 0).to(tl.int64)
    return cell, tl.where(inside, share_x, 0.0), tl.where(inside, share_y, 0.0), inside


@_jit
def forward(
    values,
    levels,
    points,
    weights,
    result,
    row_step,
    cell_step,
    head_step,
    queries,
    heads,
    width,
    count,
    share,
    per_level,
    POINTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """`result[program]` is the sum over `count` levels of `per_level` points each; `share` levels in a row have the same points.

    Points of weight 0, which is what images that a query does not see have, are not read.
    """
    program = tl.program_id(0).to(tl.int64)  # (row * queries + query) * heads + head
    table = values + program // (heads * queries) * row_step + program % heads * head_step
    column = tl.arange(0, COLUMNS)
    total = tl.zeros([POINTS, COLUMNS], SUM)
    for level in range(count):
        rows, columns = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
        start = tl.load(levels + 3 * level + 2).to(tl.int64)
        for first in range(0, per_level, POINTS):
            point = first + tl.arange(0, POINTS)
            known = point < per_level
            place = points + ((program * (count // share) + level // share) * per_level + point) * 2
            x = tl.load(place, mask=known, other=0).to(SUM) * columns - 0.5
            y = tl.load(place + 1, mask=known, other=0).to(SUM) * rows - 0.5
            weight = tl.load(weights + (program * count + level) * per_level + point, mask=known, other=0).to(SUM)
            for corner in tl.static_range(4):
                cell, share_x, share_y, inside = _corner(x, y, rows, columns, known & (weight != 0), corner % 2, corner // 2)
                where = table + ((start + cell) * cell_step)[:, None] + column[None, :]
                read = tl.load(where, mask=inside[:, None] & (column < width)[None, :], other=0).to(SUM)
                total += (weight * share_x * share_y)[:, None] * read
    tl.store(result + program * width + column, tl.sum(total, axis=0).to(result.dtype.element_ty), mask=column < width)


@_jit
def backward(
    values,
    levels,
    points,
    weights,
    gradient,
    to_values,
    to_points,
    to_weights,
    row_step,
    cell_step,
    head_step,
    queries,
    heads,
    width,
    count,
    share,
    per_level,
    WITH_VALUES: tl.constexpr,
    POINTS: tl.constexpr,
    COLUMNS: tl.constexpr,
    SUM: tl.constexpr,
):
    """Adds to `to_values` (zeros before), fills `to_points` and `to_weights`; the three are float32 or float64."""
    program = tl.program_id(0).to(tl.int64)
    base = program // (heads * queries) * row_step + program % heads * head_step
    column = tl.arange(0, COLUMNS)
    wanted = tl.load(gradient + program * width + column, mask=column < width, other=0).to(SUM)
    for group in range(count // share):
        for first in range(0, per_level, POINTS):
            point = first + tl.arange(0, POINTS)
            known = point < per_level
            place = ((program * (count // share) + group) * per_level + point) * 2
            share_of_width = tl.load(points + place, mask=known, other=0).to(SUM)
            share_of_height = tl.load(points + place + 1, mask=known, other=0).to(SUM)
            slope_x, slope_y = tl.zeros([POINTS], SUM), tl.zeros([POINTS], SUM)
            for member in range(share):
                level = group * share + member
                rows, columns = tl.load(levels + 3 * level), tl.load(levels + 3 * level + 1)
                start = tl.load(levels + 3 * level + 2).to(tl.int64)
                x, y = share_of_width * columns - 0.5, share_of_height * rows - 0.5
                own = (program * count + level) * per_level + point
                weight = tl.load(weights + own, mask=known, other=0).to(SUM)
                to_weight = tl.zeros([POINTS], SUM)
                for corner in tl.static_range(4):
                    cell, share_x, share_y, inside = _corner(x, y, rows, columns, known, corner % 2, corner // 2)
                    where = base + ((start + cell) * cell_step)[:, None] + column[None, :]
                    mask = inside[:, None] & (column < width)[None, :]
                    product = tl.sum(tl.load(values + where, mask=mask, other=0).to(SUM) * wanted[None, :], axis=1)
                    to_weight += share_x * share_y * product
                    slope_x += weight * columns * share_y * (product if corner % 2 else -product)
                    slope_y += weight * rows * share_x * (product if corner // 2 else -product)
                    if WITH_VALUES:
                        added = (weight * share_x * share_y)[:, None] * wanted[None, :]
                        tl.atomic_add(to_values + where, added, mask=mask & (weight != 0)[:, None], sem="relaxed")
                tl.store(to_weights + own, to_weight, mask=known)
            tl.store(to_points + place, slope_x, mask=known)
            tl.store(to_points + place + 1, slope_y, mask=known)
