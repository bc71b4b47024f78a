"""Samplers: from the network's prediction to the next, less noisy latents. diffusers' schedulers, one small class each.

A sampler is made for one chunk: it counts its own steps. All tensors are [1, C, T, h, w]; `draw` gives fresh noise of that
shape for the samplers that add some.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from torch import Generator, Tensor

from ..errors import InputError
from ..presets import NoiseConfig


class Sampler:
    """What all samplers share. `timesteps` [steps], from the noisiest to the cleanest; on the CPU."""

    takes_generator = True

    def __init__(self, noise: NoiseConfig, steps: int):
        self.scheduler = self.make_scheduler(asdict(noise))
        self.scheduler.set_timesteps(steps)
        self.timesteps: Tensor = self.scheduler.timesteps
        self.alphas_cumprod: Tensor = self.scheduler.alphas_cumprod
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


class DPMSolver(Sampler):
    """DPM-Solver++ (2M), Lu et al. 2022. The paper's."""

    def make_scheduler(self, noise: dict):
        from diffusers import DPMSolverMultistepScheduler

        # The last step takes the clean latents as predicted; at zero signal the noise level would be infinite otherwise.
        return DPMSolverMultistepScheduler(**noise, algorithm_type="dpmsolver++", final_sigmas_type="zero")


class DDIM(Sampler):
    """Deterministic DDIM, Song et al. 2021."""

    takes_generator = False

    def make_scheduler(self, noise: dict):
        from diffusers import DDIMScheduler

        return DDIMScheduler(**noise, clip_sample=False, set_alpha_to_one=True)


class LCM(Sampler):
    """Few-step sampling of latent consistency models, Luo et al. 2023: predict the clean latents, add new noise, repeat."""

    def make_scheduler(self, noise: dict):
        from diffusers import LCMScheduler

        # On the full grid of timesteps (not every 20th) its steps are those of "trailing" spacing: they begin at the last
        # timestep, pure noise at zero signal, and there may be as many as one likes.
        return LCMScheduler(**noise, clip_sample=False, original_inference_steps=noise["num_train_timesteps"])

    def step(
        self, index: int, prediction: Tensor, latents: Tensor, generator: Generator, draw: Callable[[], Tensor]
    ) -> Tensor:
        timestep, last = self.timesteps[index], index + 1 == len(self.timesteps)
        following, clean = self.scheduler.step(prediction, timestep, latents, generator=generator, return_dict=False)
        if last:
            return following
        # Our own noise instead of the scheduler's: the frames of a video may share part of it.
        return self.scheduler.add_noise(clean, draw().to(clean.device), self.timesteps[index + 1])


SAMPLERS: dict[str, type[Sampler]] = {"dpmpp": DPMSolver, "ddim": DDIM, "lcm": LCM}


def make_sampler(name: str, noise: NoiseConfig, steps: int) -> Sampler:
    """Return a fresh sampler by name: "dpmpp", "ddim" or "lcm". Raises InputError for any other."""
    if name not in SAMPLERS:
        raise InputError(f"one of the schedulers {', '.join(SAMPLERS)}", repr(name), "Choose one of them.")
    return SAMPLERS[name](noise, steps)
