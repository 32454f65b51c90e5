"""MMFS as the released code computes it, step by step: what the benchmarks compare with.

The query is repeated for every image before the square projection, logits are computed for points that are never read, image values are
projected at every call, and every level is sampled by itself through `grid_sample` (the release's own form in pure PyTorch).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from unittest import mock

import torch
from torch import Tensor

from mm_interleaved.model import vit_adapter
from mm_interleaved.model.mmfs import MMFS, recency
from mm_interleaved.ops.deformable import deformable_attention


def published_form(mmfs: MMFS, query: Tensor, reference_xy: Tensor, features: Tensor, visible: Tensor) -> Tensor:
    """The whole module, from features `B N S F`."""
    return published_forward(mmfs, query, reference_xy, mmfs.project(features), visible)


def published_forward(
    mmfs: MMFS,
    query: Tensor,
    reference_xy: Tensor,
    values: Tensor,
    visible: Tensor,
    level_shapes: Sequence[tuple[int, int]] | None = None,
) -> Tensor:
    """What follows the projection of the values; has the signature of `MMFS.forward`."""
    config = mmfs.config
    heads, points, levels, images = config.heads, config.points, len(config.level_sides), values.shape[1]
    if images == 0:
        return mmfs.output_projection(mmfs.null_value.expand(*query.shape[:2], -1))
    shapes = list(level_shapes or [(side, side) for side in config.level_sides])
    rows, queries = query.shape[:2]
    shifted = mmfs.query_projection(query[:, :, None].repeat(1, 1, images, 1)) + mmfs.recency(recency(visible))
    offsets = mmfs.offsets(shifted).view(rows, queries, images, heads, 1, points, 2)
    logits = mmfs.attention_weights(shifted).view(rows, queries, images, heads, levels, points + 1)[..., :points]
    logits = logits.masked_fill(~visible[:, :, :, None, None, None], float("-inf")).permute(0, 1, 3, 2, 4, 5)
    joint = torch.cat([logits.flatten(3), logits.new_zeros(rows, queries, heads, 1)], dim=-1).softmax(-1)
    base = config.base_side or 1
    scale = offsets.new_tensor(
        [(s / base / width, s / base / height) for s, (height, width) in zip(config.level_sides, shapes, strict=True)]
    )
    locations = reference_xy[:, :, None, None, None, None] + offsets * scale[:, None]
    locations = locations.permute(0, 1, 3, 2, 4, 5, 6).flatten(3, 4)
    weights = joint[..., :-1].reshape(rows, queries, heads, images * levels, points)
    sampled = deformable_attention(values.flatten(1, 2), shapes * images, locations, weights, backend="reference")
    return mmfs.output_projection((sampled + joint[..., -1:] * mmfs.null_value.view(heads, -1)).flatten(2))


@contextmanager
def as_published() -> Iterator[None]:
    """Inside, every MMFS and every deformable attention of a model runs in the published form."""
    sampled_by_level = partial(deformable_attention, backend="reference")
    with mock.patch.object(MMFS, "forward", published_forward), mock.patch.object(vit_adapter, "deformable_attention", sampled_by_level):
        yield
