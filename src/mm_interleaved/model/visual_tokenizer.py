"""Visual tokenizer: a picture becomes a few tokens for the language model and four feature maps for the synchronizers.

Source: arXiv 2401.10208; release `models/encoders/visual_tokenizer.py`. Deviations: those of the adapter.
Axes: I images · K tokens of a picture · D width of the language model · F feature width · s side of a map.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import initialization as init

from mm_interleaved.model.configuration import MMInterleavedConfig
from mm_interleaved.model.positions import resize_table, sincos_2d
from mm_interleaved.model.resampler import Resampler
from mm_interleaved.model.vit_adapter import VISION_FAMILIES, map_sides, prior_side

MEAN_AND_STD = {
    "clip_vision_model": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    "siglip_vision_model": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}
"""Of red, green and blue in the pictures that each family of transformers was trained on."""

NORM_EPS = 1e-6

PROJECTION_STD = 1e-3
"""Tokens start near zero in the language model's space."""


def _without_autocast(device: torch.device) -> AbstractContextManager[None]:
    return torch.autocast(device.type, enabled=False) if torch.amp.is_autocast_available(device.type) else nullcontext()


class VisualFeatures(NamedTuple):
    """What the model keeps of pictures; a named tuple, so that sharding and hooks find the tensors in it."""

    tokens: Float[Tensor, "I K D"]
    """Embeddings that stand at the placeholder tokens."""
    maps: tuple[Float[Tensor, "I F s s"], ...]
    """Four feature maps, finest first, with the position table added."""


class VisualTokenizer(nn.Module):
    """Adapted vision transformer, fixed position tables, resampler and a projection to the language model's width.

    Args:
        config: of the whole model; read are `vision_config`, `adapter`, `resampler`, `visual_position_side` and the width of
            `text_config`.

    Raises:
        ConfigError: sizes do not fit each other.
    """

    clip_mean: Tensor
    clip_std: Tensor
    position_table: Tensor

    def __init__(self, config: MMInterleavedConfig) -> None:
        super().__init__()
        width = config.vision_config.hidden_size
        self.map_sides = map_sides(prior_side(config.vision_config, config.adapter_part))[0 if config.adapter_part.finest_map else 1 :]
        """Sides of the feature maps in cells, finest first."""
        self.position_side = config.visual_position_side
        self.grid = (config.vision_config.image_size // config.vision_config.patch_size,) * 2
        self.register_buffer("clip_mean", torch.empty(1, 3, 1, 1))
        self.register_buffer("clip_std", torch.empty(1, 3, 1, 1))
        self.register_buffer("position_table", torch.empty(self.position_side**2 + 1, width))
        self.family = config.vision_config.model_type
        self.encoder = VISION_FAMILIES[self.family](config.vision_config, config.adapter_part)
        self.position_projection = nn.Linear(width, width)
        self.position_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.input_norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.resampler = Resampler(config.resampler_part, input_width=width)
        self.projection = nn.Linear(config.resampler_part.width, config.text_config.hidden_size)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Fills the fixed tables and initialises what belongs to no smaller module."""
        for buffer, values in zip((self.clip_mean, self.clip_std), MEAN_AND_STD[self.family], strict=True):
            init.copy_(buffer, torch.tensor(values).view(1, 3, 1, 1))
        cells = sincos_2d(self.position_side, self.position_table.shape[1])
        init.copy_(self.position_table, torch.cat([torch.zeros_like(cells[:1]), cells]))  # the class token has no place
        init.trunc_normal_(self.position_projection.weight, std=0.02)
        init.normal_(self.projection.weight, std=PROJECTION_STD)
        for linear in (self.position_projection, self.projection):
            init.zeros_(linear.bias)
        for norm in (self.position_norm, self.input_norm):
            init.ones_(norm.weight)
            init.zeros_(norm.bias)

    def forward(self, pixels: Float[Tensor, "I 3 H W"]) -> VisualFeatures:
        """Encodes pictures.

        Args:
            pixels: RGB in [0, 1], H = W = the configured side. I may be 0.

        Raises:
            ShapeError: another side than configured.
        """
        images = pixels.shape[0]
        if images == 0:
            # One blank picture is encoded and cut off again: every operation has input, and every parameter a gradient of zero,
            # which distributed training needs on a rank without a picture.
            pixels = pixels.new_zeros(1, *pixels.shape[1:])
        encoded = self.encoder((pixels - self.clip_mean) / self.clip_std)
        cells = self.position_table[1:]
        maps = tuple(level + resize_table(cells, tuple(level.shape[2:])).permute(2, 0, 1) for level in encoded.maps)
        # Kept out of autocast: what differs between pictures can be a small part of the resampler's states, and of that bfloat16 left nano
        # little (docs/log.md).
        with _without_autocast(pixels.device):
            hidden = encoded.last_hidden_state.to(self.projection.weight.dtype)
            tokens = self.projection(self.resampler(self.resampler_input(hidden)))
        return VisualFeatures(tokens[:images], tuple(level[:images] for level in maps))

    def resampler_input(self, hidden: Float[Tensor, "I T F"]) -> Float[Tensor, "I T F"]:
        """Projects and normalises the transformer's last tokens and adds their places."""
        table = self.position_table
        places = torch.cat([table[: self.encoder.class_tokens], resize_table(table[1:], self.grid).flatten(0, 1)])
        return self.input_norm(self.position_norm(self.position_projection(hidden)) + places)
