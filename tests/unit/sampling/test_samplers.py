"""Our samplers and noise schedules against diffusers'."""

from __future__ import annotations

from dataclasses import asdict, replace

import diffusers
import pytest
import torch

from starcaster_core.errors import InputError
from starcaster_core.presets import PRESETS, NoiseConfig
from starcaster_core.sampling.samplers import make_sampler
from starcaster_core.sampling.schedules import alphas_cumprod

SHAPE = (1, 4, 3, 5, 5)


def lcm_scheduler(noise: NoiseConfig):
    return diffusers.LCMScheduler(
        **asdict(noise), clip_sample=False, original_inference_steps=noise.num_train_timesteps
    )


@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear"])
@pytest.mark.parametrize("zero_snr", [False, True])
def test_noise_schedules_are_those_of_diffusers(beta_schedule, zero_snr):
    noise = NoiseConfig(beta_schedule=beta_schedule, rescale_betas_zero_snr=zero_snr)
    assert torch.equal(alphas_cumprod(noise), lcm_scheduler(noise).alphas_cumprod)
    assert not zero_snr or alphas_cumprod(noise)[-1] == 0


def test_an_unknown_noise_schedule_is_refused():
    with pytest.raises(InputError, match="cubic"):
        alphas_cumprod(NoiseConfig(beta_schedule="cubic"))


def test_the_timesteps_of_lcm_are_those_of_diffusers():
    theirs = lcm_scheduler(NoiseConfig())
    for steps in range(1, 1001):
        theirs.set_timesteps(steps)
        assert torch.equal(make_sampler("lcm", NoiseConfig(), steps).timesteps, theirs.timesteps), steps


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "epsilon"])
@pytest.mark.parametrize("steps", [1, 4])
def test_the_steps_of_lcm_are_those_of_diffusers(kind, steps):
    """But for the noise, which we draw ourselves: both generators must have given the same amount of it."""
    noise = replace(PRESETS["mini"].noise, prediction_type=kind, rescale_betas_zero_snr=kind != "epsilon")
    ours, theirs = make_sampler("lcm", noise, steps), lcm_scheduler(noise)
    theirs.set_timesteps(steps)
    own, their_own, draws = (torch.Generator().manual_seed(seed) for seed in (1, 1, 2))
    latents = torch.randn(SHAPE, generator=draws)
    for index, timestep in enumerate(theirs.timesteps):
        prediction, new = torch.randn(SHAPE, generator=draws), torch.randn(SHAPE, generator=draws)
        _, wanted = theirs.step(prediction, timestep, latents, generator=their_own, return_dict=False)
        if index + 1 < steps:
            wanted = theirs.add_noise(wanted, new, theirs.timesteps[index + 1])
        latents_then = ours.step(index, prediction, latents, own, lambda new=new: new)
        torch.testing.assert_close(latents_then, wanted, rtol=1e-6, atol=1e-6)
        assert torch.equal(own.get_state(), their_own.get_state()), "a seed keeps its video"
        latents = wanted


def test_latents_to_begin_with_in_the_middle_are_those_of_diffusers():
    noise = PRESETS["mini"].noise
    clean, new = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0))
    theirs = lcm_scheduler(noise)
    theirs.set_timesteps(4)
    wanted = theirs.add_noise(clean, new, theirs.timesteps[2:3])
    torch.testing.assert_close(make_sampler("lcm", noise, 4).add_noise(clean, new, 2), wanted, rtol=1e-6, atol=1e-6)
