"""Hidden states of the text so far, and maps of earlier pictures → the next picture.

In one training forward pass: (1) the context resampler reads the hidden states, from the begin-of-image token backwards, into a
fixed number of condition tokens; (2) some of them are replaced by the learned negative condition; (3) the target picture becomes
latents, noise is mixed in; (4) the UNet predicts the noise (or velocity), reading the maps of earlier pictures through MMFS;
(5) the squared error is averaged over each picture's latent elements. All random numbers are arguments.

Source: arXiv 2401.10208; release `decoder_image.py`, `sd.py`. Deviations: `ours` may also feed the sum of the context through the
time embedding (`pooled_context`), predict velocities (`NoiseConfig.kind`), read all earlier pictures, and adds nothing where
there is none (docs/deviations.md).
Axes: I images · L context tokens · D context width · K condition tokens · W condition width · N earlier pictures · S cells of all
levels · F feature width · C latent channels · h w latent grid (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import initialization as init

from mm_interleaved.batch import NoiseDraw
from mm_interleaved.errors import ConfigError, ShapeError
from mm_interleaved.model.conditioned_unet import ConditionedUNet, DocumentValues, LevelShapes, mark_initialized
from mm_interleaved.model.configuration import ImageDecoderConfig, MMFSConfig, NoiseConfig, ResamplerConfig
from mm_interleaved.model.noise_schedule import NoiseSchedule
from mm_interleaved.model.resampler import Resampler
from mm_interleaved.ops.numbers import numbers_on
from mm_interleaved.ops.processor import is_intel
from mm_interleaved.ops.take import take

NEGATIVE_STD = 0.02
"""Standard deviation of the negative condition before training; the published one started from Stable Diffusion's empty prompt."""

PLAIN_ATTENTION_SIDE = 32
"""Largest latent side at which attention on a CPU may be written as two products and a softmax; above it the score matrices grow too
large. With gradients that was a quarter to a third of a training step faster than fused attention (two cores, batch 32), but for float32
on Intel's processors (3.35 against 3.11 s a step of 126 M parameters). Without gradients fused attention is the faster one in float32
(4.1 against 5.8 ms for 1,024 queries of two heads of 32), and in bfloat16 on Intel's (1.8 against 3.5), not on others (5.1, 3.6)."""


