"""ViT-Adapter: a convolutional prior beside a CLIP or SigLIP vision transformer gives feature maps at four scales.

The prior's maps at 1/8, 1/16 and 1/32 of its side are read as one row of tokens c. Around each group of transformer layers an
injector lets the patch tokens x read c, and an extractor lets c read x, both by deformable attention.

Source: arXiv 2205.08534 (ViT-Adapter) as used by arXiv 2401.10208; release `models/encoders/vit_adapter`. Deviations
(docs/deviations.md): offsets start in directions around the reference point, which the published training had lost; where the
release up- and downsamples by fixed factors, maps are resized to the size they are added to (the same at its sizes).
Axes: I images · F feature width (of the transformer) · P patch tokens · S cells of the three token levels · s side of a map.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel
from transformers import initialization as init

from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.configuration import AdapterConfig
from mm_interleaved.ops.deformable import deformable_attention
from mm_interleaved.ops.numbers import numbers_on

MAPS = 4
"""Feature maps, at 1/4, 1/8, 1/16 and 1/32 of the prior's side."""

CHANNEL_NORM_EPS = 1e-6
TOKEN_NORM_EPS = 1e-5

LevelShapes = Sequence[tuple[int, int]]
"""(height, width) of each level in cells."""


class AdapterOutput(NamedTuple):
    """What the adapted transformer gives back; a named tuple, so that sharding and hooks find the tensors in it."""

    last_hidden_state: Float[Tensor, "I T F"]
    """Class token, if the family has one, and patch tokens after the last layer; no final norm."""
    maps: tuple[Float[Tensor, "I F s s"], ...]
    """Four maps, finest first; three without `AdapterConfig.finest_map`."""


