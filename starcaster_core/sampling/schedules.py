"""The samplers of diffusers, set up for a model's diffusion process, and random numbers that can be told apart."""

from __future__ import annotations

import hashlib
from dataclasses import asdict

import torch
from torch import Tensor

from ..errors import InputError
from ..presets import NoiseConfig

SCHEDULERS = ("dpmpp", "ddim", "lcm")


def make_scheduler(name: str, noise: NoiseConfig):
    """A fresh diffusers scheduler: "dpmpp" = DPM-Solver++ (2M), "ddim", or "lcm" for latent consistency models."""
    from diffusers import DDIMScheduler, DPMSolverMultistepScheduler, LCMScheduler

    shared = asdict(noise)
    del shared["shared_noise"]  # not the scheduler's business: see `initial_noise`
    if name == "dpmpp":
        # The last step takes the prediction of the clean latents as it is; at zero signal the noise level would be
        # infinite otherwise.
        return DPMSolverMultistepScheduler(**shared, algorithm_type="dpmsolver++", final_sigmas_type="zero")
    if name == "ddim":
        return DDIMScheduler(**shared, clip_sample=False, set_alpha_to_one=True)
    if name == "lcm":
        # On the full grid of timesteps (not every 20th) its steps are those of "trailing" spacing: they begin at the last
        # timestep, pure noise at zero signal, and there may be as many as one likes.
        return LCMScheduler(**shared, clip_sample=False, original_inference_steps=noise.num_train_timesteps)
    raise InputError(f"one of the schedulers {', '.join(SCHEDULERS)}", repr(name), "Choose one of them.")


def seeded_generator(seed: int, chunk: int, purpose: str) -> torch.Generator:
    """A CPU generator for one draw: the same for the same (seed, chunk, purpose), unrelated for any other."""
    digest = hashlib.sha256(f"{seed}/{chunk}/{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def initial_noise(shape: tuple[int, ...], share: float, seed: int, chunk: int) -> Tensor:
    """Where the sampling of a chunk starts, [1, C, T, h, w] of unit variance, with `share` of the variance common to all
    frames of the video: what the noise decides is then decided alike for neighbours (Ge et al. 2023, "mixed noise").
    """
    own, common = seeded_generator(seed, chunk, "initial noise"), seeded_generator(seed, 0, "shared noise")
    return draw_noise(shape, share, own, common)


def draw_noise(shape: tuple[int, ...], share: float, own: torch.Generator, common: torch.Generator) -> Tensor:
    """[B, C, T, h, w] of unit variance: `share` of it drawn from `common` once for all frames, the rest from `own`."""
    noise = torch.randn(shape, generator=own)
    if not share:
        return noise
    shared = torch.randn(noise[:, :, :1].shape, generator=common)
    return share**0.5 * shared + (1 - share) ** 0.5 * noise


def alpha_sigma(alphas_cumprod: Tensor, timestep: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """alpha, sigma of x_t = alpha x0 + sigma eps, where `like` is and in its precision; timestep: one for all, or [B];
    each [1 or B, 1, 1, 1, 1]"""
    alpha_squared = alphas_cumprod[timestep].to(like).reshape(-1, 1, 1, 1, 1)
    return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()


def predict_clean(
    prediction: Tensor, sample: Tensor, timestep: int | Tensor, alphas_cumprod: Tensor, kind: str
) -> Tensor:
    """The clean latents x0 implied by a network output, [B, C, T, h, w]; timestep: one for all, or [B].

    x_t = a x0 + s eps, with a^2 = alphas_cumprod[t], s^2 = 1 - a^2.
    sample: x0 itself.  epsilon: x0 = (x_t - s eps) / a.  v = a eps - s x0: x0 = a x_t - s v (Salimans & Ho 2022).
    """
    if kind == "sample":
        return prediction
    alpha, sigma = alpha_sigma(alphas_cumprod, timestep, sample)
    if kind == "v_prediction":
        return alpha * sample - sigma * prediction
    return (sample - sigma * prediction) / alpha.clamp(min=1e-3)
