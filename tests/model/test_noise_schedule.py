"""The noise schedule equals diffusers' DDPM step for step, and straight paths lead from noise to picture."""

import itertools

import pytest
import torch
from diffusers import DDPMScheduler

from mm_interleaved.errors import ConfigError
from mm_interleaved.model.configuration import NoiseConfig
from mm_interleaved.model.noise_schedule import NoiseSchedule

DDPM = NoiseSchedule(NoiseConfig(kind="ddpm"))
FLOW = NoiseSchedule(NoiseConfig(kind="flow"))


@pytest.fixture
def upstream():
    config = DDPM.config
    return DDPMScheduler(
        num_train_timesteps=config.train_steps,
        beta_start=config.beta_start,
        beta_end=config.beta_end,
        beta_schedule="scaled_linear",
        clip_sample=False,
        steps_offset=config.steps_offset,
        timestep_spacing="leading",
        variance_type="fixed_small",
    )


@pytest.mark.parametrize("steps", [1, 7, 30, 250, 600])
def test_ddpm_timesteps_equal_diffusers(upstream, steps):
    upstream.set_timesteps(steps)
    assert DDPM.inference_timesteps(steps)[:-1].tolist() == upstream.timesteps.tolist()


def test_ddpm_timesteps_are_those_of_the_paper():
    assert DDPM.inference_timesteps(30)[[0, -2]].tolist() == [958, 1]
    assert DDPM.inference_timesteps(250)[:2].tolist() == [997, 993]


@pytest.mark.parametrize("steps", [4, 30])
def test_every_ddpm_step_equals_diffusers(upstream, steps, monkeypatch):
    upstream.set_timesteps(steps)
    instants = DDPM.inference_timesteps(steps)
    torch.manual_seed(0)
    sample = torch.randn(2, 3, 4, 4)
    for now, after in itertools.pairwise(instants):
        prediction, noise = torch.randn_like(sample), torch.randn_like(sample)
        monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, noise=noise, **__: noise)
        expected = upstream.step(prediction, now, sample).prev_sample
        found = DDPM.step(prediction, now, after, sample, noise)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        sample = expected


def test_adding_noise_equals_diffusers(upstream):
    latents, noise = torch.randn(3, 2, 4, 4), torch.randn(3, 2, 4, 4)
    timestep = torch.tensor([0, 500, 999])
    torch.testing.assert_close(DDPM.add_noise(latents, noise, timestep), upstream.add_noise(latents, noise, timestep))


def test_the_last_ddpm_step_returns_the_clean_latents_of_a_perfect_prediction():
    latents, noise = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    now, after = DDPM.inference_timesteps(10)[-2:]
    noisy = DDPM.add_noise(latents, noise, now.expand(2))
    torch.testing.assert_close(DDPM.step(noise, now, after, noisy, torch.randn_like(noise)), latents, rtol=1e-4, atol=1e-4)


def test_timestep_zero_adds_no_noise():
    sample, prediction = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    zero, before = torch.tensor(0), torch.tensor(-1)
    assert torch.equal(DDPM.step(prediction, zero, before, sample, torch.randn_like(sample)), DDPM.step(prediction, zero, before, sample))


def test_drawn_ddpm_timesteps_cover_every_step_evenly():
    uniform = (torch.arange(1000) + 0.5) / 1000
    assert DDPM.draw_timestep(uniform).tolist() == list(range(1000))
    assert DDPM.draw_timestep(torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 999]


def test_drawn_flow_timesteps_are_a_logistic_of_a_normal_and_stay_inside_the_path():
    assert FLOW.draw_timestep(torch.tensor([0.5])).item() == pytest.approx(0.5)
    one_sigma = torch.tensor([0.8413447])
    assert FLOW.draw_timestep(one_sigma).item() == pytest.approx(torch.tensor(1.0).sigmoid().item(), abs=1e-4)
    ends = FLOW.draw_timestep(torch.tensor([0.0, 1.0]))
    assert 0 < ends[0] < ends[1] < 1


def test_flow_runs_from_noise_to_latents():
    latents, noise = torch.randn(2, 3, 4, 4, dtype=torch.float64), torch.randn(2, 3, 4, 4, dtype=torch.float64)
    for end, expected in ((0.0, latents), (1.0, noise)):
        torch.testing.assert_close(FLOW.add_noise(latents, noise, torch.full((2,), end, dtype=torch.float64)), expected)
    velocity = FLOW.target(latents, noise, torch.full((2,), 0.5))
    instants = FLOW.inference_timesteps(7)
    assert instants[0] == 1 and instants[-1] == 0 and len(instants) == 8
    sample = noise
    for now, after in itertools.pairwise(instants):
        sample = FLOW.step(velocity, now, after, sample)
    torch.testing.assert_close(sample, latents, rtol=1e-6, atol=1e-6)


def test_flow_times_reach_the_network_on_the_scale_of_training_steps():
    assert FLOW.embedded_timestep(torch.tensor([0.25])).item() == 250
    assert DDPM.embedded_timestep(torch.tensor([250])).item() == 250


def test_schedule_built_on_the_meta_device_is_real():
    with torch.device("meta"):
        schedule = NoiseSchedule(NoiseConfig())
    latents = torch.randn(1, 1, 2, 2)
    assert schedule.add_noise(latents, latents, torch.tensor([3])).isfinite().all()


@pytest.mark.parametrize(("schedule", "steps"), [(DDPM, 0), (DDPM, 1001), (FLOW, 0)])
def test_impossible_numbers_of_steps_are_refused(schedule, steps):
    with pytest.raises(ConfigError, match="sampling steps"):
        schedule.inference_timesteps(steps)
