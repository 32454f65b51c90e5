"""The denoising steps by themselves."""

import pytest
import torch

from mm_interleaved.errors import ConfigError
from mm_interleaved.generation.image import Painting, denoise_step
from mm_interleaved.generation.options import SAMPLERS
from mm_interleaved.generation.random import generator_for
from mm_interleaved.generation.samplers import sampler_for
from mm_interleaved.model.configuration import NoiseConfig
from mm_interleaved.model.noise_schedule import NoiseSchedule

SHAPE = (1, 2, 2)
DEVICE = torch.device("cpu")


def painting(kind="flow", guidance=1.0, steps=4, negative=True, seed=0, sampler="plain", dtype=torch.float32):
    schedule = NoiseSchedule(NoiseConfig(kind=kind))
    condition = torch.ones(1, 1, 1, dtype=dtype)
    return Painting(
        schedule,
        sampler_for(sampler, schedule, steps, DEVICE),
        condition=condition,
        negative=-condition if negative else None,
        guidance=guidance,
        steps=steps,
        shape=SHAPE,
        generator=generator_for(seed, "image", 0),
    )


def run(predict, **settings):
    one = painting(**settings)
    while one.step < one.steps:
        denoise_step(lambda latents, timestep, condition, rows: predict(latents, timestep, condition), [one])
    return one.latents


def perfect(target, kind):
    """What a network that knows the picture predicts."""
    schedule = NoiseSchedule(NoiseConfig(kind=kind))

    def predict(latents, timestep, condition):
        if kind == "flow":
            return (latents - target) / timestep.to(latents.dtype)[:, None, None, None]
        signal = schedule._signal[timestep].to(latents.dtype)[:, None, None, None]
        return (latents - signal.sqrt() * target) / (1 - signal).sqrt()

    return predict


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_perfect_prediction_leads_to_the_picture(sampler, kind):
    target = torch.full((1, *SHAPE), 0.25, dtype=torch.float64)
    found = run(perfect(target, kind), kind=kind, sampler=sampler, steps=6, dtype=torch.float64)
    # The last published step adds noise of the smallest variance; UniPC and DPM-Solver++ compute in float32.
    torch.testing.assert_close(found, target, rtol=0, atol=2e-2 if (sampler, kind) == ("plain", "ddpm") else 1e-3)


@pytest.mark.parametrize("sampler", ["dpm++", "unipc"])
def test_the_solvers_of_second_order_come_nearer_in_as_many_steps(sampler):
    # A velocity field that bends: its exact end is known by many small steps.
    def predict(latents, timestep, condition):
        return latents * (3 * timestep.to(latents.dtype)[:, None, None, None]).cos()

    exact = run(predict, steps=500)
    straight, solved = (float((run(predict, steps=8, sampler=name) - exact).abs().max()) for name in ("plain", sampler))
    assert solved < straight / 2


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

    assert torch.equal(run(predict, kind="ddpm", seed=1), run(predict, kind="ddpm", seed=1))
    assert not torch.equal(run(predict, kind="ddpm", seed=1), run(predict, kind="ddpm", seed=2))


def test_pictures_at_different_steps_with_and_without_guidance_share_a_batch():
    def predict(latents, timestep, condition):
        return latents * condition[:, :, :, None] * timestep[:, None, None, None]

    def settings():
        return [{"guidance": 3.0, "seed": 1}, {"guidance": 1.0, "seed": 2, "steps": 6}, {"guidance": 2.0, "seed": 3, "sampler": "unipc"}]

    seen = []

    def together(latents, timestep, condition, rows):
        seen.append(rows)
        return predict(latents, timestep, condition)

    paintings = [painting(**one) for one in settings()]
    denoise_step(together, paintings[:1])  # the first is a step ahead
    while unfinished := [one for one in paintings if one.step < one.steps]:
        denoise_step(together, unfinished)
    for one, alone in zip(paintings, settings(), strict=True):
        torch.testing.assert_close(one.latents, run(predict, **alone), rtol=0, atol=1e-6)  # rows are independent here
    assert seen[1] == [[0, 2], [3], [1, 4]]


@pytest.mark.parametrize("kind", ["flow", "ddpm"])
def test_a_preview_is_the_clean_picture_that_the_prediction_stands_for(kind):
    target = torch.full((1, *SHAPE), 0.25)
    one = painting(kind=kind)
    denoise_step(lambda latents, timestep, condition, rows: perfect(target, kind)(latents, timestep, condition), [one])
    torch.testing.assert_close(one.foreseen(), target, rtol=0, atol=1e-4)
    assert (one.latents - target).abs().max() > 0.1


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_more_steps_than_the_schedule_has_are_refused(sampler):
    with pytest.raises(ConfigError, match="1001 sampling steps"):
        painting(kind="ddpm", steps=1001, sampler=sampler)
