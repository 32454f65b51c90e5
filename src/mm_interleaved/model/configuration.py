"""The configuration of the whole model: transformers' own configs for upstream parts, documented records for ours.

Source: arXiv 2401.10208; release `configs/release/mm_pretrain.yaml`. What differs between the published model and new training
is a named field of `Behaviour` (docs/deviations.md).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields
from difflib import get_close_matches
from typing import Any, Literal, TypeVar

from transformers import AutoConfig, CLIPVisionConfig, LlamaConfig, PreTrainedConfig, SiglipVisionConfig

from mm_interleaved.errors import ConfigError

Part = TypeVar("Part", bound="_Part")


class _Part:
    """A record that reads itself from a mapping and refuses unknown keys with the nearest known one."""

    @classmethod
    def read(cls: type[Part], values: dict[str, Any] | Part | None) -> Part:
        if values is None:
            return cls()
        if isinstance(values, cls):
            return values
        if not isinstance(values, dict):
            raise ConfigError(f"{cls.__name__} is read from a mapping, got {type(values).__name__}.")
        known = {item.name for item in fields(cls)}  # type: ignore[arg-type]
        for key in values:
            if key not in known:
                nearest = get_close_matches(key, sorted(known), n=1, cutoff=0.0)[0]
                raise ConfigError(f"{cls.__name__} has no field '{key}'; the nearest is '{nearest}'. Fields: {', '.join(sorted(known))}.")
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in values.items()})


@dataclass(frozen=True, kw_only=True)
class AdapterConfig(_Part):
    """ViT-Adapter: a convolutional prior beside the vision transformer, exchanged with it in blocks (spec §1.2)."""

    prior_side: int | None = None
    """Side in pixels to which the picture is resized for the spatial prior; None means 16 x the patch grid, as published."""
    prior_width: int = 64
    """Channels of the first convolutions of the spatial prior."""
    finest_map: bool = True
    """Also make the map at a quarter of the prior's side. Without it the maps start at an eighth; leave it out if nobody reads it."""
    blocks: int = 4
    """Interaction blocks; the transformer layers are split evenly among them."""
    heads: int = 16
    """Heads of the deformable attention in injectors and extractors."""
    points: int = 4
    """Points each head samples per level."""
    value_ratio: float = 0.5
    """Width of the values as a fraction of the transformer's width."""
    feed_forward_ratio: float = 0.25
    """Width of the extractors' convolutional feed-forward as a fraction of the transformer's width."""
    extra_extractors: int = 2
    """Additional extractors after the last block."""


@dataclass(frozen=True, kw_only=True)
class ResamplerConfig(_Part):
    """Q-Former that reads any number of tokens into a fixed number of queries (spec §1.2, §1.4)."""

    queries: int = 64
    """Number of output tokens."""
    width: int = 768
    """Width of queries and layers."""
    layers: int = 12
    """Transformer layers."""
    heads: int = 12
    """Attention heads."""
    feed_forward_width: int = 3072
    """Hidden width of the feed-forward."""
    cross_attention_every: int = 2
    """Cross-attention stands in layers 0, k, 2k, …"""
    head_norm: bool = True
    """LayerNorm over each head of queries and keys (the visual resampler has it, the image decoder's has not)."""
    dropout: float = 0.1
    """Dropout of hidden states and attention probabilities, in training."""


@dataclass(frozen=True, kw_only=True)
class MMFSConfig(_Part):
    """Multi-Modal Feature Synchronizer (spec §2)."""

    level_sides: tuple[int, ...] = (32, 16, 8)
    """Sides of the feature maps that are read, in cells at the configured picture size, finest first."""
    base_side: int | None = 16
    """One unit of offset is 1/base_side of the picture; None means the side of the query grid (image decoder)."""
    heads: int = 16
    """Attention heads."""
    points: int = 8
    """Points each head samples per level."""
    value_width: int = 1024
    """Width of the projected values, all heads together."""
    offset_init: float = 3.0
    """Offset biases start uniform in ± this, in units of 1/base_side."""
    max_images: int = 50
    """Rows of the recency table; a query may look back on max_images - 1 pictures. More is an error, never a silent crop."""
    every: int = 4
    """Language model: MMFS stands in layers 0, k, 2k, … Ignored by the image decoder, which has one per skip and one in the middle."""
    eps: float = 1e-6
    """Epsilon of the norms on queries and features."""


