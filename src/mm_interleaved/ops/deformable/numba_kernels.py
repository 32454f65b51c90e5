"""The compiled loops of `compiled.py`: one (row, head) after the other, every point's four cells added straight into the result.

Nothing is written down but the result: no index, no tap weight, no copy of the table. Imported only where numba is installed; numba
brings its own code generator, so that the user's machine needs no compiler. Each function is compiled at its first call per dtype
(seconds) and kept on disk for later processes where the disk allows it.

What keeps the inner loops vectorised: rows are taken as slices (an index that could be negative is checked at every element), and
`one` carries the dtype of the arithmetic (`1 - x` of a float32 would be a float64).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

Array = NDArray[Any]


def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    function = inspect.unwrap(function)  # a type checker may stand around it
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # neither the package's folder nor the user's cache can be written
        return njit(**options)(function)


def _wide(stored: Any) -> Any:
    """A stored number as the arithmetic takes it; bfloat16 comes as its sixteen bits, the upper half of a float32."""
    raise NotImplementedError


@overload(_wide, inline="always", strict=False)
def _wide_overload(stored: Any) -> Any:
    if isinstance(stored, types.Integer):
        return lambda stored: np.uint32(np.uint32(stored) << np.uint32(16)).view(np.float32)
    return lambda stored: stored


@_compiled
def forward(table: Array, levels: Array, points: Array, weights: Array, one: Any, result: Array, begin: int, end: int) -> None:
    """Fills `result` for the (row, head) pairs `begin` to `end`.

    Args:
        table: cells of all rows, `B S H D`, flat; floating-point numbers, or the bits of bfloat16 as uint16.
        levels: `L 3`: height, width and first cell of each level.
        points: `B Q H G P 2`, fractions.
        weights: `B Q H L P`.
        one: the number 1 in the dtype of points, weights and result.
        result: `B Q H D`.
    """
    queries, heads, width = result.shape[1], result.shape[2], result.shape[3]
    cells = table.shape[0] // max(1, result.shape[0] * heads * width)
    count, per_level = levels.shape[0], points.shape[4]
    share = count // max(1, points.shape[3])
    stride = heads * width
    half = one / (one + one)
    total = np.empty(width, result.dtype)
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = (row * cells * heads + head) * width
        for query in range(queries):
            total[:] = 0
            for level in range(count):
                rows, columns = levels[level, 0], levels[level, 1]
                scale_y, scale_x = one * rows, one * columns
                for point in range(per_level):
                    x = points[row, query, head, level // share, point, 0] * scale_x - half
                    y = points[row, query, head, level // share, point, 1] * scale_y - half
                    if not (x > -one and y > -one and x < scale_x and y < scale_y):
                        continue  # every cell lies outside; a point that is no number ends here too
                    floor_x, floor_y = np.floor(x), np.floor(y)
                    left, top = int(floor_x), int(floor_y)
                    right_share, lower_share = x - floor_x, y - floor_y
                    weight = weights[row, query, head, level, point]
                    upper, lower = weight * (one - lower_share), weight * lower_share
                    first = base + (levels[level, 2] + top * columns + left) * stride
                    if left >= 0 and top >= 0 and left + 1 < columns and top + 1 < rows:
                        a, b = upper * (one - right_share), upper * right_share
                        c, d = lower * (one - right_share), lower * right_share
                        below = first + columns * stride
                        upper_left = table[first : first + width]
                        upper_right = table[first + stride : first + stride + width]
                        lower_left = table[below : below + width]
                        lower_right = table[below + stride : below + stride + width]
                        for i in range(width):
                            total[i] += (
                                a * _wide(upper_left[i]) + b * _wide(upper_right[i]) + c * _wide(lower_left[i]) + d * _wide(lower_right[i])
                            )
                        continue
                    for corner in range(4):
                        step_x, step_y = corner % 2, corner // 2
                        if 0 <= left + step_x < columns and 0 <= top + step_y < rows:
                            a = (lower if step_y else upper) * (right_share if step_x else one - right_share)
                            place = first + (step_y * columns + step_x) * stride
                            cell = table[place : place + width]
                            for i in range(width):
                                total[i] += a * _wide(cell[i])
            result[row, query, head] = total


@_compiled
def backward(
    table: Array,
    levels: Array,
    points: Array,
    weights: Array,
    one: Any,
    gradient: Array,
    to_table: Array,
    to_points: Array,
    to_weights: Array,
    begin: int,
    end: int,
) -> None:
    """Adds the gradients of the (row, head) pairs `begin` to `end`; different pairs write to different places.

    Args:
        gradient: of the result, `B Q H D`.
        to_table: zeros in the shape of `table`, or of length 0 where nobody asks.
        to_points: zeros in the shape of `points`.
        to_weights: in the shape of `weights`; whatever is there is overwritten.
    """
    queries, heads, width = gradient.shape[1], gradient.shape[2], gradient.shape[3]
    cells = table.shape[0] // max(1, gradient.shape[0] * heads * width)
    count, per_level = levels.shape[0], points.shape[4]
    share = count // max(1, points.shape[3])
    stride = heads * width
    half, zero = one / (one + one), one - one
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = (row * cells * heads + head) * width
        for query in range(queries):
            wanted = gradient[row, query, head]
            for level in range(count):
                rows, columns = levels[level, 0], levels[level, 1]
                scale_y, scale_x = one * rows, one * columns
                for point in range(per_level):
                    x = points[row, query, head, level // share, point, 0] * scale_x - half
                    y = points[row, query, head, level // share, point, 1] * scale_y - half
                    if not (x > -one and y > -one and x < scale_x and y < scale_y):
                        to_weights[row, query, head, level, point] = zero
                        continue
                    floor_x, floor_y = np.floor(x), np.floor(y)
                    left, top = int(floor_x), int(floor_y)
                    right_share, lower_share = x - floor_x, y - floor_y
                    left_share, upper_share = one - right_share, one - lower_share
                    weight = weights[row, query, head, level, point]
                    first = base + (levels[level, 2] + top * columns + left) * stride
                    # What each of the four cells would add to the loss.
                    a, b, c, d = zero, zero, zero, zero
                    if left >= 0 and top >= 0 and left + 1 < columns and top + 1 < rows:
                        below = first + columns * stride
                        upper_left = table[first : first + width]
                        upper_right = table[first + stride : first + stride + width]
                        lower_left = table[below : below + width]
                        lower_right = table[below + stride : below + stride + width]
                        for i in range(width):
                            a += wanted[i] * upper_left[i]
                            b += wanted[i] * upper_right[i]
                            c += wanted[i] * lower_left[i]
                            d += wanted[i] * lower_right[i]
                        if to_table.shape[0]:
                            _add(to_table[first : first + width], weight * upper_share * left_share, wanted)
                            _add(to_table[first + stride : first + stride + width], weight * upper_share * right_share, wanted)
                            _add(to_table[below : below + width], weight * lower_share * left_share, wanted)
                            _add(to_table[below + stride : below + stride + width], weight * lower_share * right_share, wanted)
                    else:
                        for corner in range(4):
                            step_x, step_y = corner % 2, corner // 2
                            if not (0 <= left + step_x < columns and 0 <= top + step_y < rows):
                                continue
                            place = first + (step_y * columns + step_x) * stride
                            cell = table[place : place + width]
                            product = zero
                            for i in range(width):
                                product += wanted[i] * cell[i]
                            if corner == 0:
                                a = product
                            elif corner == 1:
                                b = product
                            elif corner == 2:
                                c = product
                            else:
                                d = product
                            if to_table.shape[0]:
                                part = (lower_share if step_y else upper_share) * (right_share if step_x else left_share)
                                _add(to_table[place : place + width], weight * part, wanted)
                    to_weights[row, query, head, level, point] = upper_share * (left_share * a + right_share * b) + lower_share * (
                        left_share * c + right_share * d
                    )
                    to_points[row, query, head, level // share, point, 0] += (
                        weight * scale_x * (upper_share * (b - a) + lower_share * (d - c))
                    )
                    to_points[row, query, head, level // share, point, 1] += (
                        weight * scale_y * (left_share * (c - a) + right_share * (d - b))
                    )


@_compiled
def _add(target: Array, factor: Any, source: Array) -> None:
    for i in range(target.shape[0]):
        target[i] += factor * source[i]
