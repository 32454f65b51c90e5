"""Deformable attention as compiled loops on CPUs, where numba is installed: `pip install mm-interleaved[fast]`.

The (row, head) pairs are shared out over as many threads as torch may use; a pair's gradient touches no other pair's cells, so nothing
is locked and results do not depend on the number of threads. Forward reads bfloat16 tables as they lie; all else that is narrower
than float32 is widened first, sums are float32 or float64.

Registered as a custom operator, so that autograd and `torch.compile` take it as one piece.
Axes: B rows · S cells of all levels · H heads · D head width · Q queries · L levels · G groups of levels that share points · P points.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib.util import find_spec
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

WORTH_A_THREAD = 2**20
"""Multiplications below which a second thread costs more than it saves (one decoding step has 0.4 million)."""

PARTS_PER_THREAD = 2
"""Parts of the work for each thread, so that one that is late holds up little."""


def deformable_attention(
    values: Float[Tensor, "B S H D"],
    level_shapes: Sequence[tuple[int, int]],
    points_xy: Float[Tensor, "B Q H G P 2"],
    weights: Float[Tensor, "B Q H L P"],
) -> Float[Tensor, "B Q H D"]:
    """See `mm_interleaved.ops.deformable.deformable_attention`."""
    return _forward(values, [side for shape in level_shapes for side in shape], points_xy, weights)


def unsupported(values: Tensor) -> str | None:
    """Returns why this path cannot run on `values`, or None if it can."""
    if values.device.type != "cpu":
        return f"compiled: made for CPU tensors, the values are on {values.device.type}"
    if values.dtype not in SUPPORTED_DTYPES:
        return f"compiled: values are {values.dtype}, supported are {', '.join(str(dtype) for dtype in SUPPORTED_DTYPES)}"
    return _missing()


def unsuited(values: Tensor) -> str | None:
    """Returns why another path is faster on `values`, or None: nothing on a CPU is faster than this one."""
    return None


@cache
def _missing() -> str | None:
    if find_spec("numba") is None:
        return "compiled: numba is not installed (pip install 'mm-interleaved[fast]')"
    try:
        _kernels()
    except ImportError as error:  # numba refuses numpy versions that it does not know
        return f"compiled: numba cannot be used: {error}"
    return None


def _kernels() -> Any:
    from mm_interleaved.ops.deformable import numba_kernels  # numba takes half a second to import: only when it is used

    return numba_kernels


@torch.library.custom_op("mm_interleaved::deformable_compiled", mutates_args=())
def _forward(values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor) -> Tensor:
    numeric = torch.promote_types(values.dtype, torch.float32)
    result = torch.empty(values.shape[0], points_xy.shape[1], *values.shape[2:], dtype=numeric)
    table = values.contiguous().view(torch.uint16) if values.dtype == torch.bfloat16 else values.to(numeric).contiguous()
    arrays = (table.flatten().numpy(), *_arrays(sides, points_xy, weights, numeric), result.numpy())
    _share_out(_kernels().forward, arrays, pairs=result.shape[0] * result.shape[2], work=4 * weights.numel() * values.shape[3])
    return result.to(values.dtype)


@_forward.register_fake
def _(values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor) -> Tensor:
    return values.new_empty(values.shape[0], points_xy.shape[1], *values.shape[2:])


@torch.library.custom_op("mm_interleaved::deformable_compiled_backward", mutates_args=())
def _backward(
    values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor, gradient: Tensor, to_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    numeric = torch.promote_types(values.dtype, torch.float32)
    table = values.to(numeric).contiguous()
    gradient = gradient.to(numeric).contiguous()
    found_values = torch.zeros_like(table) if to_values else table.new_empty(0)
    found_points = torch.zeros(points_xy.shape, dtype=numeric)
    found_weights = torch.empty(weights.shape, dtype=numeric)
    arrays = (table.flatten().numpy(), *_arrays(sides, points_xy, weights, numeric), gradient.numpy())
    arrays += (found_values.flatten().numpy(), found_points.numpy(), found_weights.numpy())
    pairs = gradient.shape[0] * gradient.shape[2]
    _share_out(_kernels().backward, arrays, pairs=pairs, work=12 * weights.numel() * values.shape[3])
    return found_values.to(values.dtype), found_points.to(points_xy.dtype), found_weights.to(weights.dtype)


@_backward.register_fake
def _(
    values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor, gradient: Tensor, to_values: bool
) -> tuple[Tensor, Tensor, Tensor]:
    found = torch.empty_like(values, memory_format=torch.contiguous_format) if to_values else values.new_empty(0)
    return found, points_xy.new_empty(points_xy.shape), weights.new_empty(weights.shape)


def _remember(ctx: Any, inputs: tuple[Tensor, Sequence[int], Tensor, Tensor], output: Tensor) -> None:
    values, ctx.sides, points_xy, weights = inputs
    ctx.save_for_backward(values, points_xy, weights)


def _gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor]:
    values, points_xy, weights = ctx.saved_tensors
    found = _backward(values, ctx.sides, points_xy, weights, gradient, ctx.needs_input_grad[0])
    return found[0] if ctx.needs_input_grad[0] else None, None, found[1], found[2]


_forward.register_autograd(_gradients, setup_context=_remember)


def _arrays(sides: Sequence[int], points_xy: Tensor, weights: Tensor, numeric: torch.dtype) -> tuple[Any, ...]:
    shapes = torch.tensor(sides, dtype=torch.int64).view(-1, 2)
    areas = shapes.prod(dim=1)
    levels = torch.cat([shapes, (areas.cumsum(0) - areas)[:, None]], dim=1)
    one = torch.ones((), dtype=numeric).numpy()[()]
    return levels.numpy(), points_xy.to(numeric).contiguous().numpy(), weights.to(numeric).contiguous().numpy(), one


def _share_out(kernel: Callable[..., None], arrays: tuple[Any, ...], *, pairs: int, work: int) -> None:
    threads = torch.get_num_threads()
    if threads == 1 or work < WORTH_A_THREAD:
        kernel(*arrays, 0, pairs)
        return
    parts = min(pairs, threads * PARTS_PER_THREAD)
    borders = [pairs * part // parts for part in range(parts + 1)]
    runs = [_pool(os.getpid(), threads).submit(kernel, *arrays, *border) for border in itertools.pairwise(borders)]
    for run in runs:
        run.result()


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    # Threads do not survive a fork: a child process gets its own.
    return ThreadPoolExecutor(threads, thread_name_prefix="deformable-attention")
