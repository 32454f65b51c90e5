"""How the backward pass of the Triton kernels is divided best, at the size of the UNet. `python scripts/gpu/sweep_backward.py`

One field of `ops/deformable/triton.py`'s `Backward` after the other takes the value that was fastest in float32, beginning with which
levels get their gradient as products. Every division is held to the definition's gradients first; a wrong one ends the script with status 1
and is never the best. Then the best and the one that stands there, forward and backward, against the definition as in `check_kernels.py`.

`TRITON_INTERPRET=1 python scripts/gpu/sweep_backward.py --size tiny --device cpu` runs the same code anywhere. One JSON object per line.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch
from cases import Cases, seconds
from check_kernels import TIMED, TOLERANCE, Sizes, results, tensors
from measuring import compare
from torch import Tensor

from mm_interleaved.ops.deformable import deformable_attention
from mm_interleaved.ops.deformable import triton as path

SIZES = {"unet": TIMED["unet"], "tiny": Sizes(((3, 3), (2, 2)), share=2, rows=1, queries=3, heads=1, width=16, points=2)}

FIELDS: tuple[tuple[dict[str, int], ...], ...] = (
    tuple({"most_cells": cells} for cells in (64, 256, 1024, 4096)),
    ({"tile": 512, "warps": 2}, {"tile": 512, "warps": 4}, {"tile": 256, "warps": 1}, {"tile": 128, "warps": 1}),
    ({"queries": 64, "product_warps": 8}, {"queries": 32, "product_warps": 4}, {"queries": 128, "product_warps": 8}),
    ({"products": 4}, {"products": 64}),
)
"""Changes that are tried together, group after group."""

CALLS = 5


class Sweep:
    """Gradients of one set of inputs under several divisions."""

    def __init__(self, sizes: Sizes, device: str, dtype: torch.dtype = torch.float32) -> None:
        self.sizes, self.device, self.dtype = sizes, device, dtype
        self.inputs = [tensor.to(device) for tensor in tensors(sizes, dtype)]
        self.gradient = torch.linspace(-1, 1, sizes.rows * sizes.queries * sizes.heads * sizes.width, device=device).to(dtype)
        self.gradient = self.gradient.view(sizes.rows, sizes.queries, sizes.heads, sizes.width)
        self.exact = [found.float() for found in self._gradients("reference")()]
        self.best, self.best_seconds = path.BACKWARD, float("inf")

    def _gradients(self, backend: Any) -> Any:
        asked = [tensor.detach().requires_grad_() for tensor in self.inputs]
        result = deformable_attention(asked[0], self.sizes.shapes, *asked[1:], backend=backend)
        return lambda: torch.autograd.grad(result, asked, self.gradient, retain_graph=True)

    def measure(self, division: path.Backward) -> dict[str, Any]:
        """Whether its gradients are right, and how long they take."""
        path.BACKWARD = division
        run = self._gradients("triton")
        away = max(self._away(found, exact) for found, exact in zip(run(), self.exact, strict=True))
        taken = seconds(lambda: [run() for _ in range(CALLS)], self.device) / CALLS
        passed = away <= TOLERANCE[self.dtype]
        if passed and taken < self.best_seconds:
            self.best, self.best_seconds = division, taken
        return {"dtype": str(self.dtype).removeprefix("torch."), **division._asdict(), "seconds": taken, "away": away, "passed": passed}

    def _away(self, found: Tensor, exact: Tensor) -> float:
        return float((found.float() - exact).abs().max() / exact.abs().max())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=sorted(SIZES), default="unet")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--at-most", type=float, default=22.0, help="seconds after which no case is begun")
    chosen = parser.parse_args()
    cases, sizes, first = Cases(chosen.at_most), SIZES[chosen.size], path.BACKWARD
    sweep = Sweep(sizes, chosen.device)
    cases.run("division", lambda: sweep.measure(first))
    first_seconds = sweep.best_seconds
    for changes in FIELDS:
        before = sweep.best
        for change in changes:
            cases.run("division", lambda change=change, before=before: sweep.measure(before._replace(**change)))
    narrow = Sweep(sizes, chosen.device, torch.bfloat16)
    cases.run("division", lambda: narrow.measure(first))
    cases.run("division", lambda: narrow.measure(sweep.best))
    for dtype, inputs in ((torch.float32, sweep.inputs), (torch.bfloat16, narrow.inputs)):
        for name, division in {"first": first, "best": sweep.best}.items():

            def whole(inputs: list[Tensor] = inputs, dtype: torch.dtype = dtype, division: path.Backward = division) -> dict[str, Any]:
                path.BACKWARD = division
                paths = [
                    lambda backend=backend: [results(sizes, inputs, backend) for _ in range(CALLS)] for backend in ("triton", "reference")
                ]
                told = {"repeats": 3, "device": chosen.device, "dtype": dtype}
                row = compare("unet_sampling_backward", "triton", paths[0], "reference", paths[1], **told)
                return {"ratio": row["ratio"], "seconds": row["seconds"] / CALLS}

            cases.run(f"{name}_whole", whole)
    faster = first_seconds / sweep.best_seconds
    cases.run("best", lambda: {**sweep.best._asdict(), "seconds": sweep.best_seconds, "times_faster": faster})
    cases.end()


if __name__ == "__main__":
    main()
