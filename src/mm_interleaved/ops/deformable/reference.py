"""The definition of deformable attention: bilinear samples of each level, weighted and added.

Pure PyTorch, any device, float64-clean, differentiable in values, points and weights. Every faster path is held to this one.

Source: Deformable DETR (arXiv 2010.04159), eq. 3; release `models/utils/ops/functions/ms_deform_attn_func.py`.
Axes: B rows · S cells of all levels · H heads · D head width · Q queries · L levels ·
G groups of levels that share points · P points (docs/glossary.md).
"""

from collections.abc import Sequence

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def deformable_attention(
    values: Float[Tensor, "B S H D"],
    level_shapes: Sequence[tuple[int, int]],
    points_xy: Float[Tensor, "B Q H G P 2"],
    weights: Float[Tensor, "B Q H L P"],
) -> Float[Tensor, "B Q H D"]:
    """See `mm_interleaved.ops.deformable.deformable_attention`; one `grid_sample` per level."""
    numeric = torch.promote_types(values.dtype, torch.float32)  # half precision would move the points themselves
    grids = (2 * points_xy - 1).to(numeric)  # fractions of the map -> grid_sample's -1 … 1
    per_level = values.split([height * width for height, width in level_shapes], dim=1)
    share = len(level_shapes) // max(1, points_xy.shape[3])
    result = values.new_zeros(values.shape[0], points_xy.shape[1], *values.shape[2:], dtype=numeric)
    if result.numel() == 0:
        return (result + 0 * values.sum()).to(values.dtype)  # empty, but part of the graph
    for level, ((height, width), cells) in enumerate(zip(level_shapes, per_level, strict=True)):
        maps = rearrange(cells.to(numeric), "B (h w) H D -> (B H) D h w", h=height, w=width)
        grid = rearrange(grids[:, :, :, level // share], "B Q H P xy -> (B H) Q P xy")
        samples = functional.grid_sample(maps, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        samples = rearrange(samples, "(B H) D Q P -> B Q H D P", B=values.shape[0])
        result = result + torch.einsum("bqhdp,bqhp->bqhd", samples, weights[:, :, :, level].to(numeric))
    return result.to(values.dtype)


def unsupported(values: Tensor) -> str | None:
    """Returns why this path cannot run on `values`, or None: it always can."""
    return None


def unsuited(values: Tensor) -> str | None:
    """Returns why another path is faster on `values`, or None; the last choice is never passed over."""
    return None
