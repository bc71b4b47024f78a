"""Samplers: from the network's prediction to the next, less noisy latents, one small class each.

A sampler is made for one chunk: it counts its own steps. All tensors are [1, C, T, h, w]; `draw` gives fresh noise of
that shape for the samplers that add some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

import torch
from torch import Generator, Tensor

from ..errors import InputError
from ..presets import SCHEDULERS, NoiseConfig
from .schedules import alphas_cumprod, predict_clean


class Sampler:
    """What all samplers share. `timesteps` [steps], from the noisiest to the cleanest, and `alphas_cumprod`; on the
    CPU."""

    timesteps: Tensor
    alphas_cumprod: Tensor
    init_noise_sigma: float = 1.0  # standard deviation of the latents to begin with

    def scale_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return the latents as the network takes them."""
        return latents

    def add_noise(self, clean: Tensor, noise: Tensor, index: int) -> Tensor:
        """Return clean latents noised as step `index` expects them."""
        raise NotImplementedError

    def step(
        self, index: int, prediction: Tensor, latents: Tensor, generator: Generator, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Return the latents of step index + 1; generator: for what a scheduler draws by itself."""
        raise NotImplementedError


class LCM(Sampler):
    """Few-step sampling of latent consistency models, Luo et al. 2023: predict the clean latents, add new noise,
    repeat.

    Timesteps are evenly spaced and begin at the last one, pure noise at zero signal; there may be as many as one likes.
    Equals diffusers' `LCMScheduler` on the full grid of timesteps, whose import takes half a second.
    """

    SIGMA_DATA = 0.5
    TIMESTEP_SCALING = 10.0

    def __init__(self, noise: NoiseConfig, steps: int):
        self.kind = noise.prediction_type
        self.alphas_cumprod = alphas_cumprod(noise)
        count = noise.num_train_timesteps
        # In floating point, as diffusers has it: now and then one less is taken off than in whole numbers.
        self.timesteps = torch.tensor([count - 1 - int(index * (count / steps)) for index in range(steps)])

    def add_noise(self, clean: Tensor, noise: Tensor, index: int) -> Tensor:
        """Return clean latents noised as step `index` expects them."""
        alpha_squared = self.alphas_cumprod[self.timesteps[index]].to(clean.dtype)
        return alpha_squared.sqrt() * clean + (1 - alpha_squared).sqrt() * noise.to(clean.device)

    def step(
        self, index: int, prediction: Tensor, latents: Tensor, generator: Generator, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Return the latents of step index + 1: the clean ones as predicted, noised anew unless it is the last."""
        timestep = self.timesteps[index]
        predicted = predict_clean(prediction, latents, timestep, self.alphas_cumprod, self.kind)
        # The boundary condition of a consistency model: at timestep 0 the input itself.
        scaled, sigma = timestep * self.TIMESTEP_SCALING, self.SIGMA_DATA
        skip, out = sigma**2 / (scaled**2 + sigma**2), scaled / (scaled**2 + sigma**2) ** 0.5
        clean = out * predicted + skip * latents
        if index + 1 == len(self.timesteps):
            return clean
        # diffusers' scheduler draws here what is not used. Without it the same seed would make another video.
        torch.randn(prediction.shape, generator=generator)
        return self.add_noise(clean, draw(), index + 1)


class DiffusersSampler(Sampler):
    """A scheduler of diffusers."""

    takes_generator = True

    def __init__(self, noise: NoiseConfig, steps: int):
        self.scheduler = self.make_scheduler(asdict(noise))
        self.scheduler.set_timesteps(steps)
        self.timesteps = self.scheduler.timesteps
        self.alphas_cumprod = self.scheduler.alphas_cumprod
        self.init_noise_sigma = self.scheduler.init_noise_sigma

    def make_scheduler(self, noise: dict):
        """Return the diffusers scheduler."""
        raise NotImplementedError

    def scale_input(self, latents: Tensor, timestep: Tensor) -> Tensor:
        """Return the latents as the network takes them."""
        return self.scheduler.scale_model_input(latents, timestep)

    def add_noise(self, clean: Tensor, noise: Tensor, index: int) -> Tensor:
        """Return clean latents noised as step `index` expects them."""
        return self.scheduler.add_noise(clean, noise.to(clean.device), self.timesteps[index : index + 1])

    def step(
        self, index: int, prediction: Tensor, latents: Tensor, generator: Generator, draw: Callable[[], Tensor]
    ) -> Tensor:
        """Return the latents of step index + 1; generator: for what a scheduler draws by itself."""
        extra = {"generator": generator} if self.takes_generator else {}
        return self.scheduler.step(prediction, self.timesteps[index], latents, **extra, return_dict=False)[0]


class DPMSolver(DiffusersSampler):
    """DPM-Solver++ (2M), Lu et al. 2022. The paper's."""

    def make_scheduler(self, noise: dict):
        from diffusers import DPMSolverMultistepScheduler

        # The last step takes the clean latents as predicted; at zero signal the noise level would be infinite
        # otherwise.
        return DPMSolverMultistepScheduler(**noise, algorithm_type="dpmsolver++", final_sigmas_type="zero")


class DDIM(DiffusersSampler):
    """Deterministic DDIM, Song et al. 2021."""

    takes_generator = False

    def make_scheduler(self, noise: dict):
        from diffusers import DDIMScheduler

        return DDIMScheduler(**noise, clip_sample=False, set_alpha_to_one=True)


SAMPLERS: dict[str, Callable[[NoiseConfig, int], Sampler]] = dict(zip(SCHEDULERS, (DPMSolver, DDIM, LCM)))


def make_sampler(name: str, noise: NoiseConfig, steps: int) -> Sampler:
    """Return a fresh sampler by name: "dpmpp", "ddim" or "lcm". Raises InputError for any other."""
    if name not in SAMPLERS:
        raise InputError(f"one of the schedulers {', '.join(SAMPLERS)}", repr(name), "Choose one of them.")
    return SAMPLERS[name](noise, steps)