class ImageDecoder(nn.Module):
    """Context resampler, UNet with synchronizers, autoencoder and noise schedule."""

    fsdp_forward_methods = (
        "condition",
        "negative_condition",
        "project_features",
        "predict",
        "squared_error",
        "squared_error_of_latents",
        "encode",
        "posterior",
        "decode",
        "reconstruct",
    )
    """Entry points besides `forward`, for `register_fsdp_forward_method`."""

    def __init__(
        self,
        config: ImageDecoderConfig,
        *,
        context_width: int,
        feature_width: int,
        constant_residual_without_image: bool = False,
    ) -> None:
        """
        Args:
            config: sizes of all parts.
            context_width: D.
            feature_width: F.
            constant_residual_without_image: the field of `Behaviour`; True as published.

        Raises:
            ConfigError: the resampler's width is not the UNet's condition width, or the sides do not divide.
        """
        super().__init__()
        self.config = config
        self.schedule = NoiseSchedule(NoiseConfig.read(config.noise))
        resampler = ResamplerConfig.read(config.resampler)
        self.resampler = Resampler(resampler, input_width=context_width)
        self.pooled_projection = nn.Linear(context_width, resampler.width) if config.pooled_context else None
        self.negative_tokens = nn.Parameter(torch.empty(1, resampler.queries + config.pooled_context, resampler.width))

        self.vae = AutoencoderKL(**config.vae)
        self.vae.requires_grad_(False)
        mark_initialized(self.vae)
        self.latent_side = self._latent_side(config, self.vae)
        self.latent_channels: int = self.vae.config["latent_channels"]

        unet = {"sample_size": self.latent_side, **config.unet}
        if config.pooled_context:
            unet |= {"class_embed_type": "projection", "projection_class_embeddings_input_dim": resampler.width}
        self.unet = ConditionedUNet(
            unet,
            mmfs=MMFSConfig.read(config.mmfs),
            feature_width=feature_width,
            latent_side=self.latent_side,
            position_side=config.feature_position_side,
            constant_residual_without_image=constant_residual_without_image,
        )
        expected = self.unet.config["cross_attention_dim"]
        if expected != resampler.width:
            raise ConfigError(
                f"image_decoder.resampler.width {resampler.width} must equal image_decoder.unet.cross_attention_dim {expected}: "
                "the resampled context is the UNet's condition."
            )
        channels = self.unet.config["in_channels"]
        if channels != self.latent_channels:
            raise ConfigError(f"image_decoder.unet.in_channels {channels} must equal vae.latent_channels {self.latent_channels}.")
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Negative condition normal with standard deviation 0.02, pooled projection of unit gain; the parts reset themselves."""
        init.normal_(self.negative_tokens, std=NEGATIVE_STD)
        if self.pooled_projection is not None:
            init.normal_(self.pooled_projection.weight, std=self.pooled_projection.in_features**-0.5)
            init.zeros_(self.pooled_projection.bias)

    def condition(
        self, context: Float[Tensor, "I L D"], mask: Bool[Tensor, "I L"], pooled: Float[Tensor, "I D"] | None = None
    ) -> Float[Tensor, "I K W"]:
        """Reads the context of each picture into condition tokens.

        Args:
            context: hidden states with their distances to the begin-of-image token encoded.
            mask: False at padding.
            pooled: sum of the context without distances, for `pooled_context`; it becomes the last condition token.

        Raises:
            ShapeError: the sum is missing though `pooled_context` asks for it.
        """
        tokens = self.resampler(context, mask)
        if self.pooled_projection is None:
            return tokens
        if pooled is None:
            raise ShapeError("image decoder: pooled_context is on, but no pooled context was handed to condition().")
        return torch.cat([tokens, self.pooled_projection(pooled)[:, None].to(tokens.dtype)], dim=1)

    def negative_condition(self, count: int) -> Float[Tensor, "{count} K W"]:
        """The learned condition of guidance's negative branch."""
        return self.negative_tokens.expand(count, -1, -1)

    def project_features(self, maps: Float[Tensor, "I N S F"]) -> tuple[Float[Tensor, "I N S H Dh"], ...]:
        """Values of every synchronizer (skips in order, then the middle), once per picture.

        Args:
            maps: the levels of each picture concatenated finest first, each row-major.
        """
        return self.unet.project_features(maps)

    def predict(
        self,
        latents: Float[Tensor, "I C h w"],
        timestep: Tensor,
        condition: Float[Tensor, "I K W"],
        values: Sequence[Float[Tensor, "I N S H Dh"]] | DocumentValues | None = None,
        visible: Bool[Tensor, "I N"] | None = None,
        level_shapes: LevelShapes | None = None,
    ) -> Float[Tensor, "I C h w"]:
        """Predicts the noise (`ddpm`) or the velocity (`flow`) in noisy latents, in their dtype.

        Args:
            timestep: time of the noise schedule, one per image or a scalar.
            condition: from `condition` or `negative_condition`.
            values: from `project_features`, for every image or by document; None reads no picture.
            visible: which pictures each image may read.
            level_shapes: real (height, width) of each level; None means the configured squares.
        """
        prediction = self.unet(
            latents,
            self.schedule.embedded_timestep(timestep),
            condition,
            class_labels=condition[:, -1] if self.config.pooled_context else None,
            values=values,
            visible=visible,
            level_shapes=level_shapes,
        )
        return prediction.to(latents.dtype)

    def encode(self, pixels: Float[Tensor, "I 3 H W"], posterior: Float[Tensor, "I C h w"]) -> Float[Tensor, "I C h w"]:
        """Pictures in [0, 1] → a sample of their latents on unit scale.

        Args:
            posterior: standard normal numbers of the sample.

        Raises:
            ShapeError: pictures whose latents have another shape than `posterior`.
        """
        # The autoencoder computes in its own dtype, float32 unless converted; under autocast its convolutions follow autocast.
        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trains_autoencoder()):
            mean, logvar = self._posterior(pixels)
        return self._to_unit_scale(_sample(mean, logvar, posterior))

    def posterior(self, pixels: Float[Tensor, "I 3 H W"]) -> tuple[Float[Tensor, "I C h w"], Float[Tensor, "I C h w"]]:
        """Mean and standard deviation of the latents of pictures in [0, 1], on unit scale; `encode` draws from them."""
        mean, logvar = self._posterior(pixels)
        shift, scale = self._latent_statistics(mean)
        return (mean - shift) / scale, (0.5 * logvar).exp() / scale

    def decode(self, latents: Float[Tensor, "I C h w"]) -> Float[Tensor, "I 3 H W"]:
        """Latents on unit scale → pictures in [0, 1]."""
        return self._to_pixels(self._from_unit_scale(latents)).clamp(0.0, 1.0)

    def reconstruct(
        self, pixels: Float[Tensor, "I 3 H W"], posterior: Float[Tensor, "I C h w"]
    ) -> tuple[Float[Tensor, "I 3 H W"], Float[Tensor, "I C h w"], Float[Tensor, "I C h w"]]:
        """Pictures through the autoencoder and back, for training it.

        Returns:
            The pictures again, not clamped so that gradients reach every pixel, and the posterior's mean and logarithm of variance
            on the autoencoder's own scale.
        """
        mean, logvar = self._posterior(pixels)
        return self._to_pixels(_sample(mean, logvar, posterior)), mean, logvar

    def forward(
        self,
        target_pixels: Float[Tensor, "I 3 H W"],
        context: Float[Tensor, "I L D"],
        context_mask: Bool[Tensor, "I L"],
        maps: Float[Tensor, "M N S F"] | None,
        visible: Bool[Tensor, "I N2"] | None,
        draw: NoiseDraw,
        level_shapes: LevelShapes | None = None,
        *,
        map_index: Int[Tensor, "I N2"] | None = None,
        pooled: Float[Tensor, "I D"] | None = None,
    ) -> Float[Tensor, " I"]:
        """Squared error of the prediction for each picture, averaged over its latent elements, in float32.

        Args:
            target_pixels: decoder view, in [0, 1].
            context: hidden states of each picture's context.
            context_mask: False at padding.
            maps: maps of earlier pictures, `I N S F`; with `map_index`, of all pictures of the batch, `M 1 S F`.
            visible: which of them each picture may read.
            draw: every random number.
            level_shapes: real (height, width) of each level; None means the configured squares.
            map_index: which pictures of `maps` each image looks at, where not visible any valid index. Each picture is then
                projected once, however many later pictures read it.
            pooled: see `condition`.
        """
        images = target_pixels.shape[0]
        if images == 0:
            return context.new_zeros(0, dtype=torch.promote_types(context.dtype, torch.float32))
        condition = self.condition(context, context_mask, pooled)
        values = None if maps is None else self.project_features(maps)
        if values is not None and map_index is not None:
            values = tuple(take(value[:, 0], map_index) for value in values)
        return self.squared_error(target_pixels, condition, draw, values, visible, level_shapes)

    def squared_error(
        self,
        target_pixels: Float[Tensor, "I 3 height width"],
        condition: Float[Tensor, "I K W"],
        draw: NoiseDraw,
        values: Sequence[Float[Tensor, "I N S H Dh"]] | None = None,
        visible: Bool[Tensor, "I N"] | None = None,
        level_shapes: LevelShapes | None = None,
    ) -> Float[Tensor, " I"]:
        """What `forward` returns, from a condition that is already there; some of it is dropped as `draw` says."""
        latents = self.encode(target_pixels, draw.posterior)
        return self.squared_error_of_latents(latents, condition, draw, values, visible, level_shapes)

    def squared_error_of_latents(
        self,
        latents: Float[Tensor, "I C h w"],
        condition: Float[Tensor, "I K W"],
        draw: NoiseDraw,
        values: Sequence[Float[Tensor, "I N S H Dh"]] | None = None,
        visible: Bool[Tensor, "I N"] | None = None,
        level_shapes: LevelShapes | None = None,
    ) -> Float[Tensor, " I"]:
        """What `squared_error` returns, from latents on unit scale that are already there."""
        noisy = self.schedule.add_noise(latents, draw.noise, draw.timestep)
        dropped = (draw.drop < self.config.drop_condition)[:, None, None]
        condition = torch.where(dropped, self.negative_condition(condition.shape[0]).to(condition.dtype), condition)
        prediction = self.predict(noisy, draw.timestep, condition, values, visible, level_shapes)
        target = self.schedule.target(latents, draw.noise, draw.timestep)
        numeric = torch.promote_types(prediction.dtype, torch.float32)
        return (prediction.to(numeric) - target.to(numeric)).square().mean(dim=(1, 2, 3))

    def choose_attention(self, device_type: str, *, backward: bool, half: bool | None = None) -> None:
        """Chooses the faster of diffusers' two attention forms; they differ by rounding only.

        Args:
            device_type: "cpu", "cuda" …
            backward: whether gradients will be asked for.
            half: whether products are of half precision; None: if the weights are.
        """
        small = device_type == "cpu" and self.latent_side <= PLAIN_ATTENTION_SIDE
        half = self.unet.dtype != torch.float32 if half is None else half
        plain = small and sum((half, backward, not is_intel())) >= 2  # each speaks against the fused kernel, none alone
        self.unet.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())
        self.vae.set_attn_processor(AttnProcessor() if plain else AttnProcessor2_0())

    def _posterior(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        signed = 2 * pixels.to(self.vae.dtype) - 1
        distribution = self.vae.encode(signed).latent_dist
        numeric = torch.promote_types(distribution.mean.dtype, torch.float32)
        return distribution.mean.to(numeric), distribution.logvar.to(numeric)

    def _to_pixels(self, latents: Tensor) -> Tensor:
        decoded = self.vae.decode(latents.to(self.vae.dtype)).sample
        return decoded.to(torch.promote_types(decoded.dtype, torch.float32)) / 2 + 0.5

    def _to_unit_scale(self, latents: Tensor) -> Tensor:
        shift, scale = self._latent_statistics(latents)
        return (latents - shift) / scale

    def _from_unit_scale(self, latents: Tensor) -> Tensor:
        shift, scale = self._latent_statistics(latents)
        return latents * scale + shift

    def _latent_statistics(self, like: Tensor) -> tuple[Tensor | float, Tensor | float]:
        # Mean and standard deviation of the autoencoder's latents: per channel where its config has them, else one for all.
        mean, std = self.vae.config["latents_mean"], self.vae.config["latents_std"]
        if mean is None or std is None:
            return self.vae.config["shift_factor"] or 0.0, 1.0 / self.vae.config["scaling_factor"]
        return numbers_on(like.device, mean, like.dtype)[:, None, None], numbers_on(like.device, std, like.dtype)[:, None, None]

    def _trains_autoencoder(self) -> bool:
        return any(parameter.requires_grad for parameter in self.vae.parameters())

    @staticmethod
    def _latent_side(config: ImageDecoderConfig, vae: AutoencoderKL) -> int:
        factor = 2 ** (len(vae.config["block_out_channels"]) - 1)
        if config.image_side % factor:
            raise ConfigError(
                f"image_decoder.image_side {config.image_side} must be a multiple of {factor}, by which its autoencoder shrinks."
            )
        return config.image_side // factor


def _sample(mean: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    if noise.shape != mean.shape:
        raise ShapeError(f"Posterior noise has shape {tuple(noise.shape)}, the latents {tuple(mean.shape)}; draw it for this picture size.")
    return mean + (0.5 * logvar).exp() * noise