@dataclass(frozen=True, kw_only=True)
class NoiseConfig(_Part):
    """The noise schedule of the image decoder (spec §3.2, §4.2)."""

    kind: Literal["ddpm", "flow"] = "ddpm"
    """`ddpm`: 1000 discrete steps, epsilon prediction, as published. `flow`: straight paths, velocity prediction."""
    train_steps: int = 1000
    """Number of DDPM steps; flow matching scales its fractions by it for the time embedding."""
    beta_start: float = 0.00085
    """First beta of the scaled-linear schedule."""
    beta_end: float = 0.012
    """Last beta of the scaled-linear schedule."""
    steps_offset: int = 1
    """Added to every inference timestep (leading spacing)."""


@dataclass(frozen=True, kw_only=True)
class ImageDecoderConfig(_Part):
    """Hidden states and maps of earlier pictures → the next picture (spec §1.4)."""

    unet: dict[str, Any] = field(default_factory=dict)
    """Arguments of diffusers' UNet2DConditionModel."""
    vae: dict[str, Any] = field(default_factory=dict)
    """Arguments of diffusers' AutoencoderKL; scaling_factor, or latents_mean and latents_std, put latents on unit scale."""
    resampler: dict[str, Any] = field(default_factory=dict)
    """Fields of `ResamplerConfig` for the context resampler; its queries are the UNet's text condition."""
    mmfs: dict[str, Any] = field(default_factory=dict)
    """Fields of `MMFSConfig` for the UNet's synchronizers."""
    noise: dict[str, Any] = field(default_factory=dict)
    """Fields of `NoiseConfig`."""
    image_side: int = 512
    """Side of painted pictures in pixels."""
    drop_condition: float = 0.1
    """Probability in training that a picture's context is replaced by the learned negative condition."""
    pooled_context: bool = False
    """Also feed the sum of the context, as one more condition token and through the time embedding (`ours`; docs/deviations.md)."""
    feature_position_side: int = 64
    """Side of the fixed sin-cos table that is added to the queries of the UNet's synchronizers."""


@dataclass(frozen=True, kw_only=True)
class Behaviour(_Part):
    """Where the published model and new training differ; defaults are `ours`, see `PUBLISHED`."""

    previous_image_only: bool = False
    """The image decoder reads only the immediately preceding picture instead of all earlier ones of the document."""
    isolate_documents: bool = True
    """Packed documents do not attend to each other and their positions restart."""
    image_mean_over_all: bool = False
    """Pictures without weight still count in the denominator of the image loss."""
    constant_residual_without_image: bool = False
    """Without an earlier picture the UNet's synchronizers still add their constant bias instead of nothing."""
    separate_control_head: bool = False
    """The head has frozen rows for the control tokens plus a small trained head added to them."""
    minimum_context: int = 3
    """A picture whose context is shorter (bos and begin-of-image alone) has no image loss."""
    strip_texts: bool = False
    """Texts lose white space at both ends before they are tokenized, as at the released control tokens."""


PUBLISHED = Behaviour(
    previous_image_only=True,
    isolate_documents=False,
    image_mean_over_all=True,
    constant_residual_without_image=True,
    separate_control_head=True,
    strip_texts=True,
)
"""Everything as released, so that the released weights give the released numbers."""


VisionConfig = CLIPVisionConfig | SiglipVisionConfig


