"""Deformable attention in Triton on CUDA devices, forward and backward.

The gradient of the values is added atomically, in no fixed order: repeatable to rounding only, and refused where torch is told to be
deterministic. With `TRITON_INTERPRET=1` the kernels run on CPU tensors, slowly; that is how they are tested without a GPU.

Axes: B rows · S cells of all levels · H heads · D head width · Q queries · L levels · G groups of levels that share points · P points.
"""

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from mm_interleaved.ops.deformable.registered import as_it_lies, misplaced, operator

WIDEST_HEAD = 512
"""Head width beyond which the tile of one point alone would spill out of the registers."""

TILE = 512
"""Numbers of a tile (points × head width) that one warp holds; more points are taken one tile after the other."""

BACKWARD_TILE = 128
"""The same in the backward pass (`scripts/gpu/sweep_backward.py`)."""


def unsupported(values: Tensor) -> str | None:
    """Returns why this path cannot run on `values`, or None if it can."""
    reason = misplaced("triton", values, device="cpu" if _interpreted() else "cuda")
    if reason is not None:
        return reason
    if not _installed():
        return "triton: not installed (pip install triton)"
    if values.shape[3] > WIDEST_HEAD:
        return f"triton: heads are {values.shape[3]} wide, the widest tile is {WIDEST_HEAD}"
    if values.requires_grad and torch.are_deterministic_algorithms_enabled():
        return "triton: gradients are added in no fixed order, and torch is told to be deterministic"
    return None


def unsuited(values: Tensor) -> str | None:
    """Returns why another path is faster on `values`, or None; `auto` passes over a path that is unsuited."""
    return "triton: interpreted on the CPU, for tests only" if values.device.type != "cuda" else None


@torch.compiler.assume_constant_result
def _installed() -> bool:
    return _found()


@cache
def _found() -> bool:
    return find_spec("triton") is not None


@torch.compiler.assume_constant_result
def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET") == "1"


def _kernels() -> Any:
    from mm_interleaved.ops.deformable import triton_kernels  # only where it is used: not every machine has triton

    return triton_kernels


def _forward(values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor) -> Tensor:
    values = as_it_lies(values)
    result = values.new_empty(values.shape[0], points_xy.shape[1], *values.shape[2:])
    if result.numel():
        arrays = (values, _levels(tuple(sides), values.device), points_xy.contiguous(), weights.contiguous(), result)
        with _on(values.device):
            _kernels().forward[(result.numel() // result.shape[3],)](
                *arrays, *_sizes(values, points_xy, weights), **_tile(values, weights, TILE)
            )
    return result


def _backward(
    values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor, gradient: Tensor, to_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    numeric = torch.promote_types(values.dtype, torch.float32)
    values = as_it_lies(values)
    found_values = torch.zeros_like(values, dtype=numeric) if to_values else values.new_empty(0, dtype=numeric)
    found_points = torch.empty(points_xy.shape, dtype=numeric, device=values.device)
    found_weights = torch.empty(weights.shape, dtype=numeric, device=values.device)
    if gradient.numel():
        arrays = (values, _levels(tuple(sides), values.device), points_xy.contiguous(), weights.contiguous(), gradient.contiguous())
        found = (found_values, found_points, found_weights)
        with _on(values.device):
            _kernels().backward[(gradient.numel() // gradient.shape[3],)](
                *arrays, *found, *_sizes(values, points_xy, weights), WITH_VALUES=to_values, **_tile(values, weights, BACKWARD_TILE)
            )
    return found_values.to(values.dtype), found_points.to(points_xy.dtype), found_weights.to(weights.dtype)


deformable_attention = operator("triton", _forward, _backward)


@cache
def _levels(sides: tuple[int, ...], device: torch.device) -> Tensor:
    """Height, width and first cell of each level, in a row; copied to the device once."""
    starts = [0]
    for height, width in zip(sides[::2], sides[1::2], strict=True):
        starts.append(starts[-1] + height * width)
    numbers = [number for level in zip(sides[::2], sides[1::2], starts, strict=False) for number in level]
    return torch.tensor(numbers, dtype=torch.int32, device=device)


def _sizes(values: Tensor, points_xy: Tensor, weights: Tensor) -> tuple[int, ...]:
    levels, points = weights.shape[3:]
    return *values.stride()[:3], weights.shape[1], values.shape[2], values.shape[3], levels, levels // points_xy.shape[3], points


def _tile(values: Tensor, weights: Tensor, size: int) -> dict[str, Any]:
    import triton.language as tl

    columns = _power_of_two(values.shape[3])
    points = min(_power_of_two(weights.shape[4]), max(1, size // columns))
    return {"POINTS": points, "COLUMNS": columns, "SUM": tl.float64 if values.dtype == torch.float64 else tl.float32, "num_warps": 1}


def _power_of_two(size: int) -> int:
    return 1 << max(0, size - 1).bit_length()


def _on(device: torch.device) -> AbstractContextManager[None]:
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
