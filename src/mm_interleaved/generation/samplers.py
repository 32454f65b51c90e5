"""From noise to picture in a number of steps: the schedule's own steps, or a solver of higher order from diffusers that needs fewer.

`plain` is what the schedule defines: DDPM's random steps as published, or straight steps along a flow. `dpm++` and `unipc` are
diffusers' multistep solvers of second order; they draw no random number after the first.

Source: DPM-Solver++ (arXiv 2211.01095), UniPC (arXiv 2302.04867), both from diffusers. Deviations: a flow is given its exact times,
where diffusers rounds them to whole thousandths; its steps are closer together where the noise is strong (`FLOW_SHIFT`).
Axes: C latent channels · h w latent grid (docs/glossary.md).
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
from jaxtyping import Float
from torch import Tensor

from mm_interleaved.model.noise_schedule import Instant, NoiseSchedule

FLOW_SHIFT = 2.0
"""How much of a flow's steps lies where the noise is strong: time t becomes 2 t / (1 + t). With 12 steps of `unipc` pictures of nano came
to 2.2 grey levels of those with 100 steps, evenly spaced to 2.8, with a shift of 3 to 2.4 (30 plain steps: 2.1)."""

_SOLVERS = {"dpm++": DPMSolverMultistepScheduler, "unipc": UniPCMultistepScheduler}


@runtime_checkable
class Sampler(Protocol):
    """The steps of one picture, from 0."""

    random: bool
    """Whether every step needs fresh noise."""

    def instant(self, step: int) -> Instant:
        """What the network is told before a step, as `NoiseSchedule` counts time."""

    def advance(self, prediction: Tensor, step: int, latents: Tensor, noise: Tensor | None) -> Tensor:
        """Latents after a step, to be called once per step in order."""


def sampler_for(name: str, schedule: NoiseSchedule, steps: int, device: torch.device) -> Sampler:
    """The steps of one picture.

    Args:
        name: one of `options.SAMPLERS`.

    Raises:
        ConfigError: more steps than the schedule has.
    """
    return _Plain(schedule, steps, device) if name == "plain" else _Solver(name, schedule, steps, device)


class _Plain:
    def __init__(self, schedule: NoiseSchedule, steps: int, device: torch.device) -> None:
        self.random = schedule.config.kind == "ddpm"
        self._schedule = schedule
        self._instants = schedule.inference_timesteps(steps).to(device)

    def instant(self, step: int) -> Instant:
        return self._instants[step]

    def advance(
        self, prediction: Float[Tensor, "1 C h w"], step: int, latents: Float[Tensor, "1 C h w"], noise: Float[Tensor, "1 C h w"] | None
    ) -> Float[Tensor, "1 C h w"]:
        return self._schedule.step(prediction, self._instants[step], self._instants[step + 1], latents, noise)


class _Solver:
    random = False

    def __init__(self, name: str, schedule: NoiseSchedule, steps: int, device: torch.device) -> None:
        schedule.inference_timesteps(steps)  # the same bounds, the same error
        config, flow = schedule.config, schedule.config.kind == "flow"
        self._scheduler = _SOLVERS[name](
            num_train_timesteps=config.train_steps,
            beta_start=config.beta_start,
            beta_end=config.beta_end,
            beta_schedule="scaled_linear",
            prediction_type="flow_prediction" if flow else "epsilon",
            use_flow_sigmas=flow,
            flow_shift=FLOW_SHIFT if flow else 1.0,
            solver_order=2,
        )
        self._scheduler.set_timesteps(steps, device=device)
        self._scheduler.set_begin_index(0)  # otherwise it looks each timestep up, which waits for the device
        self._instants = self._scheduler.sigmas.to(device) if flow else self._scheduler.timesteps

    def instant(self, step: int) -> Instant:
        return self._instants[step]

    def advance(
        self, prediction: Float[Tensor, "1 C h w"], step: int, latents: Float[Tensor, "1 C h w"], noise: Float[Tensor, "1 C h w"] | None
    ) -> Float[Tensor, "1 C h w"]:
        return self._scheduler.step(prediction, self._scheduler.timesteps[step], latents, return_dict=False)[0]