class MMInterleavedConfig(PreTrainedConfig):
    """Configuration of `MMInterleavedForConditionalGeneration`.

    Args:
        text_config: the language model's LlamaConfig, or its fields; `vocab_size` counts the two control tokens.
        vision_config: the vision transformer's CLIPVisionConfig or SiglipVisionConfig, or its fields; `model_type` tells which, and is
            CLIP's where it is left out.
        adapter: fields of `AdapterConfig`.
        resampler: fields of `ResamplerConfig` of the visual tokenizer.
        mmfs: fields of `MMFSConfig` of the language model.
        image_decoder: fields of `ImageDecoderConfig`.
        behaviour: fields of `Behaviour`.
        visual_position_side: side of the fixed sin-cos table of the visual tokenizer (16 as published).
        begin_image_token_id: id of `<|beginofimage|>`.
        image_token_id: id of the image placeholder.
        image_loss_weight: factor of the image loss.
        text_loss_weight: factor of the text loss.
        format_version: version of this layout of names, raised when a migration is needed.
    """

    model_type = "mm_interleaved"
    sub_configs = {"text_config": LlamaConfig, "vision_config": AutoConfig}
    has_no_defaults_at_init = False

    def __init__(
        self,
        *,
        text_config: LlamaConfig | dict[str, Any] | None = None,
        vision_config: VisionConfig | dict[str, Any] | None = None,
        adapter: AdapterConfig | dict[str, Any] | None = None,
        resampler: ResamplerConfig | dict[str, Any] | None = None,
        mmfs: MMFSConfig | dict[str, Any] | None = None,
        image_decoder: ImageDecoderConfig | dict[str, Any] | None = None,
        behaviour: Behaviour | dict[str, Any] | None = None,
        visual_position_side: int = 16,
        begin_image_token_id: int = 32000,
        image_token_id: int = 32001,
        pad_token_id: int = 31999,
        bos_token_id: int = 1,
        eos_token_id: int = 2,
        image_loss_weight: float = 10.0,
        text_loss_weight: float = 1.0,
        format_version: int = 1,
        **kwargs: Any,
    ) -> None:
        self.text_config = text_config if isinstance(text_config, LlamaConfig) else LlamaConfig(**(text_config or {}))
        self.vision_config = vision_config if isinstance(vision_config, VisionConfig) else _vision_config(vision_config or {})
        self.adapter = _plain(AdapterConfig.read(adapter))
        self.resampler = _plain(ResamplerConfig.read(resampler))
        self.mmfs = _plain(MMFSConfig.read(mmfs))
        self.image_decoder = _plain(ImageDecoderConfig.read(image_decoder))
        self.behaviour = _plain(Behaviour.read(behaviour))
        self.visual_position_side = visual_position_side
        self.begin_image_token_id = begin_image_token_id
        self.image_token_id = image_token_id
        self.image_loss_weight = image_loss_weight
        self.text_loss_weight = text_loss_weight
        self.format_version = format_version
        # Upstream takes the token ids through its keyword arguments.
        super().__init__(**kwargs | {"pad_token_id": pad_token_id, "bos_token_id": bos_token_id, "eos_token_id": eos_token_id})

    # The records are stored as plain mappings, so that the JSON form is transformers' own; these give them back as records.

    @property
    def adapter_part(self) -> AdapterConfig:
        return AdapterConfig.read(self.adapter)

    @property
    def resampler_part(self) -> ResamplerConfig:
        return ResamplerConfig.read(self.resampler)

    @property
    def mmfs_part(self) -> MMFSConfig:
        return MMFSConfig.read(self.mmfs)

    @property
    def image_decoder_part(self) -> ImageDecoderConfig:
        return ImageDecoderConfig.read(self.image_decoder)

    @property
    def behaviour_part(self) -> Behaviour:
        return Behaviour.read(self.behaviour)

    @property
    def image_side(self) -> int:
        """Side in pixels at which pictures are read."""
        return int(self.vision_config.image_size)  # type: ignore[arg-type]  # upstream allows two sides

    @property
    def image_tokens(self) -> int:
        """Placeholder tokens of one picture."""
        return self.resampler_part.queries


def _vision_config(values: dict[str, Any]) -> VisionConfig:
    kind = values.get("model_type", CLIPVisionConfig.model_type)
    if kind == CLIPVisionConfig.model_type:
        return CLIPVisionConfig(**values)
    if kind == SiglipVisionConfig.model_type:
        return SiglipVisionConfig(**{**values, "vision_use_head": False})  # one vector for a whole picture, which nobody reads
    raise ConfigError(f"vision_config.model_type is '{kind}'; there are: {CLIPVisionConfig.model_type}, {SiglipVisionConfig.model_type}.")


def _plain(part: Any) -> dict[str, Any]:
    return asdict(part)
