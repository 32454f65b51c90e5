"""What the fast paths have in common: a pair of functions becomes a custom operator, which autograd and `torch.compile` take as one piece.

Level shapes travel as `sides`, a flat list of height, width, height, width …: an operator's signature knows lists of numbers, not of pairs.
Axes: B rows · S cells of all levels · H heads · D head width · Q queries · L levels · G groups of levels that share points · P points.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

SUPPORTED_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

Forward = Callable[[Tensor, Sequence[int], Tensor, Tensor], Tensor]
"""values, sides, points_xy and weights → the result, `B Q H D` in the dtype of the values."""

Backward = Callable[[Tensor, Sequence[int], Tensor, Tensor, Tensor, bool], tuple[Tensor, Tensor, Tensor]]
"""The same, the result's gradient, and whether the values ask for one → gradients of values (else of length 0), points and weights."""

Operator = Callable[
    [Float[Tensor, "B S H D"], Sequence[tuple[int, int]], Float[Tensor, "B Q H G P 2"], Float[Tensor, "B Q H L P"]],
    Float[Tensor, "B Q H D"],
]


def as_it_lies(values: Float[Tensor, "B S H D"]) -> Float[Tensor, "B S H D"]:
    """The values where they lie, if cell follows cell with all heads or head follows head with all cells; else a copy in the first order.

    Head after head is faster to sample: the cells of a head are neighbours. Cell after cell is how a projection leaves them.
    """
    return values if values.permute(0, 2, 1, 3).is_contiguous() else values.contiguous()


def operator(name: str, forward: Forward, backward: Backward) -> Operator:
    """Registers `mm_interleaved::deformable_NAME` with its gradient and returns what calls it."""
    inputs = "Tensor values, int[] sides, Tensor points_xy, Tensor weights"
    run = torch.library.custom_op(f"mm_interleaved::deformable_{name}", forward, mutates_args=(), schema=f"({inputs}) -> Tensor")
    run_backward = torch.library.custom_op(
        f"mm_interleaved::deformable_{name}_backward",
        backward,
        mutates_args=(),
        schema=f"({inputs}, Tensor gradient, bool to_values) -> (Tensor, Tensor, Tensor)",
    )

    @run.register_fake
    def _(values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor) -> Tensor:
        return values.new_empty(values.shape[0], points_xy.shape[1], *values.shape[2:])

    @run_backward.register_fake
    def _(
        values: Tensor, sides: Sequence[int], points_xy: Tensor, weights: Tensor, gradient: Tensor, to_values: bool
    ) -> tuple[Tensor, Tensor, Tensor]:
        found = torch.empty_like(as_it_lies(values)) if to_values else values.new_empty(0)
        return found, points_xy.new_empty(points_xy.shape), weights.new_empty(weights.shape)

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        values, ctx.sides, points_xy, weights = inputs
        ctx.save_for_backward(values, points_xy, weights)

    def gradients(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, None, Tensor, Tensor]:
        values, points_xy, weights = ctx.saved_tensors
        found = run_backward(values, ctx.sides, points_xy, weights, gradient, ctx.needs_input_grad[0])
        return found[0] if ctx.needs_input_grad[0] else None, None, found[1], found[2]

    run.register_autograd(gradients, setup_context=remember)

    def call(values: Tensor, level_shapes: Sequence[tuple[int, int]], points_xy: Tensor, weights: Tensor) -> Tensor:
        return run(values, [side for shape in level_shapes for side in shape], points_xy, weights)

    return call


def misplaced(path: str, values: Tensor, *, device: str) -> str | None:
    """Why `path`, made for one type of device, cannot take such values: they lie elsewhere, or are no numbers that it adds."""
    if values.device.type != device:
        return f"{path}: made for {device.upper()} tensors, the values are on {values.device.type}"
    if values.dtype not in SUPPORTED_DTYPES:
        return f"{path}: values are {values.dtype}, supported are {', '.join(str(dtype) for dtype in SUPPORTED_DTYPES)}"
    return None
