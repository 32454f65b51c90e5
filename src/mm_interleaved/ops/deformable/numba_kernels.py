"""The compiled loops of `compiled.py`: one (row, head) after the other, every point's four cells added straight into the result.

Nothing large is written down but the result: no index, no copy of the table. Imported only where numba is installed; numba brings its
own code generator, so that the user's machine needs no compiler. Each function is compiled at its first call per dtype and number of
lanes (seconds) and kept on disk for later processes where the disk allows it.

What keeps the loops fast: a head's numbers are taken as vectors (`numba_lanes`), the cells of some queries' points are found together
and without a branch, so that the compiler vectorises that too, and are asked for before they are read where they lie far away. Nothing is
wider than it must be: `unit` carries the dtype of the arithmetic (`1 - x` of a float32 would be a float64, and so would a float32 times an
int32), and every sum of places is said to be an int32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mm_interleaved.ops.numba_lanes import add_product, add_scaled, compiled_loop, fetch, load, store, summed, zeros

Array = NDArray[Any]

TOGETHER = 256
"""Points whose cells are found together: as many as fit into the innermost cache beside the cells themselves."""

FAR = 2**19
"""Bytes of a head's cells that a core no longer keeps in its second cache beside all else: they are asked for before they are read, if
they are read seldom."""

SELDOM = 32
"""Readings of each cell below which that pays; where neighbours read the same cells, they mostly lie near already."""

LINE = 64
"""Bytes that come from memory at once."""


@compiled_loop
def forward(
    table: Array,
    steps: tuple[int, int, int],
    levels: Array,
    points: Array,
    weights: Array,
    pitch: int,
    unit: tuple[Any, ...],
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
        unit: ones in the dtype of points, weights and result, as many as numbers are taken at a time; divides D.
        result: `B Q H D`.
    """
    queries, heads, width = result.shape[1], result.shape[2], result.shape[3]
    row_step, stride, head_step = steps
    count, per_level = levels.shape[0], points.shape[4]
    share = count // max(1, points.shape[3])
    used = count * per_level
    together = max(1, min(queries, TOGETHER // max(1, used)))
    sizes = np.empty((3, together * used), np.int32)
    for one in range(together):
        for level in range(count):
            at = one * used + level * per_level
            sizes[:, at : at + per_level] = levels[level].reshape(3, 1)
    sides, most = sizes[:2].astype(result.dtype), together * used
    x, y, factors = np.empty(most, result.dtype), np.empty(most, result.dtype), np.empty(most, result.dtype)
    places, shares = np.empty((4, most), np.int32), np.empty((4, most), result.dtype)
    flat = result.reshape(-1)
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = row * row_step + head * head_step
        for query in range(0, queries, together):
            wanted = min(together, queries - query)
            for one in range(wanted):
                start = ((row * queries + query + one) * heads + head) * pitch
                factors[one * used : (one + 1) * used] = weights[start : start + used]
                for level in range(count):
                    found = points[row, query + one, head, level // share]
                    at = one * used + level * per_level
                    across, down = x[at : at + per_level], y[at : at + per_level]
                    for point in range(per_level):
                        across[point], down[point] = found[point, 0], found[point, 1]
            _four_cells(x[: wanted * used], y, factors, sizes, sides, unit[0], places, shares)
            for one in range(wanted):
                target = ((row * queries + query + one) * heads + head) * width
                for lane in range(0, width, len(unit)):
                    total = _summed_cells(table, base + lane, stride, places, shares, one * used, (one + 1) * used, unit)
                    store(flat, target + lane, total)


@compiled_loop
def read(
    table: Array,
    steps: tuple[int, int, int],
    levels: Array,
    cells: int,
    offsets: Array,
    factors: Array,
    sinks: Array,
    recent_offsets: Array,
    recent_factors: Array,
    ranks: Array,
    reference: Array,
    scale: Array,
    null: Array,
    unit: tuple[Any, ...],
    result: Array,
    begin: int,
    end: int,
) -> None:
    """Fills `result` for the (row, head) pairs `begin` to `end` with all that MMFS reads, between its projections.

    The logit of a sample is a query's plus one of its image's rank, so its exponential is a product of two that are known before: a
    softmax costs here one product a sample, and neither places nor weights are written down.

    Args:
        table: as in `forward`.
        steps: as in `forward`.
        levels: `L 3`: height, width and first cell of each level of one image.
        cells: of one image.
        offsets: `B Q H P 2`, of each query.
        factors: `B Q H L*P`, exponentials of its logits, all divided by the same.
        sinks: `B Q H`, the exponential of the sink's logit, divided by the same.
        recent_offsets: `R H P 2`, of each rank; rank 0, an image that is not seen, is not read.
        recent_factors: `R H L*P`, exponentials of its logits.
        ranks: `B Q|1 N`.
        reference: `B|1 Q 2`, where each query stands, fractions.
        scale: `2`, of offsets across and down.
        null: `H*D`, what the sink gives.
        unit: as in `forward`.
        result: `B Q H D`.
    """
    queries, heads, width = result.shape[1], result.shape[2], result.shape[3]
    row_step, stride, head_step = steps
    images, count, points = ranks.shape[2], levels.shape[0], offsets.shape[3]
    share = count * points
    used = images * share
    together = max(1, min(queries, TOGETHER // max(1, used)))
    sizes = np.empty((3, together * used), np.int32)
    for place in range(together * images):
        for level in range(count):
            at = place * share + level * points
            sizes[:, at : at + points] = levels[level].reshape(3, 1)
            sizes[2, at : at + points] += (place % images) * cells
    sides, most = sizes[:2].astype(result.dtype), together * used
    x, y, weights = np.zeros(most, result.dtype), np.zeros(most, result.dtype), np.zeros(most, result.dtype)
    places, shares = np.empty((4, most), np.int32), np.empty((4, most), result.dtype)
    seldom = 4 * queries * share < SELDOM * cells
    far = images * cells * width * table.itemsize > FAR and seldom
    totals, seen = np.empty(together, result.dtype), np.empty(together, np.int32)
    flat = result.reshape(-1)
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = row * row_step + head * head_step
        for query in range(0, queries, together):
            wanted = min(together, queries - query)
            for one in range(wanted):
                ranked = ranks[row, min(query + one, ranks.shape[1] - 1)]
                centre = reference[min(row, reference.shape[0] - 1), query + one]
                own, mine = offsets[row, query + one, head], factors[row, query + one, head]
                total, seen[one] = sinks[row, query + one, head], 0
                for image in range(images):
                    rank, at = ranked[image], (one * images + image) * share
                    if rank == 0:
                        weights[at : at + share] = 0
                        continue
                    seen[one] = (image + 1) * share
                    shift, recent, weight = recent_offsets[rank, head], recent_factors[rank, head], weights[at : at + share]
                    across, down = x[at : at + share], y[at : at + share]
                    for point in range(points):
                        across[point] = centre[0] + (own[point, 0] + shift[point, 0]) * scale[0]
                        down[point] = centre[1] + (own[point, 1] + shift[point, 1]) * scale[1]
                    for k in range(points, share):
                        across[k], down[k] = across[k - points], down[k - points]
                    for k in range(share):
                        weight[k] = mine[k] * recent[k]
                    for k in range(share):
                        total += weight[k]
                totals[one] = total
            _four_cells(x[: wanted * used], y, weights, sizes, sides, unit[0], places, shares)
            if far:
                _fetch_cells(table, base, stride, places, wanted * used, width)
            for one in range(wanted):
                target = ((row * queries + query + one) * heads + head) * width
                # A query that sees no image gives its whole weight to the sink, however small that has become.
                scaled = unit[0] / totals[one] if seen[one] else unit[0]
                nothing = sinks[row, query + one, head] * scaled if seen[one] else unit[0]
                for lane in range(0, width, len(unit)):
                    weighted = _summed_cells(table, base + lane, stride, places, shares, one * used, one * used + seen[one], unit)
                    unread = add_scaled(zeros(unit), nothing, load(null, head * width + lane, unit))
                    store(flat, target + lane, add_scaled(unread, scaled, weighted))


@compiled_loop
def _summed_cells(table: Array, base: int, stride: int, places: Array, shares: Array, begin: int, end: int, unit: tuple[Any, ...]) -> Any:
    """Lanes from `base` on of all cells of the points `begin` to `end`, weighted; see `_four_cells`."""
    # Four sums: an addition need not wait for the one before.
    cell_a, cell_b, cell_c, cell_d = places[0], places[1], places[2], places[3]
    share_a, share_b, share_c, share_d = shares[0], shares[1], shares[2], shares[3]
    a, b, c, d = zeros(unit), zeros(unit), zeros(unit), zeros(unit)
    for k in range(begin, end):
        a = add_scaled(a, share_a[k], load(table, base + cell_a[k] * stride, unit))
        b = add_scaled(b, share_b[k], load(table, base + cell_b[k] * stride, unit))
        c = add_scaled(c, share_c[k], load(table, base + cell_c[k] * stride, unit))
        d = add_scaled(d, share_d[k], load(table, base + cell_d[k] * stride, unit))
    return add_scaled(add_scaled(a, unit[0], b), unit[0], add_scaled(c, unit[0], d))


@compiled_loop
def _fetch_cells(table: Array, base: int, stride: int, places: Array, count: int, width: int) -> None:
    """Asks for the cells of the first `count` points; see `_four_cells`."""
    for corner in range(4):
        cells = places[corner]
        for k in range(count):
            for at in range(0, width, LINE // table.itemsize):
                fetch(table, base + cells[k] * stride + at)


@compiled_loop
def _four_cells(x: Array, y: Array, weights: Array, sizes: Array, sides: Array, one: Any, places: Array, shares: Array) -> None:
    """The four cells around each of some points and what each of them counts; a cell outside its level counts 0, as does every cell
    of a point that is no number.

    Args:
        x: fractions of the width.
        sizes: `3 P`, height, width and first cell of each point's level.
        sides: `2 P`, height and width in the dtype of the points.
        places: `4 P`, filled: upper left, upper right, lower left, lower right.
        shares: `4 P`, filled.
    """
    half, zero = one / (one + one), one - one
    none, next_one = np.int32(0), np.int32(1)
    rows, columns, first, heights, widths = sizes[0], sizes[1], sizes[2], sides[0], sides[1]
    upper_left, upper_right, lower_left, lower_right = places[0], places[1], places[2], places[3]
    share_a, share_b, share_c, share_d = shares[0], shares[1], shares[2], shares[3]
    # Written without a branch, with slices that start at 0, and in numbers of 32 bits: so sixteen points are computed at once.
    for k in range(x.shape[0]):
        wide, high, to_x, to_y = columns[k], rows[k], widths[k], heights[k]
        last_column, last_row = np.int32(wide - next_one), np.int32(high - next_one)
        at_x, at_y = x[k] * to_x - half, y[k] * to_y - half
        at_x, at_y = at_x if at_x > -one else -one, at_y if at_y > -one else -one
        at_x, at_y = at_x if at_x < to_x else to_x, at_y if at_y < to_y else to_y
        floor_x, floor_y = np.floor(at_x), np.floor(at_y)
        left, top = np.int32(floor_x), np.int32(floor_y)
        right, bottom = np.int32(left + next_one), np.int32(top + next_one)
        right_share, lower_share = at_x - floor_x, at_y - floor_y
        left_share, upper_share = one - right_share, weights[k] * (one - lower_share)
        lower_share = weights[k] * lower_share
        left_share = left_share if (left >= none) & (left < wide) else zero
        right_share = right_share if right < wide else zero
        upper_share = upper_share if (top >= none) & (top < high) else zero
        lower_share = lower_share if bottom < high else zero
        from_left, from_right = min(max(left, none), last_column), min(right, last_column)
        from_top = np.int32(first[k] + np.int32(min(max(top, none), last_row) * wide))
        from_bottom = np.int32(first[k] + np.int32(min(bottom, last_row) * wide))
        upper_left[k], upper_right[k] = np.int32(from_top + from_left), np.int32(from_top + from_right)
        lower_left[k], lower_right[k] = np.int32(from_bottom + from_left), np.int32(from_bottom + from_right)
        share_a[k], share_b[k] = upper_share * left_share, upper_share * right_share
        share_c[k], share_d[k] = lower_share * left_share, lower_share * right_share


@compiled_loop
def backward(
    table: Array,
    steps: tuple[int, int, int],
    levels: Array,
    points: Array,
    weights: Array,
    unit: tuple[Any, ...],
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
    one = unit[0]
    half, zero = one / (one + one), one - one
    flat = gradient.reshape(-1)
    for pair in range(begin, end):
        row, head = pair // heads, pair % heads
        base = row * row_step + head * head_step
        for query in range(queries):
            wanted = ((row * queries + query) * heads + head) * width
            for level in range(count):
                rows, columns, first = levels[level, 0], levels[level, 1], levels[level, 2]
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
                    # A cell outside its level stands for its neighbour inside and counts 0.
                    in_left, in_right = one if left >= 0 else zero, one if left + 1 < columns else zero
                    in_top, in_bottom = one if top >= 0 else zero, one if top + 1 < rows else zero
                    from_left, from_right = max(left, 0) * stride, min(left + 1, columns - 1) * stride
                    above = base + (first + max(top, 0) * columns) * stride
                    below = base + (first + min(top + 1, rows - 1) * columns) * stride
                    upper_left, upper_right, lower_left, lower_right = (
                        above + from_left,
                        above + from_right,
                        below + from_left,
                        below + from_right,
                    )
                    # What each of the four cells would add to the loss.
                    sum_a, sum_b, sum_c, sum_d = zeros(unit), zeros(unit), zeros(unit), zeros(unit)
                    for lane in range(0, width, len(unit)):
                        asked = load(flat, wanted + lane, unit)
                        sum_a = add_product(sum_a, asked, load(table, upper_left + lane, unit))
                        sum_b = add_product(sum_b, asked, load(table, upper_right + lane, unit))
                        sum_c = add_product(sum_c, asked, load(table, lower_left + lane, unit))
                        sum_d = add_product(sum_d, asked, load(table, lower_right + lane, unit))
                        if to_table.shape[0]:
                            upper, lower = weight * in_top * upper_share, weight * in_bottom * lower_share
                            _add(to_table, upper_left + lane, upper * in_left * left_share, asked, unit)
                            _add(to_table, upper_right + lane, upper * in_right * right_share, asked, unit)
                            _add(to_table, lower_left + lane, lower * in_left * left_share, asked, unit)
                            _add(to_table, lower_right + lane, lower * in_right * right_share, asked, unit)
                    a, b = in_top * in_left * summed(sum_a), in_top * in_right * summed(sum_b)
                    c, d = in_bottom * in_left * summed(sum_c), in_bottom * in_right * summed(sum_d)
                    to_weights[row, query, head, level, point] = upper_share * (left_share * a + right_share * b) + lower_share * (
                        left_share * c + right_share * d
                    )
                    to_points[row, query, head, level // share, point, 0] += (
                        weight * scale_x * (upper_share * (b - a) + lower_share * (d - c))
                    )
                    to_points[row, query, head, level // share, point, 1] += (
                        weight * scale_y * (left_share * (c - a) + right_share * (d - b))
                    )


@compiled_loop
def _add(target: Array, at: int, factor: Any, lanes: Any, unit: tuple[Any, ...]) -> None:
    store(target, at, add_scaled(load(target, at, unit), factor, lanes))
