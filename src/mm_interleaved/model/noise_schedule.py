"""The noise schedule of the image decoder: how noise is mixed in, what is predicted, and one step back.

Source: Ho et al. 2020 (DDPM) with Stable Diffusion's scaled-linear betas, as arXiv 2401.10208 uses it; Lipman et al. 2023 (flow
matching, straight paths). Deviations: every random number is an argument, so that a seed means one picture on every device.
Axes: I images · C latent channels · h w latent grid.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from mm_interleaved.errors import ConfigError
from mm_interleaved.model.configuration import NoiseConfig

SMALLEST_VARIANCE = 1e-20
"""DDPM's posterior variance is clamped here; it vanishes in the last step."""

SMALLEST_UNIFORM = 1e-6
"""Uniform numbers are kept this far from 0 and 1 before they become a flow time, so that it stays inside (0, 1)."""

Timestep = Int[Tensor, " I"] | Float[Tensor, " I"]
Instant = Int[Tensor, ""] | Float[Tensor, ""]


class NoiseSchedule:
    """Pure functions of (latents, noise, timestep); keeps one table and no state.

    `ddpm`: timesteps are integers 0 … train_steps - 1, the network predicts the noise. `flow`: timesteps are fractions, 0 the clean
    picture and 1 pure noise, and the network predicts the velocity noise - latents.
    """

    def __init__(self, config: NoiseConfig) -> None:
        self.config = config
        # In float32 in this order, as every Stable Diffusion weight was trained; on the CPU even while the model is built without
        # memory on the meta device.
        roots = torch.linspace(config.beta_start**0.5, config.beta_end**0.5, config.train_steps, dtype=torch.float32, device="cpu")
        self._signal = torch.cumprod(1.0 - roots**2, dim=0)

    def draw_timestep(self, uniform: Float[Tensor, " I"]) -> Timestep:
        """Turns uniform numbers in [0, 1) into training timesteps.

        `ddpm`: every step equally likely. `flow`: the logistic function of a standard normal, which favours the middle of the path.
        """
        if self.config.kind == "ddpm":
            return (uniform * self.config.train_steps).floor().long().clamp(max=self.config.train_steps - 1)
        return torch.special.ndtri(uniform.clamp(SMALLEST_UNIFORM, 1 - SMALLEST_UNIFORM)).sigmoid()

    def embedded_timestep(self, timestep: Timestep) -> Timestep:
        """The number that the network's time embedding receives, between 0 and train_steps."""
        return timestep if self.config.kind == "ddpm" else timestep * self.config.train_steps

    def add_noise(self, latents: Float[Tensor, "I C h w"], noise: Float[Tensor, "I C h w"], timestep: Timestep) -> Float[Tensor, "I C h w"]:
        """Mixes noise into clean latents of unit scale."""
        if self.config.kind == "flow":
            share = timestep.to(latents.dtype)[:, None, None, None]
            return (1 - share) * latents + share * noise
        signal = self._signal_at(timestep).to(latents.dtype)[:, None, None, None]
        return signal.sqrt() * latents + (1 - signal).sqrt() * noise

    def target(self, latents: Float[Tensor, "I C h w"], noise: Float[Tensor, "I C h w"], timestep: Timestep) -> Float[Tensor, "I C h w"]:
        """What the network is trained to predict; `timestep` is part of the signature for schedules whose target depends on it."""
        return noise if self.config.kind == "ddpm" else noise - latents

    def inference_timesteps(self, steps: int) -> Tensor:
        """The instants of a sampling run, from noise to picture.

        Returns:
            `steps + 1` instants in descending order: step k goes from entry k to entry k + 1. `ddpm`: int64, the last entry is where
            the final step lands, usually below 0, which means the clean picture. `flow`: float32 from 1 to 0.

        Raises:
            ConfigError: more steps than the schedule has, or none.
        """
        longest = self.config.train_steps
        if steps < 1 or (self.config.kind == "ddpm" and steps > longest):
            raise ConfigError(f"{steps} sampling steps asked for; the {self.config.kind} schedule allows 1 … {longest}.")
        if self.config.kind == "flow":
            return torch.linspace(1.0, 0.0, steps + 1)
        stride = longest // steps
        return torch.arange(steps - 1, -2, -1) * stride + self.config.steps_offset

    def step(
        self,
        prediction: Float[Tensor, "I C h w"],
        timestep: Instant,
        next_timestep: Instant,
        sample: Float[Tensor, "I C h w"],
        noise: Float[Tensor, "I C h w"] | None = None,
    ) -> Float[Tensor, "I C h w"]:
        """One step towards the picture.

        Args:
            prediction: what the network gave for `sample` at `timestep`, after guidance.
            timestep: entry k of `inference_timesteps`.
            next_timestep: entry k + 1.
            sample: the noisy latents.
            noise: standard normal numbers; `ddpm` needs them in every step (None is a step without noise), `flow` ignores them.
        """
        if self.config.kind == "flow":
            return sample + (next_timestep - timestep).to(sample.dtype) * prediction
        signal = self._signal_at(timestep).to(sample.dtype)
        # torch.where instead of `if`: no device synchronisation per step.
        next_signal = torch.where(next_timestep < 0, 1.0, self._signal_at(next_timestep.clamp(min=0))).to(sample.dtype)
        alpha = signal / next_signal
        beta = 1 - alpha
        clean = self.clean(prediction, timestep, sample)
        mean = next_signal.sqrt() * beta / (1 - signal) * clean + alpha.sqrt() * (1 - next_signal) / (1 - signal) * sample
        if noise is None:
            return mean
        variance = (beta * (1 - next_signal) / (1 - signal)).clamp(min=SMALLEST_VARIANCE)
        return mean + (timestep > 0).to(sample.dtype) * variance.sqrt() * noise

    def clean(self, prediction: Float[Tensor, "I C h w"], timestep: Instant, sample: Float[Tensor, "I C h w"]) -> Float[Tensor, "I C h w"]:
        """The clean picture that a prediction stands for.

        Args:
            prediction: what the network gave for `sample` at `timestep`, after guidance.
        """
        if self.config.kind == "flow":
            return sample - timestep.to(sample.dtype) * prediction
        signal = self._signal_at(timestep).to(sample.dtype)
        return (sample - (1 - signal).sqrt() * prediction) / signal.sqrt()

    def _signal_at(self, timestep: Int[Tensor, "*any"]) -> Float[Tensor, "*any"]:
        # A table indexed by one number in a tensor would be asked for as a number of Python's, which waits for the device.
        table = self._signal.to(timestep.device, non_blocking=True)
        return table.index_select(0, timestep.reshape(-1)).view(timestep.shape)
