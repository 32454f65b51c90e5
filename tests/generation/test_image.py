"""The denoising loop by itself."""

import pytest
import torch

from mm_interleaved.generation.image import denoise
from mm_interleaved.generation.random import generator_for
from mm_interleaved.model.configuration import NoiseConfig
from mm_interleaved.model.noise_schedule import NoiseSchedule

SHAPE = (1, 2, 2)


def run(predict, kind="flow", guidance=1.0, steps=4, negative=True, seed=0):
    condition = torch.ones(1, 1, 1)
    *_, last = denoise(
        predict,
        NoiseSchedule(NoiseConfig(kind=kind)),
        condition=condition,
        negative=-condition if negative else None,
        guidance=guidance,
        steps=steps,
        shape=SHAPE,
        generators=[generator_for(seed, "image", 0)],
    )
    return last


def test_a_perfect_velocity_leads_to_the_picture():
    target = torch.full((1, *SHAPE), 0.25)
    found = run(lambda latents, timestep, condition: (latents - target) / timestep[:, None, None, None])
    torch.testing.assert_close(found, target, rtol=0, atol=1e-6)  # float32 rounding of four steps


def test_guidance_weighs_both_branches_of_one_batch():
    rows = []

    def predict(latents, timestep, condition):
        rows.append(latents.shape[0])
        return condition[:, :, :, None].expand(-1, *SHAPE)

    noise = torch.randn(SHAPE, generator=generator_for(0, "image", 0))
    # negative -1, conditioned 1: -1 + 3 * (1 - -1) = 5, over a path of length 1
    torch.testing.assert_close(run(predict, guidance=3.0)[0], noise - 5)
    assert rows == [2, 2, 2, 2]


@pytest.mark.parametrize("negative", [True, False])
def test_without_guidance_only_the_conditioned_branch_is_computed(negative):
    rows = []

    def predict(latents, timestep, condition):
        rows.append(latents.shape[0])
        return torch.zeros_like(latents)

    run(predict, guidance=1.0 if negative else 3.0, negative=negative)
    assert rows == [1, 1, 1, 1]


def test_ddpm_draws_fresh_noise_in_every_step_from_the_seed():
    def predict(latents, timestep, condition):
        return torch.zeros_like(latents)

    assert torch.equal(run(predict, "ddpm", seed=1), run(predict, "ddpm", seed=1))
    assert not torch.equal(run(predict, "ddpm", seed=1), run(predict, "ddpm", seed=2))
