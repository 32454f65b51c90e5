"""Deformable attention as one weighted sum of table rows: fused and vectorised on CPUs by torch alone.

A bilinear sample is a weighted sum of four cells, so a head's whole output is a weighted sum of 4·L·P rows of the value table:
`embedding_bag` with per-sample weights. Two things make it fast. Work goes in pieces of a few (row, head) pairs whose index and weights
stay in the processor's cache; and the gradient of the table is a second `embedding_bag`, over the same taps sorted by cell, that reads
rows of the incoming gradient (the stock backward of `embedding_bag` takes nine times as long).

Axes: B rows · S cells of all levels · H heads · D head width · Q queries · L levels · G groups of levels that share points · P points.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from mm_interleaved.ops.deformable.registered import as_it_lies, misplaced, operator

NARROWEST_HEAD = 32
"""Below this head width the bookkeeping of the taps costs more than their rows: at 16, `grid_sample` was twice as fast backward."""

TAPS_AT_ONCE = 2**18
"""Taps of one piece: 2 MiB of index and weights. Less costs calls, more falls out of the cache."""


def unsupported(values: Tensor) -> str | None:
    """Returns why this path cannot run on `values`, or None if it can."""
    reason = misplaced("gather", values, device="cpu")
    if reason is not None:
        return reason
    if values.numel() == 0:
        return "gather: no cells to read from"
    if values.shape[:3].numel() >= 2**31:
        return f"gather: {values.shape[:3].numel()} table rows, an index of 32 bits reaches {2**31 - 1}"
    return None


def unsuited(values: Tensor) -> str | None:
    """Returns why another path is faster on `values`, or None; `auto` passes over a path that is unsuited."""
    if values.shape[3] < NARROWEST_HEAD:
        return f"gather: heads are {values.shape[3]} wide, below {NARROWEST_HEAD} `grid_sample` is faster"
    return None


def _forward(values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor) -> Tensor:
    result = values.new_empty(values.shape[0], points_xy.shape[1], *values.shape[2:])
    levels, axes = _Levels.of(sides), _order(values)
    for rows, heads in _pieces(weights):
        table = values[rows, :, heads].permute(axes)
        taps = _taps(levels, points_xy[rows, :, heads], table.shape, axes)
        bags = functional.embedding_bag(
            taps.index,
            table.reshape(-1, table.shape[3]),
            mode="sum",
            per_sample_weights=taps.weights(weights[rows, :, heads]).to(values.dtype),
        )
        result[rows, :, heads] = bags.view(*weights[rows, :, heads].shape[:3], -1)
    return result


def _backward(
    values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor, gradient: Tensor, to_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    numeric = torch.promote_types(values.dtype, torch.float32)
    axes = _order(values)
    found_values = torch.zeros_like(as_it_lies(values)) if to_values else values.new_empty(0)
    found_points = torch.empty_like(points_xy, memory_format=torch.contiguous_format)
    found_weights = torch.empty_like(weights, memory_format=torch.contiguous_format)
    levels = _Levels.of(sides)
    for rows, heads in _pieces(weights):
        part = values[rows, :, heads].permute(axes)
        table = part.to(numeric).reshape(-1, part.shape[3])
        wanted = gradient[rows, :, heads].to(numeric).reshape(-1, part.shape[3])
        taps = _taps(levels, points_xy[rows, :, heads], part.shape, axes)
        factors = weights[rows, :, heads].to(numeric)
        if to_values:
            found = _to_table(taps.index, taps.weights(factors), wanted, len(table)).view_as(part)
            found_values[rows, :, heads] = found.permute(axes)
        products = _products(taps.index, table, wanted).view(*factors.shape[:3], 2, 2, *factors.shape[3:])
        over_y = (products * taps.share_y[..., :, None, :, :]).sum(dim=3)  # B Q H x L P
        over_x = (products * taps.share_x[..., None, :, :, :]).sum(dim=4)  # B Q H y L P
        found_weights[rows, :, heads] = (over_y * taps.share_x).sum(dim=3)
        slope_x = (over_y[..., 1, :, :] * taps.inside_x[..., 1, :, :] - over_y[..., 0, :, :] * taps.inside_x[..., 0, :, :]) * factors
        slope_y = (over_x[..., 1, :, :] * taps.inside_y[..., 1, :, :] - over_x[..., 0, :, :] * taps.inside_y[..., 0, :, :]) * factors
        slopes = torch.stack([slope_x * levels.width, slope_y * levels.height], dim=-1)
        found_points[rows, :, heads] = slopes.unflatten(3, (points_xy.shape[3], -1)).sum(dim=4)
    return found_values, found_points, found_weights


deformable_attention = operator("gather", _forward, _backward)


def _pieces(weights: Float[Tensor, "B Q H L P"]) -> Iterator[tuple[slice, slice]]:
    """Slices of rows and of heads: several rows with all heads, or one row with some heads; none where there is no tap."""
    rows, queries, heads, levels, points = weights.shape
    if weights.numel() == 0:
        return
    pairs = max(1, TAPS_AT_ONCE // (4 * queries * levels * points))
    row_step, head_step = max(1, pairs // heads), min(heads, pairs)
    for row in range(0, rows, row_step):
        for head in range(0, heads, head_step):
            yield slice(row, row + row_step), slice(head, head + head_step)


@dataclass(frozen=True)
class _Levels:
    """Numbers of each level, `L 1`."""

    width: Tensor
    height: Tensor
    start: Tensor

    @staticmethod
    def of(sides: Sequence[int]) -> "_Levels":
        shapes = torch.tensor(sides, dtype=torch.int32).view(-1, 2)
        areas = shapes.prod(dim=1, dtype=torch.int32)
        start = areas.cumsum(0, dtype=torch.int32) - areas
        return _Levels(width=shapes[:, 1:], height=shapes[:, :1], start=start[:, None])


@dataclass(frozen=True)
class _Taps:
    """The four cells around every point: which rows of the piece's table, and what share of the sample each has."""

    index: Int[Tensor, "bags taps"]
    """Taps of one bag (row, query, head) in the order y, x, level, point."""
    share_x: Float[Tensor, "B Q H 2 L P"]
    """Share of the left and the right cells; zero where they lie outside."""
    share_y: Float[Tensor, "B Q H 2 L P"]
    inside_x: Bool[Tensor, "B Q H 2 L P"]
    inside_y: Bool[Tensor, "B Q H 2 L P"]

    def weights(self, factors: Float[Tensor, "B Q H L P"]) -> Float[Tensor, "bags taps"]:
        weighted = self.share_y * factors[..., None, :, :]
        return (weighted[..., :, None, :, :] * self.share_x[..., None, :, :, :]).view(self.index.shape)


