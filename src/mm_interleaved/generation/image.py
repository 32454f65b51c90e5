"""Pictures: from noise to latents, with classifier-free guidance.

    prediction = negative + guidance · (conditioned - negative)

Both branches stand in one batch; what the pictures of the document give is projected once, before the loop, and serves both.

Source: arXiv 2401.10208; release `sd.py` (spec §4.2). Deviations: the noise comes from a CPU generator (docs/deviations.md).
Axes: I pictures painted at once · C latent channels · h w latent grid · K condition tokens · W condition width (docs/glossary.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from mm_interleaved.model.noise_schedule import NoiseSchedule

Predictor = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy latents, one timestep per row, condition tokens) → prediction, for any number of rows."""


@torch.no_grad()
def denoise(
    predict: Predictor,
    schedule: NoiseSchedule,
    *,
    condition: Float[Tensor, "I K W"],
    negative: Float[Tensor, "I K W"] | None,
    guidance: float,
    steps: int,
    shape: tuple[int, int, int],
    generators: list[torch.Generator],
) -> Iterator[Float[Tensor, "I C h w"]]:
    """Yields the latents after each of the `steps` denoising steps; the last are the pictures.

    Args:
        predict: the image decoder's prediction.
        schedule: how much noise stands at which step.
        condition: what the words say, per picture.
        negative: the learned condition of "nothing said"; None, or a guidance of 1, computes the conditioned branch alone.
        guidance: scale of classifier-free guidance.
        shape: (C, h, w).
        generators: one CPU generator per picture.
    """
    device = condition.device
    guided = negative is not None and guidance != 1
    conditions = torch.cat([negative, condition]) if guided and negative is not None else condition
    instants = schedule.inference_timesteps(steps).to(device)
    latents = _draw(generators, shape).to(device)
    for step in range(steps):
        rows = torch.cat([latents, latents]) if guided else latents
        prediction = predict(rows, instants[step].expand(rows.shape[0]), conditions).float()
        if guided:
            unconditioned, conditioned = prediction.chunk(2)
            prediction = unconditioned + guidance * (conditioned - unconditioned)
        noise = _draw(generators, shape).to(device) if schedule.config.kind == "ddpm" else None
        latents = schedule.step(prediction, instants[step], instants[step + 1], latents, noise)
        yield latents


def _draw(generators: list[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=generator, dtype=torch.float32) for generator in generators])
