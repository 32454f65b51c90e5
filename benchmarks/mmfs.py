"""MMFS against the published form, in one run: `python benchmarks/mmfs.py` prints one JSON object per case and path.

Ours projects the query once and, while decoding or denoising, reuses the projected values; every fast path of this machine is a line
of its own, and the first one is what runs by itself. Sizes: 16 heads of 64, 8 points, features and queries 1,024 wide. `ratio` > 1
says how many times faster ours is. `plot.py` draws the scaling rows.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable

import torch
from measuring import compare, machine, report
from published import published_form
from torch import Tensor

from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.model.mmfs import MMFS
from mm_interleaved.ops.deformable import BACKENDS, Backend
from mm_interleaved.ops.few_rows import for_few_rows

WIDTH = 1024
LLM = MMFSConfig(level_sides=(32, 16, 8), base_side=16, heads=16, points=8, value_width=1024)
UNET = MMFSConfig(level_sides=(64, 32, 16, 8), base_side=64, heads=16, points=8, value_width=1024, offset_init=1.0, max_images=10)


def fast_paths() -> list[Backend]:
    """Paths of this machine, the preferred one first."""
    return [name for name, module in BACKENDS.items() if name != "reference" and module.unsupported(torch.zeros(1, 1, 1, 64)) is None]


def work(config: MMFSConfig, *, queries: int, images: int, cached: bool, backward: bool) -> dict[str, float]:
    """Least floating-point operations and bytes of one call: matrices and samples once, each array once."""
    cells, levels = sum(side * side for side in config.level_sides), len(config.level_sides)
    looks = config.heads * config.points * (2 + levels)  # rows of the two small projections that are read
    inner = config.value_width
    through_matrix = min(queries * WIDTH + queries * looks, looks * WIDTH + queries * looks) * WIDTH + queries * inner * WIDTH
    projected = 0 if cached else images * cells * WIDTH * inner
    samples = 4 * queries * images * levels * config.points * inner
    floats = 2 * queries * WIDTH + WIDTH * (WIDTH + looks + inner) + images * cells * inner * (1 if cached else 3)
    factor = 3 if backward else 1  # the gradients of both factors of every product
    return {"flops": 2.0 * factor * (through_matrix + projected + samples), "bytes_moved": 4.0 * factor * floats}


def paths(
    config: MMFSConfig, *, queries: int, images: int, cached: bool, backward: bool, stored: torch.dtype
) -> tuple[Callable[[Backend], Callable[[], Tensor]], Callable[[], Tensor]]:
    """Ours by backend, and the published form, on the same numbers."""
    torch.manual_seed(0)
    mmfs = MMFS(config, query_width=WIDTH, feature_width=WIDTH)
    torch.nn.init.normal_(mmfs.offsets.weight, std=0.02)  # a new module looks at the same places whatever the query
    cells = sum(side * side for side in config.level_sides)
    query = torch.randn(1, queries, WIDTH, requires_grad=backward)
    features = torch.randn(1, images, cells, WIDTH, requires_grad=backward)
    centre = torch.full((1, queries, 2), 0.5) if config is LLM else torch.rand(1, queries, 2)
    visible = torch.ones(1, queries, images, dtype=torch.bool)
    kept = mmfs.project(features).detach().to(stored) if cached else None
    fast = copy.deepcopy(mmfs)  # as it is loaded for generation
    for_few_rows(fast)

    def ours(backend: Backend) -> Callable[[], Tensor]:
        return lambda: fast(query, centre, fast.project(features) if kept is None else kept, visible, backend=backend)

    return ours, lambda: published_form(mmfs, query, centre, features, visible)


def measure(
    case: str,
    config: MMFSConfig,
    *,
    queries: int,
    images: int,
    cached: bool = False,
    backward: bool = False,
    stored: torch.dtype = torch.float32,
    repeats: int = 5,
    only: list[Backend] | None = None,
) -> None:
    sizes = {"queries": queries, "images": images, "cached": cached}
    ours, published = paths(config, **sizes, backward=backward, stored=stored)

    def run(path: Callable[[], Tensor]) -> Callable[[], object]:
        return (lambda: path().sum().backward()) if backward else path

    with torch.set_grad_enabled(backward):
        for name in only or fast_paths():
            difference = float((ours(name)().detach() - published().detach()).abs().max())
            amount = work(config, **sizes, backward=backward)
            path = name if stored == torch.float32 else f"{name}_values_{str(stored).removeprefix('torch.')}"
            compare(
                case,
                path,
                run(ours(name)),
                "published_form",
                run(published),
                repeats=repeats,
                against_keeps_memory=False,
                **amount,
                **sizes,
                largest_difference=difference,
            )


def scaling() -> None:
    """How the preferred path grows with images and with queries; rows `images` and `queries`."""
    first = fast_paths()[:1]
    for images in (1, 2, 4, 8, 16, 32):
        measure("images", LLM, queries=128, images=images, cached=True, repeats=3, only=first)
    for queries in (1, 8, 64, 256, 1024):
        measure("queries", LLM, queries=queries, images=2, cached=True, repeats=3, only=first)


def main() -> None:
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    report(machine())
    measure("llm_forward", LLM, queries=1024, images=4)
    measure("llm_forward_backward", LLM, queries=1024, images=4, backward=True, repeats=3)
    measure("llm_decode_step", LLM, queries=1, images=4, cached=True, repeats=20)
    measure("llm_decode_step", LLM, queries=1, images=4, cached=True, repeats=20, stored=torch.bfloat16)
    measure("unet_forward", UNET, queries=4096, images=1, cached=True)
    scaling()


if __name__ == "__main__":
    main()
