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
def forward(
    table: Array,
    steps: tuple[int, int, int],
    levels: Array,
    points: Array,
    weights: Array,
    pitch: int,
    one: Any,
    result: Array,
    begin: int,
    end: int,
) -> None:
    """Fills `result` for the (row, head) pairs `begin` to `end`.

    Args:
        table: cells of all rows and heads, flat; floating-point numbers, or the bits of bfloat16 as uint16.
        steps: how far apart in it are two rows, two cells and two heads.
        levels: `L 3`: height, width and first cell of each level.
        points: `B Q H G P 2`, fractions.
        weights: `B Q H L*P`, flat, with `pitch` numbers from one head to the next.
        one: the number 1 in the dtype of points, weights and result.
        result: `B Q H D`.
    """
    queries, heads, width = result.shape[1], result.shape[2], result.shape[3]
    row_step, stride, head_step = steps
    count, per_level = levels.shape[0], points.shape[4]
    share = count // max(1, points.shape[3])
    used = count * per_level
    padded = used + used % 2  # two points at a time below; the last one of an odd number meets a weight of 0
    sizes = np.empty((3, used), np.int32)
    for level in range(count):
        sizes[:, level * per_level : (level + 1) * per_level] = levels[level].reshape(3, 1)
    rows, columns, first = sizes[0], sizes[1], sizes[2]
    x, y = np.empty(used, result.dtype), np.empty(used, result.dtype)
    places = np.zeros((4, padded), np.int32)
    shares = np.zeros((4, padded), result.dtype)
    total = np.empty(width, result.dtype)
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = row * row_step + head * head_step
        for query in range(queries):
            for level in range(count):
                found = points[row, query, head, level // share]
                across, down = x[level * per_level :], y[level * per_level :]
                for point in range(per_level):
                    across[point], down[point] = found[point, 0], found[point, 1]
            start = ((row * queries + query) * heads + head) * pitch
            _four_cells(x, y, weights[start : start + used], rows, columns, first, one, places, shares)
            total[:] = 0
            for point in range(0, padded, 2):
                a, b, c, d = shares[0, point], shares[1, point], shares[2, point], shares[3, point]
                e, f, g, h = shares[0, point + 1], shares[1, point + 1], shares[2, point + 1], shares[3, point + 1]
                cell_a = _cell(table, base + places[0, point] * stride, width)
                cell_b = _cell(table, base + places[1, point] * stride, width)
                cell_c = _cell(table, base + places[2, point] * stride, width)
                cell_d = _cell(table, base + places[3, point] * stride, width)
                cell_e = _cell(table, base + places[0, point + 1] * stride, width)
                cell_f = _cell(table, base + places[1, point + 1] * stride, width)
                cell_g = _cell(table, base + places[2, point + 1] * stride, width)
                cell_h = _cell(table, base + places[3, point + 1] * stride, width)
                for i in range(width):
                    total[i] += (a * _wide(cell_a[i]) + b * _wide(cell_b[i]) + (c * _wide(cell_c[i]) + d * _wide(cell_d[i]))) + (
                        e * _wide(cell_e[i]) + f * _wide(cell_f[i]) + (g * _wide(cell_g[i]) + h * _wide(cell_h[i]))
                    )
            result[row, query, head] = total


@_compiled
def _cell(table: Array, begin: int, width: int) -> Array:
    return table[begin : begin + width]


@_compiled
def _four_cells(
    x: Array, y: Array, weights: Array, rows: Array, columns: Array, first: Array, one: Any, places: Array, shares: Array
) -> None:
    """The four cells around each of some points and what each of them counts; a cell outside its level counts 0, as does every cell
    of a point that is no number.

    Args:
        x: fractions of the width.
        rows: of each point's level, as `columns` and its `first` cell.
        places: `4 P`, filled: upper left, upper right, lower left, lower right.
        shares: `4 P`, filled.
    """
    half, zero = one / (one + one), one - one
    none, next_one = np.int32(0), np.int32(1)
    upper_left, upper_right, lower_left, lower_right = places[0], places[1], places[2], places[3]
    share_a, share_b, share_c, share_d = shares[0], shares[1], shares[2], shares[3]
    # Written without a branch, and with slices that start at 0: so eight or sixteen points are computed at once.
    for k in range(x.shape[0]):
        wide, high = columns[k], rows[k]
        to_x, to_y = one * wide, one * high
        at_x, at_y = x[k] * to_x - half, y[k] * to_y - half
        at_x, at_y = at_x if at_x > -one else -one, at_y if at_y > -one else -one
        at_x, at_y = at_x if at_x < to_x else to_x, at_y if at_y < to_y else to_y
        floor_x, floor_y = np.floor(at_x), np.floor(at_y)
        left, top = np.int32(floor_x), np.int32(floor_y)
        right_share, lower_share = at_x - floor_x, at_y - floor_y
        left_share, upper_share = one - right_share, weights[k] * (one - lower_share)
        lower_share = weights[k] * lower_share
        left_share = left_share if (left >= none) & (left < wide) else zero
        right_share = right_share if left + next_one < wide else zero
        upper_share = upper_share if (top >= none) & (top < high) else zero
        lower_share = lower_share if top + next_one < high else zero
        from_left, from_right = min(max(left, none), wide - next_one), min(left + next_one, wide - next_one)
        from_top = first[k] + min(max(top, none), high - next_one) * wide
        from_bottom = first[k] + min(top + next_one, high - next_one) * wide
        upper_left[k], upper_right[k] = from_top + from_left, from_top + from_right
        lower_left[k], lower_right[k] = from_bottom + from_left, from_bottom + from_right
        share_a[k], share_b[k] = upper_share * left_share, upper_share * right_share
        share_c[k], share_d[k] = lower_share * left_share, lower_share * right_share


@_compiled
def backward(
    table: Array,
    steps: tuple[int, int, int],
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
        to_table: zeros in the shape and order of `table`, or of length 0 where nobody asks.
        to_points: zeros in the shape of `points`.
        to_weights: in the shape of `weights`; whatever is there is overwritten.
    """
    queries, heads, width = gradient.shape[1], gradient.shape[2], gradient.shape[3]
    row_step, stride, head_step = steps
    count, per_level = levels.shape[0], points.shape[4]
    share = count // max(1, points.shape[3])
    half, zero = one / (one + one), one - one
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = row * row_step + head * head_step
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
