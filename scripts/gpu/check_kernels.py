"""The kernels on a CUDA device: first whether they are right, then how fast they are. `python scripts/gpu/check_kernels.py`

Right: results and gradients of every dtype and of odd sizes against the definition in float64 on the CPU; a difference beyond the dtype's
rounding ends the script with status 1. Fast: at the published sizes (16 heads of 64, 8 points), forward and with backward, Triton against
the best other path of the device, and the share of the device's measured copy bandwidth. `bytes` counts every input and output once,
`bytes_gathered` each of the four cells of every sample, which mostly come from the cache. One JSON object per line.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

from measuring import compare, machine, report

from mm_interleaved.ops.deformable import deformable_attention, reasons

DEVICE = "cuda"

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}
"""Of the largest magnitude: the rounding of results and gradients of some hundred terms."""


CALLS = 10
"""Calls in a row that are timed together, so that the device need not wait for Python."""


class Sizes(NamedTuple):
    """Sizes of one call of deformable attention; `share` levels in a row have the same points."""

    shapes: tuple[tuple[int, int], ...]
    share: int
    rows: int
    queries: int
    heads: int
    width: int
    points: int


PUBLISHED_LANGUAGE = ((32, 32), (16, 16), (8, 8))
PUBLISHED_UNET = ((64, 64), *PUBLISHED_LANGUAGE)

CHECKED = {
    "published": Sizes(PUBLISHED_LANGUAGE * 2, share=3, rows=2, queries=65, heads=16, width=64, points=8),
    "odd": Sizes(((5, 3), (2, 7), (1, 1)), share=1, rows=3, queries=7, heads=3, width=20, points=5),
    "narrow": Sizes(((28, 28), (14, 14), (7, 7)), share=3, rows=4, queries=33, heads=4, width=16, points=2),
    "wide": Sizes(((9, 9),), share=1, rows=1, queries=5, heads=2, width=300, points=3),
    "no_query": Sizes(((4, 4),), share=1, rows=1, queries=0, heads=2, width=32, points=2),
}

TIMED = {
    "llm": Sizes(PUBLISHED_LANGUAGE * 4, share=3, rows=1, queries=2048, heads=16, width=64, points=8),
    "unet": Sizes(PUBLISHED_UNET, share=4, rows=2, queries=4096, heads=16, width=64, points=8),
}


def tensors(sizes: Sizes, dtype: torch.dtype) -> list[Tensor]:
    """Values, points and weights, drawn on the CPU."""
    draw, levels = torch.Generator().manual_seed(0), len(sizes.shapes)
    cells = sum(height * width for height, width in sizes.shapes)
    values = torch.randn(sizes.rows, cells, sizes.heads, sizes.width, generator=draw, dtype=torch.float64)
    looks = (sizes.rows, sizes.queries, sizes.heads)
    points_xy = torch.rand(*looks, levels // sizes.share, sizes.points, 2, generator=draw, dtype=torch.float64) * 1.4 - 0.2
    weights = torch.rand(*looks, levels, sizes.points, generator=draw, dtype=torch.float64) / (levels * sizes.points)
    return [values.to(dtype), points_xy.to(torch.promote_types(dtype, torch.float32)), weights.to(dtype)]


def factors(sizes: Sizes, values: Tensor) -> Tensor:
    """Of the sum whose gradients are taken: made once, because that takes longer on a CPU than all kernels on the device."""
    shape = (sizes.rows, sizes.queries, sizes.heads, sizes.width)
    return torch.linspace(-1, 1, math.prod(shape), dtype=torch.float64).to(values).view(shape)


def results(sizes: Sizes, inputs: list[Tensor], gradient: Tensor, backend: str) -> list[Tensor]:
    asked = [tensor.detach().requires_grad_() for tensor in inputs]
    result = deformable_attention(asked[0], sizes.shapes, *asked[1:], backend=backend)
    return [result, *torch.autograd.grad(result, asked, gradient, materialize_grads=True)]


def check() -> bool:
    """Compares every dtype and size; True if all of them agree."""
    right = True
    for name, sizes in CHECKED.items():
        for dtype, tolerance in TOLERANCE.items():
            inputs = tensors(sizes, dtype)
            gradient = factors(sizes, inputs[0])
            exact = results(sizes, [tensor.double() for tensor in inputs], gradient.double(), "reference")
            found = results(sizes, [tensor.to(DEVICE) for tensor in inputs], gradient.to(DEVICE), "triton")
            worst = {}
            for part, ours, expected in zip(("result", "values", "points", "weights"), found, exact, strict=True):
                largest = float(expected.detach().abs().max()) if expected.numel() else 0.0
                worst[part] = float((ours.cpu().double() - expected).abs().max()) / largest if largest else 0.0
            passed = all(error <= tolerance for error in worst.values())  # NaN fails too
            right = right and passed
            report({"case": "check", "sizes": name, "dtype": str(dtype).removeprefix("torch."), "passed": passed, **worst})
    return right


def time_all(repeats: int) -> None:
    """Triton against the next path, forward alone and with backward."""
    for name, sizes in TIMED.items():
        for dtype in (torch.float32, torch.bfloat16):
            inputs = [tensor.to(DEVICE) for tensor in tensors(sizes, dtype)]
            gradient = factors(sizes, inputs[0])
            floats = sum(tensor.numel() * tensor.element_size() for tensor in inputs)
            result_bytes = inputs[2].shape[:3].numel() * inputs[0].shape[3] * inputs[0].element_size()
            multiplied = 2 * 4 * inputs[2].numel() * inputs[0].shape[3]
            gathered = multiplied // 2 * inputs[0].element_size()

            def forward(backend: str, inputs: list[Tensor] = inputs, sizes: Sizes = sizes) -> Callable[[], object]:
                return lambda: [deformable_attention(inputs[0], sizes.shapes, *inputs[1:], backend=backend) for _ in range(CALLS)]

            def both(
                backend: str, inputs: list[Tensor] = inputs, sizes: Sizes = sizes, gradient: Tensor = gradient
            ) -> Callable[[], object]:
                return lambda: [results(sizes, inputs, gradient, backend) for _ in range(CALLS)]

            for case, run, factor in ((f"{name}_sampling", forward, 1), (f"{name}_sampling_backward", both, 3)):
                compare(
                    case,
                    "triton",
                    run("triton"),
                    "reference",
                    run("reference"),
                    repeats=repeats,
                    device=DEVICE,
                    dtype=dtype,
                    flops=float(CALLS * factor * multiplied),
                    bytes_moved=float(CALLS * factor * (floats + result_bytes)),
                    queries=sizes.queries,
                    calls=CALLS,
                    bytes_gathered=float(CALLS * factor * gathered),
                )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="counted runs of each path, ten calls each")
    parser.add_argument("--only", choices=("check", "time"), help="one of the two")
    chosen = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "scripts/gpu/check_kernels.py needs a CUDA device; torch sees none.\n")
    reason = reasons(torch.zeros(1, 1, 1, 64, device=DEVICE))["triton"]
    if reason is not None:
        parser.exit(1, f"{reason}\n")
    report({**machine(DEVICE), "name": torch.cuda.get_device_name()})
    right = chosen.only == "time" or check()
    if chosen.only != "check":
        time_all(chosen.repeats)
    if not right:
        parser.exit(1, "a kernel differs from the definition; see the lines with passed = false.\n")


if __name__ == "__main__":
    main()
