"""Deformable attention: each query reads a few weighted points of several feature maps.

One public function; `reference` is the definition, the other files are faster forms of it, chosen in the order of `BACKENDS`.
"""

import logging
from collections.abc import Sequence
from functools import cache
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from mm_interleaved.errors import BackendError, ShapeError
from mm_interleaved.ops.deformable import compiled, gather, reference, triton

Backend = Literal["auto", "triton", "compiled", "gather", "reference"]

BACKENDS = {"triton": triton, "compiled": compiled, "gather": gather, "reference": reference}
"""Fastest first. Each offers `deformable_attention`, `unsupported(values)` (why it cannot run) and `unsuited(values)` (why another
one is faster), both a reason or None."""

_logger = logging.getLogger(__name__)


def deformable_attention(
    values: Float[Tensor, "B S H D"],
    level_shapes: Sequence[tuple[int, int]],
    points_xy: Float[Tensor, "B Q H G P 2"],
    weights: Float[Tensor, "B Q H L P"],
    *,
    backend: Backend = "auto",
) -> Float[Tensor, "B Q H D"]:
    """Adds up weighted bilinear samples of every level.

    Args:
        values: cells of all levels one after another, each level row-major.
        level_shapes: (height, width) of each level in cells, L of them; their areas add up to S.
        points_xy: fractions of a level's width and height; (0, 0) is the top-left corner of the map, (1, 1) the bottom-right.
            Taps outside the map count as zero (`grid_sample` with zero padding and align_corners False). G is L, or a divisor of L:
            then L/G levels in a row share one set of points (all levels of an image, in MMFS).
        weights: factor of each sample; the caller has normalised them.
        backend: `auto` takes the first backend that can run; a name runs that one or says why not.

    Raises:
        ShapeError: the areas of `level_shapes` do not add up to S, or their number differs from L.
        BackendError: the requested backend is unknown or cannot run here.
    """
    area, levels, groups = sum(height * width for height, width in level_shapes), len(level_shapes), points_xy.shape[3]
    if area != values.shape[1] or levels != weights.shape[3] or groups == 0 or levels % groups:
        raise ShapeError(
            f"deformable_attention: level_shapes {tuple(level_shapes)} has {levels} levels of {area} cells, "
            f"values has {values.shape[1]} cells, weights {weights.shape[3]} levels and points_xy {groups} groups of levels."
        )
    if backend == "auto":
        name = next(name for name in BACKENDS if _reason(name, values) is None)
        if not torch.compiler.is_compiling():
            _log_once(name, values.device.type)
    elif backend not in BACKENDS:
        raise BackendError(f"no backend '{backend}' for deformable attention; there are {', '.join(BACKENDS)}.")
    else:
        name = backend
        reason = BACKENDS[name].unsupported(values)
        if reason is not None:
            raise BackendError(f"{reason}; use backend='auto' or backend='reference'.")
    return BACKENDS[name].deformable_attention(values, level_shapes, points_xy, weights)


def reasons(values: Float[Tensor, "B S H D"]) -> dict[str, str | None]:
    """Why each path is passed over for such values, in the order of choice; the first without a reason is the one that runs."""
    return {name: _reason(name, values) for name in BACKENDS}


def _reason(name: str, values: Tensor) -> str | None:
    return BACKENDS[name].unsupported(values) or BACKENDS[name].unsuited(values)


@cache
def _log_once(name: str, device: str) -> None:
    _logger.info("deformable attention on %s runs '%s'", device, name)