def _order(values: Float[Tensor, "B S H D"]) -> tuple[int, int, int, int]:
    """The axes of the table in the order in which they lie; a permutation that is its own inverse."""
    return (0, 1, 2, 3) if values.is_contiguous() else (0, 2, 1, 3)


def _taps(levels: _Levels, points_xy: Float[Tensor, "B Q H G P 2"], table: Sequence[int], axes: tuple[int, int, int, int]) -> _Taps:
    """Taps of a piece whose table has the sides `table`, in the order `axes`."""
    rows, queries, heads = points_xy.shape[:3]
    steps = (table[1] * table[2], table[2], 1)  # between two rows and along the two middle axes
    row_step, cell_step, head_step = steps[0], steps[axes[1]], steps[axes[2]]
    x_cell, share_x, inside_x = _along(points_xy[..., 0], levels.width)
    y_cell, share_y, inside_y = _along(points_xy[..., 1], levels.height)
    row_start = torch.arange(rows, dtype=torch.int32).view(-1, 1, 1, 1, 1, 1) * row_step
    head_start = torch.arange(heads, dtype=torch.int32).view(-1, 1, 1, 1) * head_step
    line = (y_cell * levels.width + levels.start) * cell_step + row_start + head_start
    index = line[..., :, None, :, :] + (x_cell * cell_step)[..., None, :, :, :]
    return _Taps(index.view(rows * queries * heads, -1), share_x, share_y, inside_x, inside_y)


def _along(places: Float[Tensor, "B Q H G P"], sizes: Int[Tensor, "L 1"]) -> tuple[Tensor, Tensor, Tensor]:
    """The two cells next to each point along one axis, their shares, and whether they lie on the map; `B Q H 2 L P`."""
    per_group = sizes.view(places.shape[3], -1, 1)
    pixel = (places[..., None, :] * per_group - 0.5).flatten(3, 4)  # cell centres at whole numbers
    floor = pixel.floor()
    beyond = pixel - floor
    cell = torch.stack([floor, floor + 1], dim=3)
    inside = (cell >= 0) & (cell < sizes)
    # Cells outside weigh nothing; any row of the table may stand in, also for a point that is no number.
    share = torch.where(inside, torch.stack([1 - beyond, beyond], dim=3), 0.0)
    return torch.minimum(cell.to(torch.int32).clamp_min(0), sizes - 1), share, inside


def _to_table(index: Tensor, tap_weights: Tensor, wanted: Float[Tensor, "bags D"], rows: int) -> Float[Tensor, "rows D"]:
    """The transposed sum: every table row receives the gradients of the bags that read it."""
    ordered, order = torch.sort(index.flatten())
    starts = torch.searchsorted(ordered, torch.arange(rows, dtype=torch.int32), out_int32=True)
    bags = torch.div(order, index.shape[1], rounding_mode="floor").to(torch.int32)
    return functional.embedding_bag(bags, wanted, starts, mode="sum", per_sample_weights=tap_weights.flatten()[order])


def _products(index: Tensor, table: Float[Tensor, "rows D"], wanted: Float[Tensor, "bags D"]) -> Float[Tensor, "bags taps"]:
    """The product of each tap's row with the gradient of its bag: the gradient of `embedding_bag` in its weights.

    The operator is the one that autograd calls; autograd itself records nothing inside a custom operator.
    """
    bags, taps = index.shape
    starts = torch.arange(0, bags * taps, taps, dtype=index.dtype)
    bag_of_tap = torch.arange(bags, dtype=index.dtype).repeat_interleave(taps)
    found = torch.ops.aten._embedding_bag_per_sample_weights_backward(wanted, table, index.flatten(), starts, bag_of_tap, 0, -1)
    return found.view(bags, taps)
