"""Pictures: from noise to latents, with classifier-free guidance, one or many at a time.

    prediction = negative + guidance · (conditioned - negative)

Both branches of all pictures stand in one batch, whatever step each of them has come to; what the pictures of a document give is
projected once, before the first step, and serves every step and both branches.

Source: arXiv 2401.10208; release `sd.py` (spec §4.2). Deviations: the noise comes from a CPU generator (docs/deviations.md).
Axes: C latent channels · h w latent grid · K condition tokens · W condition width · R rows (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from mm_interleaved.generation.samplers import Sampler
from mm_interleaved.model.noise_schedule import NoiseSchedule

Predictor = Callable[[Tensor, Tensor, Tensor, Sequence[Sequence[int]]], Tensor]
"""(noisy latents, one timestep per row, condition tokens, the rows of each picture) → prediction."""


class Painting:
    """One picture on its way from noise."""

    def __init__(
        self,
        schedule: NoiseSchedule,
        sampler: Sampler,
        *,
        condition: Float[Tensor, "1 K W"],
        negative: Float[Tensor, "1 K W"] | None,
        guidance: float,
        steps: int,
        shape: tuple[int, int, int],
        generator: torch.Generator,
    ) -> None:
        """
        Args:
            schedule: how much noise stands at which time.
            sampler: the way through the times.
            condition: what the words say.
            negative: the learned condition of "nothing said"; None, or a guidance of 1, computes the conditioned branch alone.
            guidance: scale of classifier-free guidance.
            shape: (C, h, w).
            generator: of this picture's noise, on the CPU.
        """
        self.steps = steps
        self.step = 0
        """Steps done."""
        self._schedule = schedule
        self._sampler = sampler
        self._guidance = guidance
        guided = negative is not None and guidance != 1
        self.conditions: tuple[Tensor, ...] = (negative, condition) if guided and negative is not None else (condition,)
        """Of each branch; the negative one first."""
        self._shape = shape
        self._generator = generator
        self._numeric = torch.promote_types(condition.dtype, torch.float32)
        self.latents: Float[Tensor, "1 C h w"] = self._draw()
        """After the steps done."""
        self._prediction: Tensor | None = None
        self._before: Tensor = self.latents

    @property
    def instant(self) -> Tensor:
        """Time of the next step."""
        return self._sampler.instant(self.step)

    def advance(self, predictions: Sequence[Float[Tensor, "1 C h w"]]) -> None:
        """Takes one step.

        Args:
            predictions: of each branch, in the order of `conditions`.
        """
        predictions = [prediction.to(self._numeric) for prediction in predictions]
        if len(predictions) == 2:
            unconditioned, conditioned = predictions
            prediction = unconditioned + self._guidance * (conditioned - unconditioned)
        else:
            (prediction,) = predictions
        noise = self._draw() if self._sampler.random else None
        self._before, self._prediction = self.latents, prediction
        self.latents = self._sampler.advance(prediction, self.step, self.latents, noise)
        self.step += 1

    def foreseen(self) -> Float[Tensor, "1 C h w"]:
        """What the picture will be, as far as the last step can tell: clean latents, for previews."""
        if self._prediction is None:
            return self.latents
        return self._schedule.clean(self._prediction, self._sampler.instant(self.step - 1), self._before)

    def _draw(self) -> Tensor:
        noise = torch.randn(self._shape, generator=self._generator, dtype=torch.float32)[None]
        return noise.to(self.conditions[0].device, self._numeric)


@torch.no_grad()
def denoise_step(predict: Predictor, paintings: Sequence[Painting]) -> None:
    """Takes one step of each picture, all branches of all pictures in one batch.

    Args:
        predict: the image decoder's prediction.
    """
    # All negative branches, then all conditioned ones.
    branches = [(place, branch) for branch in (-2, -1) for place, one in enumerate(paintings) if len(one.conditions) >= -branch]
    latents = torch.cat([paintings[place].latents for place, _ in branches])
    timestep = torch.stack([paintings[place].instant for place, _ in branches])
    conditions = torch.cat([paintings[place].conditions[branch] for place, branch in branches])
    rows = [[row for row, (owner, _) in enumerate(branches) if owner == place] for place in range(len(paintings))]
    prediction = predict(latents, timestep, conditions, rows)
    for own, painting in zip(rows, paintings, strict=True):
        painting.advance([prediction[row : row + 1] for row in own])
