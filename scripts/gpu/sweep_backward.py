"""Which tile makes the backward pass of the Triton kernels fastest, at the size of the UNet. `python scripts/gpu/sweep_backward.py`

Each is held to the definition's gradients on the same device by the norm of the difference: among millions of points some lie so near to a
cell's border that rounding decides the side, and the gradient of such a point jumps. One JSON object per line; status 1 if one is wrong.
`TRITON_INTERPRET=1 python scripts/gpu/sweep_backward.py --size tiny --device cpu` runs the same code anywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from cases import Cases, seconds
from check_kernels import TIMED, TOLERANCE, Sizes, tensors
from torch import Tensor

from mm_interleaved.ops.deformable import deformable_attention
from mm_interleaved.ops.deformable import triton as path

SIZES = {"unet": TIMED["unet"], "tiny": Sizes(((3, 3), (2, 2)), share=2, rows=1, queries=3, heads=1, width=16, points=2)}
TILES = (512, 256, 128, 64)
CALLS = 5


def backward(sizes: Sizes, inputs: list[Tensor], backend: Any) -> Callable[[], Sequence[Tensor]]:
    """The backward pass alone, as often as it is called."""
    asked = [tensor.detach().requires_grad_() for tensor in inputs]
    result = deformable_attention(asked[0], sizes.shapes, *asked[1:], backend=backend)
    gradient = torch.linspace(-1, 1, result.numel(), device=result.device).to(result).view_as(result)
    return lambda: torch.autograd.grad(result, asked, gradient, retain_graph=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="unet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--at-most", type=float, default=25.0, help="seconds after which no case is begun")
    chosen = parser.parse_args()
    cases, sizes = Cases(chosen.at_most), SIZES[chosen.size]
    for dtype in (torch.float32, torch.bfloat16):
        inputs = [tensor.to(chosen.device) for tensor in tensors(sizes, dtype)]
        definition = backward(sizes, inputs, "reference")
        exact = [found.float() for found in definition()]
        named = {"dtype": str(dtype).removeprefix("torch.")}
        cases.run("definition", lambda run=definition, named=named: {**named, "seconds": repeated(run, chosen.device)})
        for tile in TILES:

            def measure(tile: int = tile, inputs: list[Tensor] = inputs, exact: list[Tensor] = exact, named: Any = named) -> dict[str, Any]:
                path.BACKWARD_TILE = tile
                run = backward(sizes, inputs, "triton")
                away = max(float((found.float() - right).norm() / right.norm()) for found, right in zip(run(), exact, strict=True))
                taken = repeated(run, chosen.device)
                return {**named, "tile": tile, "seconds": taken, "away": away, "passed": away <= TOLERANCE[inputs[0].dtype]}

            cases.run("tile", measure)
    cases.end()


def repeated(run: Callable[[], object], device: str) -> float:
    return seconds(lambda: [run() for _ in range(CALLS)], device) / CALLS


if __name__ == "__main__":
    main()