def prior_side(vision: CLIPVisionConfig | SiglipVisionConfig, adapter: AdapterConfig) -> int:
    """Side in pixels to which the picture is resized for the prior."""
    return 16 * (vision.image_size // vision.patch_size) if adapter.prior_side is None else adapter.prior_side


def map_sides(side: int) -> tuple[int, ...]:
    """Sides of the four maps in cells, finest first: a quarter of the prior's side, then halved each time, rounded up."""
    quarter = math.ceil(math.ceil(side / 2) / 2)
    return tuple(math.ceil(quarter / 2**level) for level in range(MAPS))


class _AdaptedTransformer(nn.Module):
    """The shared body of every family; mixed in before upstream's class, which builds `embeddings` and `encoder.layers`.

    All parameters of the adapter begin with `adapter_`.

    Args:
        config: the transformer, as upstream.
        adapter: the adapter.

    Raises:
        ConfigError: sizes do not divide, or there are fewer layers than interaction blocks.
    """

    class_tokens: int
    """Tokens before those of the patches."""
    # Upstream's own.
    config: Any
    embeddings: Any
    encoder: Any

    def __init__(self, config: CLIPVisionConfig | SiglipVisionConfig, adapter: AdapterConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # upstream's class, next in line
        width, blocks, layers = config.hidden_size, adapter.blocks, config.num_hidden_layers
        if not 1 <= blocks <= layers:
            raise ConfigError(f"adapter.blocks {blocks} must lie between 1 and the {layers} layers of the vision transformer.")
        if config.image_size % config.patch_size:
            raise ConfigError(f"vision image_size {config.image_size} is no multiple of patch_size {config.patch_size}.")
        # The published model stores the positions and has no final norm.
        self.embeddings.register_buffer("position_ids", self.embeddings.position_ids, persistent=True)
        self.post_layernorm = nn.Identity()  # type: ignore[assignment]
        self.prior_side = prior_side(config, adapter)
        self.groups = [range(layers * block // blocks, layers * (block + 1) // blocks) for block in range(blocks)]
        """Indices of the transformer layers inside each interaction block."""
        self.adapter_prior = SpatialPrior(adapter.prior_width, width, finest=adapter.finest_map)
        self.adapter_blocks = nn.ModuleList(
            InteractionBlock(adapter, width=width, extra_extractors=adapter.extra_extractors if block == blocks - 1 else 0)
            for block in range(blocks)
        )
        self.adapter_upsample = nn.ConvTranspose2d(width, width, kernel_size=2, stride=2) if adapter.finest_map else None
        self.post_init()
        for module in self.modules():
            # transformers initialises only modules that own a parameter; an extractor owns none and would lose its own start.
            if isinstance(module, Extractor):
                module.reset_parameters()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)  # type: ignore[operator]
        if isinstance(module, SpatialPrior | Injector | Extractor):
            module.reset_parameters()
        elif isinstance(module, nn.ConvTranspose2d):
            _reset_convolution(module)

    def forward(self, pixel_values: Float[Tensor, "I 3 H W"]) -> AdapterOutput:
        """Encodes normalised pictures.

        Args:
            pixel_values: normalised with the family's mean and standard deviation, H = W = the configured side.

        Raises:
            ShapeError: another side than configured.
        """
        side = self.config.image_size
        if pixel_values.shape[2:] != (side, side):
            raise ShapeError(f"The visual tokenizer reads pictures of {side} x {side} pixels, got {tuple(pixel_values.shape)}.")
        finest, coarse = self.adapter_prior(self._resized(pixel_values))
        shapes = [(level.shape[2], level.shape[3]) for level in coarse]
        cells = torch.cat([_tokens(level) for level in coarse], dim=1)

        hidden, first = self.embedded(pixel_values), self.class_tokens
        grid = (side // self.config.patch_size,) * 2
        patch_centres = cell_centres([grid], hidden)
        level_centres = cell_centres(shapes, hidden)
        patches_after = []
        for group, block in zip(self.groups, self.adapter_blocks, strict=True):
            patches = block.injector(hidden[:, first:], cells, patch_centres, shapes)
            hidden = torch.cat([hidden[:, :first], patches], dim=1)
            for index in group:
                hidden = self.encoder.layers[index](hidden, None)
            patches = hidden[:, first:]
            cells = block.extractor(cells, patches, level_centres, shapes, grid)
            for extractor in block.extra_extractors:  # type: ignore[union-attr]
                cells = extractor(cells, patches, level_centres, shapes, grid)
            patches_after.append(patches)

        coarse = [_map(level, shape) for level, shape in zip(cells.split([h * w for h, w in shapes], dim=1), shapes, strict=True)]
        maps = coarse
        if self.adapter_upsample is not None:
            upsampled = self.adapter_upsample(coarse[0])[..., : finest.shape[2], : finest.shape[3]]
            maps = [finest + upsampled, *coarse]
        # Map k receives the patches after block k of the last four; a shorter adapter repeats its last ones.
        states = (patches_after + patches_after[-1:] * MAPS)[:MAPS] if len(patches_after) < MAPS else patches_after[-MAPS:]
        states = states[MAPS - len(maps) :]
        return AdapterOutput(
            hidden, tuple(level + _resize(_map(state, grid), level.shape[2:]) for level, state in zip(maps, states, strict=True))
        )

    def embedded(self, pixel_values: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I T F"]:
        """What the first layer reads."""
        return self.embeddings(pixel_values)

    def _resized(self, pixels: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I 3 s s"]:
        return _resize(pixels, (self.prior_side, self.prior_side)).contiguous(memory_format=torch.channels_last)


class AdapterVisionModel(_AdaptedTransformer, CLIPVisionModel):
    """CLIP's vision transformer with an adapter around groups of its layers."""

    _no_split_modules = ["CLIPVisionEmbeddings", "CLIPEncoderLayer", "SpatialPrior", "InteractionBlock"]
    class_tokens = 1

    def embedded(self, pixel_values: Float[Tensor, "I 3 H W"]) -> Float[Tensor, "I T F"]:
        return self.pre_layrnorm(self.embeddings(pixel_values))


class AdapterSiglipModel(_AdaptedTransformer, SiglipVisionModel):
    """SigLIP's vision transformer with the same adapter; it has no class token and no norm before its layers."""

    _no_split_modules = ["SiglipVisionEmbeddings", "SiglipEncoderLayer", "SpatialPrior", "InteractionBlock"]
    class_tokens = 0


VISION_FAMILIES: dict[str, type[_AdaptedTransformer]] = {
    CLIPVisionConfig.model_type: AdapterVisionModel,
    SiglipVisionConfig.model_type: AdapterSiglipModel,
}
"""Adapted transformer by `model_type` of the vision config; each is tested to equal upstream's while the adapter injects nothing."""


class SpatialPrior(nn.Module):
    """Convolutions that turn the picture into four maps of the transformer's width, at 1/4, 1/8, 1/16 and 1/32 of its side.

    The three coarser ones, which become tokens, get a level embedding.
    """

    def __init__(self, prior_width: int, width: int, *, finest: bool = True) -> None:
        super().__init__()
        self.finest = finest
        widths = (prior_width, 2 * prior_width, 4 * prior_width, 4 * prior_width)
        self.stem = nn.ModuleList(
            [ConvolutionUnit(3, prior_width, stride=2)] + [ConvolutionUnit(prior_width, prior_width, stride=1) for _ in range(2)]
        )
        self.down = nn.ModuleList(ConvolutionUnit(before, after, stride=2) for before, after in itertools.pairwise(widths))
        self.project = nn.ModuleList(nn.Conv2d(level_width, width, kernel_size=1) for level_width in (widths if finest else widths[1:]))
        self.level_embedding = nn.Parameter(torch.empty(MAPS - 1, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Convolutions normal with He's variance over the outputs, norms the identity, level embeddings 0."""
        init.zeros_(self.level_embedding)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                _reset_convolution(module)
            elif isinstance(module, nn.LayerNorm):
                _reset_norm(module)

    def forward(self, pixels: Float[Tensor, "I 3 H W"]) -> tuple[Float[Tensor, "I F h w"] | None, list[Float[Tensor, "I F _ _"]]]:
        """Returns the finest map, or None where it is left out, and the three coarser ones."""
        state = pixels
        for unit in self.stem:
            state = unit(state)
        state = F.max_pool2d(state, kernel_size=3, stride=2, padding=1)
        levels = [state]
        for unit in self.down:
            levels.append(unit(levels[-1]))
        projected = [project(level) for project, level in zip(self.project, levels if self.finest else levels[1:], strict=True)]
        finest = projected.pop(0) if self.finest else None
        return finest, [level + embedding[:, None, None] for level, embedding in zip(projected, self.level_embedding, strict=True)]


class ConvolutionUnit(nn.Module):
    """3 x 3 convolution, LayerNorm over the channels of each cell, ReLU."""

    def __init__(self, width_in: int, width_out: int, *, stride: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(width_in, width_out, kernel_size=3, stride=stride, padding=1, bias=False)
        self.norm = nn.LayerNorm(width_out, eps=CHANNEL_NORM_EPS)

    def forward(self, state: Float[Tensor, "I c h w"]) -> Float[Tensor, "I d h2 w2"]:
        cells = self.convolution(state).permute(0, 2, 3, 1)  # I h2 w2 d, dense because the picture came channels-last
        return F.relu(self.norm(cells)).permute(0, 3, 1, 2)


class InteractionBlock(nn.Module):
    """The injector before and the extractors after one group of transformer layers; they are called by the model."""

    def __init__(self, config: AdapterConfig, *, width: int, extra_extractors: int) -> None:
        super().__init__()
        self.injector = Injector(config, width=width)
        self.extractor = Extractor(config, width=width)
        self.extra_extractors = nn.ModuleList(Extractor(config, width=width) for _ in range(extra_extractors))


class Injector(nn.Module):
    """Patch tokens read the three token levels: x + gamma * attention; gamma starts at 0, so the transformer starts unchanged."""

    def __init__(self, config: AdapterConfig, *, width: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.value_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.attention = DeformableAttention(config, width=width, levels=MAPS - 1)
        self.gamma = nn.Parameter(torch.empty(width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        init.zeros_(self.gamma)
        _reset_norm(self.query_norm)
        _reset_norm(self.value_norm)
        self.attention.reset_parameters()

    def forward(
        self,
        patches: Float[Tensor, "I P F"],
        cells: Float[Tensor, "I S F"],
        centres_xy: Float[Tensor, "P 2"],
        shapes: LevelShapes,
    ) -> Float[Tensor, "I P F"]:
        return patches + self.gamma * self.attention(self.query_norm(patches), centres_xy, self.value_norm(cells), shapes)


class Extractor(nn.Module):
    """The three token levels read the patch tokens, then pass a feed-forward with a depth-wise convolution in it."""

    def __init__(self, config: AdapterConfig, *, width: int) -> None:
        super().__init__()
        self.query_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.value_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.attention = DeformableAttention(config, width=width, levels=1)
        self.feed_forward_norm = nn.LayerNorm(width, eps=TOKEN_NORM_EPS)
        self.feed_forward = ConvolutionalFeedForward(width, int(width * config.feed_forward_ratio))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        for norm in (self.query_norm, self.value_norm, self.feed_forward_norm):
            _reset_norm(norm)
        self.attention.reset_parameters()
        self.feed_forward.reset_parameters()

    def forward(
        self,
        cells: Float[Tensor, "I S F"],
        patches: Float[Tensor, "I P F"],
        centres_xy: Float[Tensor, "S 2"],
        shapes: LevelShapes,
        grid: tuple[int, int],
    ) -> Float[Tensor, "I S F"]:
        cells = cells + self.attention(self.query_norm(cells), centres_xy, self.value_norm(patches), [grid])
        return cells + self.feed_forward(self.feed_forward_norm(cells), shapes)


class ConvolutionalFeedForward(nn.Module):
    """Linear → depth-wise 3 x 3 convolution, shared by the levels and applied to each → GELU → linear."""

    def __init__(self, width: int, hidden_width: int) -> None:
        super().__init__()
        self.linear_in = nn.Linear(width, hidden_width)
        self.convolution = nn.Conv2d(hidden_width, hidden_width, kernel_size=3, padding=1, groups=hidden_width)
        self.linear_out = nn.Linear(hidden_width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        _reset_linear(self.linear_in)
        _reset_convolution(self.convolution)
        _reset_linear(self.linear_out)

    def forward(self, cells: Float[Tensor, "I S F"], shapes: LevelShapes) -> Float[Tensor, "I S F"]:
        levels = self.linear_in(cells).split([height * width for height, width in shapes], dim=1)
        mixed = [_tokens(self.convolution(_map(level, shape))) for level, shape in zip(levels, shapes, strict=True)]
        return self.linear_out(F.gelu(torch.cat(mixed, dim=1)))


class DeformableAttention(nn.Module):
    """Each head of each query reads a few learned points of every level around the query's place; weights add up to 1."""

    def __init__(self, config: AdapterConfig, *, width: int, levels: int) -> None:
        super().__init__()
        value_width = int(width * config.value_ratio)
        if value_width % config.heads:
            raise ConfigError(
                f"adapter: the value width {value_width} (= {width} x value_ratio {config.value_ratio}) is no multiple of "
                f"adapter.heads {config.heads}."
            )
        self.heads, self.levels, self.points = config.heads, levels, config.points
        self.offsets = nn.Linear(width, config.heads * levels * config.points * 2)
        self.attention_weights = nn.Linear(width, config.heads * levels * config.points)
        self.value_projection = nn.Linear(width, value_width)
        self.output_projection = nn.Linear(value_width, width)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """As Deformable DETR: each head looks in its own direction, each point one cell further; all weights equal."""
        angle = torch.arange(self.heads, dtype=torch.float32) * (2 * math.pi / self.heads)
        direction = torch.stack([angle.cos(), angle.sin()], dim=-1)
        direction = direction / direction.abs().amax(dim=-1, keepdim=True)  # heads xy, on the unit square
        distance = torch.arange(1, self.points + 1, dtype=torch.float32)
        bias = direction[:, None, None, :] * distance[None, None, :, None].expand(-1, self.levels, -1, -1)  # heads levels points xy
        init.zeros_(self.offsets.weight)
        init.copy_(self.offsets.bias, bias.reshape(-1))
        init.zeros_(self.attention_weights.weight)
        init.zeros_(self.attention_weights.bias)
        for projection in (self.value_projection, self.output_projection):
            init.xavier_uniform_(projection.weight)
            init.zeros_(projection.bias)

    def forward(
        self,
        query: Float[Tensor, "I Q F"],
        centres_xy: Float[Tensor, "Q 2"],
        source: Float[Tensor, "I S F"],
        shapes: LevelShapes,
    ) -> Float[Tensor, "I Q F"]:
        """Reads `source`, whose levels of (height, width) `shapes` follow each other, at points around `centres_xy`."""
        exact = torch.promote_types(query.dtype, torch.float32)
        offsets = self.offsets(query).to(exact).unflatten(-1, (self.heads, self.levels, self.points, 2))
        cells_xy = numbers_on(query.device, [(width, height) for height, width in shapes], exact)[:, None, :]
        points_xy = centres_xy[:, None, None, None, :] + offsets / cells_xy  # I Q heads levels points xy
        weights = self.attention_weights(query).to(exact).unflatten(-1, (self.heads, -1)).softmax(dim=-1)
        values = self.value_projection(source).unflatten(-1, (self.heads, -1))  # I S heads D
        read = deformable_attention(values, shapes, points_xy, weights.unflatten(-1, (self.levels, self.points)))
        return self.output_projection(read.flatten(2))


def cell_centres(shapes: LevelShapes, like: Tensor) -> Float[Tensor, "Q 2"]:
    """Centres (x, y) of the cells of one or several grids, row-major, as fractions of their grid; at least float32."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    grids = []
    for height, width in shapes:
        y = (torch.arange(height, dtype=dtype, device=like.device) + 0.5) / height
        x = (torch.arange(width, dtype=dtype, device=like.device) + 0.5) / width
        grids.append(torch.stack([x.expand(height, width), y[:, None].expand(height, width)], dim=-1).reshape(-1, 2))
    return torch.cat(grids)


def _tokens(level: Float[Tensor, "I F h w"]) -> Float[Tensor, "I h*w F"]:
    return level.flatten(2).transpose(1, 2)


def _map(tokens: Float[Tensor, "I S F"], shape: tuple[int, int]) -> Float[Tensor, "I F h w"]:
    return tokens.unflatten(1, shape).permute(0, 3, 1, 2)


def _resize(level: Float[Tensor, "I F h w"], shape: Sequence[int]) -> Float[Tensor, "I F h2 w2"]:
    if tuple(level.shape[2:]) == tuple(shape):
        return level
    return F.interpolate(level, size=tuple(shape), mode="bilinear", align_corners=False)


def _reset_linear(module: nn.Linear) -> None:
    init.trunc_normal_(module.weight, std=0.02)
    init.zeros_(module.bias)


def _reset_norm(module: nn.LayerNorm) -> None:
    init.ones_(module.weight)
    init.zeros_(module.bias)


def _reset_convolution(module: nn.Conv2d | nn.ConvTranspose2d) -> None:
    height, width = module.kernel_size
    init.normal_(module.weight, std=math.sqrt(2 / (height * width * module.out_channels / module.groups)))
    if module.bias is not None:
        init.zeros_(module.bias)
