"""Deformable attention as compiled loops on CPUs, where numba is installed: `pip install mm-interleaved[fast]`.

The (row, head) pairs are shared out over as many threads as torch may use; a pair's gradient touches no other pair's cells, so nothing
is locked and results do not depend on the number of threads. Forward reads bfloat16 tables as they lie; all else that is narrower
than float32 is widened first, sums are float32 or float64.

Axes: B rows · S cells of all levels · H heads · D head width · Q queries · L levels · G groups of levels that share points · P points.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mm_interleaved.ops.deformable.registered import as_it_lies, misplaced, operator
from mm_interleaved.ops.loops import missing, share_out, unit

MOST_RECENT_LOGIT = 30.0
"""Largest logit of a rank for which `read` may multiply exponentials instead of adding logits: the product keeps its digits."""

LARGEST_LOGIT = 40.0
"""Up to here a query's exponentials need no division by the largest: times those of a rank, and summed, they stay below 1e33."""


def unsupported(values: Tensor) -> str | None:
    """Returns why this path cannot run on `values`, or None if it can."""
    reason = misplaced("compiled", values, device="cpu")
    return missing() if reason is None else reason


def unsuited(values: Tensor) -> str | None:
    """Returns why another path is faster on `values`, or None: nothing on a CPU is faster than this one."""
    return None


def _kernels() -> Any:
    from mm_interleaved.ops.deformable import numba_kernels  # numba takes half a second to import: only when it is used

    return numba_kernels


def _forward(values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor) -> Tensor:
    numeric = torch.promote_types(values.dtype, torch.float32)
    result = torch.empty(values.shape[0], points_xy.shape[1], *values.shape[2:], dtype=numeric)
    values = as_it_lies(values)
    table = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values.to(numeric)
    factors = weights.flatten(3).to(numeric)
    pitch = factors.stride(2)
    if factors.stride() != (weights.shape[1] * weights.shape[2] * pitch, weights.shape[2] * pitch, pitch, 1):
        factors, pitch = factors.contiguous(), factors.shape[3]
    # Numbers between two heads, such as the share of a sink, are passed over where they lie.
    packed = factors.as_strided((max(0, (factors.shape[:3].numel() - 1) * pitch + factors.shape[3]),), (1,))
    levels, points = _levels(sides), points_xy.to(numeric).contiguous().numpy()
    arrays = (_flat(table), table.stride()[:3], levels, points, packed.numpy(), pitch, unit(values.shape[3], numeric), result.numpy())
    share_out(_kernels().forward, arrays, parts=result.shape[0] * result.shape[2], work=4 * weights.numel() * values.shape[3])
    return result.to(values.dtype)


def _backward(
    values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor, gradient: Tensor, to_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    numeric = torch.promote_types(values.dtype, torch.float32)
    table = as_it_lies(values).to(numeric)
    gradient = gradient.to(numeric).contiguous()
    found_values = torch.zeros_like(table) if to_values else table.new_empty(0)
    found_points = torch.zeros(points_xy.shape, dtype=numeric)
    found_weights = torch.empty(weights.shape, dtype=numeric)
    levels, points = _levels(sides), points_xy.to(numeric).contiguous().numpy()
    factors = weights.to(numeric).contiguous().numpy()
    given = (_flat(table), table.stride()[:3], levels, points, factors, unit(values.shape[3], numeric), gradient.numpy())
    found = (_flat(found_values), found_points.numpy(), found_weights.numpy())
    pairs = gradient.shape[0] * gradient.shape[2]
    share_out(_kernels().backward, (*given, *found), parts=pairs, work=12 * weights.numel() * values.shape[3])
    return found_values.to(values.dtype), found_points.to(points_xy.dtype), found_weights.to(weights.dtype)


deformable_attention = operator("compiled", _forward, _backward)


def read(
    values: Float[Tensor, "B N S H D"],
    level_shapes: Sequence[tuple[int, int]],
    offsets: Float[Tensor, "B Q H P 2"],
    logits: Float[Tensor, "B Q H LP"],
    recent_offsets: Float[Tensor, "R H P 2"],
    recent_factors: Float[Tensor, "R H LP"],
    ranks: Int[Tensor, "B Q1 N"],
    reference_xy: Float[Tensor, "B1 Q 2"],
    scale: Float[Tensor, "2"],
    null: Float[Tensor, "H D"],
) -> Float[Tensor, "B Q H D"]:
    """All that MMFS does between its projections, in one loop and without gradients; see `MMFS.forward`.

    Args:
        level_shapes: (height, width) of each level of one image.
        offsets: of each query; those of an image's rank are added.
        logits: of each query, level and point; those of an image's rank are added, the sink's is 0.
        recent_offsets: of each rank.
        recent_factors: exponentials of the logits of each rank, which lie between -`MOST_RECENT_LOGIT` and it.
        ranks: of each image, for every query or (Q1 = 1) the same for all; 0 is not seen.
        reference_xy: where each query stands, fractions.
        scale: of offsets across and down, fractions.
        null: what the sink gives.
    """
    numeric = torch.promote_types(values.dtype, torch.float32)
    result = torch.empty(*offsets.shape[:3], values.shape[4], dtype=numeric)
    images, cells = values.shape[1:3]
    values = as_it_lies(values.flatten(1, 2))
    table = values.view(torch.uint16) if values.dtype == torch.bfloat16 else values.to(numeric)
    factors, sinks = _exponentials(logits.to(numeric))
    given = (offsets, factors, sinks, recent_offsets, recent_factors)
    queries = [part.to(numeric).contiguous().numpy() for part in given]
    places = [part.to(numeric).contiguous().numpy() for part in (reference_xy, scale, null.flatten())]
    arrays = (
        _flat(table),
        table.stride()[:3],
        _levels(level_shapes),
        cells,
        *queries,
        ranks.contiguous().numpy(),
        *places,
        unit(values.shape[3], numeric),
        result.numpy(),
    )
    work = 4 * logits.numel() * images * values.shape[3]
    share_out(_kernels().read, arrays, parts=result.shape[0] * result.shape[2], work=work)
    return result


def _exponentials(logits: Float[Tensor, "B Q H LP"]) -> tuple[Float[Tensor, "B Q H LP"], Float[Tensor, "B Q H"]]:
    """Of the logits and of the sink's, which is 0; where one would grow too large, divided by the largest of a query's head."""
    if logits.numel() == 0 or float(logits.amax()) <= LARGEST_LOGIT:
        return logits.exp(), logits.new_ones(logits.shape[:3])
    highest = logits.amax(-1, keepdim=True).clamp(min=0)
    return (logits - highest).exp_(), (-highest[..., 0]).exp_()


def _flat(table: Tensor) -> Any:
    return table.as_strided((table.numel(),), (1,)).numpy()  # as it lies in memory, whichever axis comes first


def _levels(sides: Sequence[int] | Sequence[tuple[int, int]]) -> Any:
    shapes = torch.tensor(sides, dtype=torch.int64).view(-1, 2)
    areas = shapes.prod(dim=1)
    return torch.cat([shapes, (areas.cumsum(0) - areas)[:, None]], dim=1).numpy()
