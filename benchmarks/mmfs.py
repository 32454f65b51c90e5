"""MMFS against the published form, in one run: `python benchmarks/mmfs.py` prints one JSON object per case.

The published form repeats the query for every image before the square projection, projects the image values at every call, and samples
level by level; ours projects once and, while decoding or denoising, reuses the projected values. Sizes: 16 heads of 64, 8 points,
features and queries 1,024 wide. `ratio` > 1 says how many times faster ours is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable

import torch
from torch import Tensor

from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.model.mmfs import MMFS, recency
from mm_interleaved.ops.deformable import reference

WIDTH = 1024
LLM = MMFSConfig(level_sides=(32, 16, 8), base_side=16, heads=16, points=8, value_width=1024)
UNET = MMFSConfig(level_sides=(64, 32, 16, 8), base_side=64, heads=16, points=8, value_width=1024, offset_init=1.0, max_images=10)


def published_form(mmfs: MMFS, query: Tensor, reference_xy: Tensor, features: Tensor, visible: Tensor) -> Tensor:
    """What the released module computes, step by step."""
    config = mmfs.config
    heads, points, levels, images = config.heads, config.points, len(config.level_sides), features.shape[1]
    rows, queries = query.shape[:2]
    values = mmfs.project(features)
    shifted = mmfs.query_projection(query[:, :, None].expand(-1, -1, images, -1)) + mmfs.recency(recency(visible))
    offsets = mmfs.offsets(shifted).view(rows, queries, images, heads, 1, points, 2)
    logits = mmfs.attention_weights(shifted).view(rows, queries, images, heads, levels, points + 1)[..., :points]
    logits = logits.masked_fill(~visible[:, :, :, None, None, None], float("-inf")).permute(0, 1, 3, 2, 4, 5)
    joint = torch.cat([logits.flatten(3), logits.new_zeros(rows, queries, heads, 1)], dim=-1).softmax(-1)
    locations = reference_xy[:, :, None, None, None, None] + offsets / config.base_side
    locations = locations.expand(-1, -1, -1, -1, levels, -1, -1).permute(0, 1, 3, 2, 4, 5, 6).flatten(3, 4)
    weights = joint[..., :-1].view(rows, queries, heads, images * levels, points)
    shapes = [(side, side) for side in config.level_sides] * images
    sampled = reference.deformable_attention(values.flatten(1, 2), shapes, locations, weights)
    return mmfs.output_projection((sampled + joint[..., -1:] * mmfs.null_value.view(heads, -1)).flatten(2))


def seconds(run: Callable[[], object], repeats: int) -> float:
    """Least of several runs; the first is not counted."""
    run()
    taken = []
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        taken.append(time.perf_counter() - began)
    return min(taken)


def compare(case: str, config: MMFSConfig, *, queries: int, images: int, cached: bool, backward: bool = False, repeats: int = 3) -> None:
    torch.manual_seed(0)
    mmfs = MMFS(config, query_width=WIDTH, feature_width=WIDTH)
    torch.nn.init.normal_(mmfs.offsets.weight, std=0.02)  # a new module looks at the same places whatever the query
    cells = sum(side * side for side in config.level_sides)
    query = torch.randn(1, queries, WIDTH, requires_grad=backward)
    features = torch.randn(1, images, cells, WIDTH, requires_grad=backward)
    centre = torch.full((1, queries, 2), 0.5) if config is LLM else torch.rand(1, queries, 2)
    visible = torch.ones(1, queries, images, dtype=torch.bool)

    def ours(values: Tensor | None = None) -> Tensor:
        return mmfs(query, centre, mmfs.project(features) if values is None else values, visible)

    def run(path: Callable[[], Tensor]) -> Callable[[], object]:
        return (lambda: path().sum().backward()) if backward else path

    with torch.set_grad_enabled(backward):
        kept = mmfs.project(features) if cached else None
        published = lambda: published_form(mmfs, query, centre, features, visible)  # noqa: E731
        difference = float((ours(kept) - published()).abs().max())
        fast, slow = seconds(run(lambda: ours(kept)), repeats), seconds(run(published), repeats)
    row = {"case": case, "path": "cached" if cached else "cold", "against": "published_form", "seconds": fast, "against_seconds": slow}
    row |= {
        "ratio": slow / fast,
        "largest_difference": difference,
        "queries": queries,
        "images": images,
        "threads": torch.get_num_threads(),
    }
    print(json.dumps({name: float(f"{value:.4g}") if isinstance(value, float) else value for name, value in row.items()}), flush=True)


def main() -> None:
    compare("llm_forward", LLM, queries=1024, images=4, cached=False)
    compare("llm_forward_backward", LLM, queries=1024, images=4, cached=False, backward=True, repeats=2)
    compare("llm_decode_step", LLM, queries=1, images=4, cached=True, repeats=20)
    compare("unet_forward", UNET, queries=4096, images=1, cached=True)


if __name__ == "__main__":
    main()
