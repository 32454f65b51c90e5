"""A diffusers UNet whose skips and middle read the feature maps of earlier pictures through MMFS.

One synchronizer stands at every skip and one in the middle. After the middle block each turns its tensor into queries, reads the
maps, and the result is added to that tensor (not inside the transformer blocks, spec §1.4):

    conv_in → down blocks (collect skips) → middle block → synchronizers on skips and middle → up blocks with the modified skips

Source: arXiv 2401.10208; release `sd_mmfs.py`. Deviations: under `ours` a picture without any visible earlier picture gets exactly
nothing added, where the published model adds the constant output bias of its synchronizers (docs/deviations.md).
Axes: I images · C channels · h w latent grid · N earlier pictures · S cells of all levels · F feature width · H heads · K condition
tokens (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from einops import rearrange
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from mm_interleaved.errors import ShapeError
from mm_interleaved.model.configuration import MMFSConfig
from mm_interleaved.model.mmfs import MMFS
from mm_interleaved.model.positions import resize_table, sincos_2d

LevelShapes = tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class DocumentValues:
    """Values of the pictures of several documents, each as its own cache keeps them: nothing is joined, padded or copied.

    A document may have several rows, such as both branches of guidance; they read the same pictures, all of the document's.
    """

    values: tuple[tuple[Float[Tensor, "1 N S H D"], ...] | None, ...]
    """For each document what `project_features` gave, in one row; None is a document without a picture."""
    rows: tuple[Int[Tensor, " R"], ...]
    """For each document which images of the batch are its own; every image belongs to one."""
    branches: bool = False
    """Whether the images of a document are branches of guidance: the same latents at the same time under different conditions. Up to
    the first skip they are equal, and it is read once."""


class UNetSynchronizer(nn.Module):
    """Reads earlier pictures' maps at every pixel of one UNet tensor; starts as exactly zero."""

    fsdp_forward_methods = ("project",)
    """Entry points besides `forward`, for `register_fsdp_forward_method`."""

    def __init__(self, config: MMFSConfig, *, width: int, grid_side: int, feature_width: int, position_side: int) -> None:
        """
        Args:
            config: sizes; a `base_side` of None becomes `grid_side`.
            width: channels of the UNet tensor.
            grid_side: its side in pixels at the configured picture size.
            feature_width: F.
            position_side: side of the fixed position table, resized to the tensor's grid.
        """
        super().__init__()
        self.position_side = position_side
        self._resized: tuple[Tensor, int, tuple[int, int], Tensor] | None = None
        self.query_norm = nn.LayerNorm(width, eps=config.eps)
        self.feature_norm = nn.LayerNorm(feature_width, eps=config.eps)
        base_side = grid_side if config.base_side is None else config.base_side
        self.mmfs = MMFS(replace(config, base_side=base_side), query_width=width, feature_width=feature_width)
        # As published: the share of the attention that finds nothing adds nothing, and this is not learned in the image decoder.
        self.mmfs.null_value.requires_grad_(False)
        self.output_convolution = nn.Conv2d(width, width, kernel_size=1)
        self.position_table: Tensor
        self.register_buffer("position_table", sincos_2d(position_side, width))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Norms the identity, output convolution zero, position table as computed; MMFS resets itself."""
        for norm in (self.query_norm, self.feature_norm):
            init.ones_(norm.weight)
            init.zeros_(norm.bias)
        init.zeros_(self.output_convolution.weight)
        init.zeros_(self.output_convolution.bias)  # type: ignore[arg-type]
        init.copy_(self.position_table, sincos_2d(self.position_side, self.position_table.shape[1]))

    def project(self, features: Float[Tensor, "I N S F"]) -> Float[Tensor, "I N S H D"]:
        """Normalises and projects maps once per picture; good for every denoising step and both guidance branches."""
        return self.mmfs.project(self.feature_norm(features.to(self.feature_norm.weight.dtype)))

    def forward(
        self,
        sample: Float[Tensor, "I C h w"],
        values: Float[Tensor, "G N S H D"] | None,
        visible: Bool[Tensor, "I N"] | None,
        level_shapes: LevelShapes | None = None,
    ) -> Float[Tensor, "I C h w"]:
        """Returns what is to be added to `sample`.

        Args:
            values: from `project`: of every image (G = I), or one row that all images read (G = 1); None is no picture at all, which
                gives the constant residual of an unlit sink.
            visible: which pictures each image may read.
        """
        height, width = sample.shape[-2:]
        tokens = rearrange(sample, "I C h w -> I (h w) C").to(self.query_norm.weight.dtype)
        normed = self.query_norm(tokens)
        query = normed + self._positions(height, width).to(normed.dtype)
        if values is None or visible is None:
            read = self._read_nothing(query)
        else:
            centres = pixel_centres(height, width, like=query)
            seen = visible[:, None, :].expand(-1, height * width, -1)
            images = query.shape[0]
            if values.shape[0] < images:  # images that read the same pictures: their queries stand in one row
                query, seen = (rearrange(part, "I Q D -> 1 (I Q) D") for part in (query, seen))
                centres = centres.repeat(1, images, 1)
            read = self.mmfs(query, centres, values, seen, level_shapes)
            read = rearrange(read, "B (copies Q) C -> (B copies) Q C", Q=height * width)
        residual = self.output_convolution(rearrange(read, "I (h w) C -> I C h w", h=height).to(self.output_convolution.weight.dtype))
        return residual.to(sample.dtype)

    def _positions(self, height: int, width: int) -> Float[Tensor, "Q C"]:
        # Resized once per size and not in every denoising step; the table is fixed, another one (or other numbers in it) is noticed.
        stored, version = self.position_table, self.position_table._version
        if self._resized is None or self._resized[0] is not stored or self._resized[1:3] != (version, (height, width)):
            table = stored.to(torch.promote_types(stored.dtype, torch.float32))
            positions = rearrange(resize_table(table, (height, width)), "h w C -> (h w) C")
            self._resized = (stored, version, (height, width), positions)
        return self._resized[3]

    def _read_nothing(self, query: Tensor) -> Tensor:
        # One hidden cell per level: nothing of it is read, only the null value remains.
        config = self.mmfs.config
        levels = len(config.level_sides)
        values = query.new_zeros(query.shape[0], 1, levels, config.heads, config.value_width // config.heads)
        hidden = torch.zeros(*query.shape[:2], 1, dtype=torch.bool, device=query.device)
        centre = torch.full((1, 1, 2), 0.5, dtype=torch.float32, device=query.device).expand(1, query.shape[1], 2)
        return self.mmfs(query, centre, values, hidden, ((1, 1),) * levels)


class ConditionedUNet(UNet2DConditionModel):
    """diffusers' UNet2DConditionModel, keys and all, with `skip_synchronizers` and a `middle_synchronizer`."""

    fsdp_forward_methods = ("project_features",)
    """Entry points besides `forward`, for `register_fsdp_forward_method`."""

    def __init__(
        self,
        unet: Mapping[str, Any],
        *,
        mmfs: MMFSConfig,
        feature_width: int,
        latent_side: int,
        position_side: int,
        constant_residual_without_image: bool = False,
    ) -> None:
        """
        Args:
            unet: arguments of UNet2DConditionModel. Its `attention_head_dim` is the number of heads, an upstream misnomer.
            mmfs: sizes of the synchronizers; a `base_side` of None becomes each one's own grid side.
            feature_width: F.
            latent_side: side of the latents at the configured picture size.
            position_side: side of the synchronizers' position tables.
            constant_residual_without_image: a picture that sees no other still gets the synchronizers' constant residual (published).
        """
        super().__init__(**unet)
        mark_initialized(self)
        self.constant_residual_without_image = constant_residual_without_image
        *skips, middle = self._tensor_sizes(latent_side)
        self.skip_synchronizers = nn.ModuleList(
            UNetSynchronizer(mmfs, width=width, grid_side=side, feature_width=feature_width, position_side=position_side)
            for width, side in skips
        )
        width, side = middle
        self.middle_synchronizer = UNetSynchronizer(
            mmfs, width=width, grid_side=side, feature_width=feature_width, position_side=position_side
        )

    def project_features(self, features: Float[Tensor, "I N S F"]) -> tuple[Float[Tensor, "I N S H D"], ...]:
        """Values of every synchronizer: the skips in order, then the middle. Once per picture."""
        return tuple(synchronizer.project(features) for synchronizer in (*self.skip_synchronizers, self.middle_synchronizer))

    def forward(
        self,
        sample: Float[Tensor, "I C h w"],
        timestep: Tensor,
        encoder_hidden_states: Float[Tensor, "I K W"],
        *,
        class_labels: Float[Tensor, "I W"] | None = None,
        values: Sequence[Float[Tensor, "I N S H D"]] | DocumentValues | None = None,
        visible: Bool[Tensor, "I N"] | None = None,
        level_shapes: LevelShapes | None = None,
    ) -> Float[Tensor, "I C h w"]:
        """Predicts noise or velocity.

        Args:
            timestep: one per image, or a scalar, between 0 and the number of training steps.
            encoder_hidden_states: condition tokens.
            class_labels: a vector added through the time embedding, where the UNet was configured with a projection for it.
            values: from `project_features`; None or no pictures (N = 0) reads none. By document: each image reads all of its own.
            visible: which pictures each image may read; not needed for values by document.
            level_shapes: real (height, width) of each level; None means the configured squares.

        Raises:
            ShapeError: values for another number of synchronizers.
        """
        sample = sample.to(self.conv_in.weight.dtype)
        condition = encoder_hidden_states.to(sample.dtype)
        embedding = self.time_embedding(self.get_time_embed(sample=sample, timestep=timestep), None)
        pooled = self.get_class_embed(sample=sample, class_labels=None if class_labels is None else class_labels.to(sample.dtype))
        if pooled is not None:
            embedding = embedding + pooled

        # The innermost sizes of odd grids do not come back by doubling; the up blocks are then told the size of the skip.
        odd = any(side % 2**self.num_upsamplers for side in sample.shape[-2:])

        state = self.conv_in(sample)
        skips = [state]
        for block in self.down_blocks:
            state, block_skips = block(hidden_states=state, temb=embedding, **_condition(block, condition))
            skips.extend(block_skips)
        state = self.mid_block(state, embedding, **_condition(self.mid_block, condition))

        if isinstance(values, DocumentValues):
            skips, state = self._synchronize_documents(skips, state, values, level_shapes)
        else:
            skips, state = self._synchronize(skips, state, values, visible, level_shapes)

        for index, block in enumerate(self.up_blocks):
            count = len(block.resnets)  # type: ignore[arg-type]
            block_skips, skips = tuple(skips[-count:]), skips[:-count]
            upsample_size = tuple(skips[-1].shape[2:]) if odd and index < len(self.up_blocks) - 1 else None
            state = block(
                hidden_states=state,
                temb=embedding,
                res_hidden_states_tuple=block_skips,
                upsample_size=upsample_size,
                **_condition(block, condition),
            )

        if self.conv_norm_out is not None:
            state = self.conv_act(self.conv_norm_out(state))
        return self.conv_out(state)

    def _synchronize(
        self,
        skips: Sequence[Tensor],
        middle: Tensor,
        values: Sequence[Tensor] | None,
        visible: Tensor | None,
        level_shapes: LevelShapes | None,
    ) -> tuple[list[Tensor], Tensor]:
        # New tensors throughout: the last skip of a down block is the same tensor as the block's output.
        nothing_to_read = values is None or visible is None or visible.shape[1] == 0
        if nothing_to_read and not self.constant_residual_without_image:
            return list(skips), middle
        synchronizers = (*self.skip_synchronizers, self.middle_synchronizer)
        if values is not None and len(values) != len(synchronizers):
            raise ShapeError(f"The UNet has {len(synchronizers)} synchronizers, values came for {len(values)}; use project_features.")
        tensors = (*skips, middle)
        changed = []
        for index, (synchronizer, tensor) in enumerate(zip(synchronizers, tensors, strict=True)):
            if nothing_to_read:
                residual = synchronizer(tensor, None, None)
            else:
                assert values is not None and visible is not None
                residual = synchronizer(tensor, values[index], visible, level_shapes)
                if not self.constant_residual_without_image:
                    residual = torch.where(visible.any(dim=1)[:, None, None, None], residual, 0.0)
            changed.append(tensor + residual)
        return changed[:-1], changed[-1]

    def _synchronize_documents(
        self, skips: Sequence[Tensor], middle: Tensor, documents: DocumentValues, level_shapes: LevelShapes | None
    ) -> tuple[list[Tensor], Tensor]:
        alone = len(documents.rows) == 1  # then its rows are all of them, and nothing has to be picked out
        changed = [*skips, middle] if alone else [tensor.clone() for tensor in (*skips, middle)]
        for own, rows in zip(documents.values, documents.rows, strict=True):
            if own is None and not self.constant_residual_without_image:
                continue
            values = own or (None,) * len(changed)
            for index, synchronizer in enumerate((*self.skip_synchronizers, self.middle_synchronizer)):
                read = rows[:1] if index == 0 and documents.branches else rows
                tensor = changed[index][: len(read)] if alone else changed[index][read]
                value = values[index]
                visible = None if value is None else torch.ones(tensor.shape[0], value.shape[1], dtype=torch.bool, device=tensor.device)
                residual = synchronizer(tensor, value, visible, level_shapes)
                if alone:
                    changed[index] = changed[index] + residual
                else:
                    changed[index].index_add_(0, rows, residual.expand(len(rows), -1, -1, -1))
        return changed[:-1], changed[-1]

    def _tensor_sizes(self, latent_side: int) -> list[tuple[int, int]]:
        # (channels, side) of every skip in order, then of the middle; strided convolutions round up.
        side = latent_side
        sizes = [(self.conv_in.out_channels, side)]
        for block in self.down_blocks:
            width = block.resnets[-1].out_channels  # type: ignore[index,union-attr]
            sizes += [(width, side)] * len(block.resnets)  # type: ignore[arg-type]
            if block.downsamplers is not None:
                side = -(-side // 2)
                sizes.append((width, side))
        return [*sizes, (sizes[-1][0], side)]


def pixel_centres(height: int, width: int, *, like: Tensor) -> Float[Tensor, "1 {height}*{width} 2"]:
    """Centres of the pixels of a grid, row-major, as (x, y) fractions of its width and height, in float32 or finer."""
    dtype = torch.promote_types(like.dtype, torch.float32)
    across = (torch.arange(width, dtype=dtype, device=like.device) + 0.5) / width
    down = (torch.arange(height, dtype=dtype, device=like.device) + 0.5) / height
    grid = torch.stack([across.expand(height, width), down[:, None].expand(height, width)], dim=-1)
    return grid.reshape(1, height * width, 2)


def mark_initialized(upstream: nn.Module) -> None:
    """Tells transformers that a diffusers module has initialised itself; it would otherwise overwrite zero and scaled starts."""
    for module in upstream.modules():
        module._is_hf_initialized = True  # type: ignore[assignment]


def _condition(block: nn.Module, condition: Tensor) -> dict[str, Tensor]:
    return {"encoder_hidden_states": condition} if getattr(block, "has_cross_attention", False) else {}
