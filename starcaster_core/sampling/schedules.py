"""The diffusion process in closed form, and random numbers that can be told apart."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..presets import NoiseConfig


def alphas_cumprod(noise: NoiseConfig) -> Tensor:
    """Return the fraction of the variance that is signal at every timestep, [num_train_timesteps]."""
    from .samplers import DDIM

    return DDIM(noise, steps=1).alphas_cumprod


def seeded_generator(seed: int, chunk: int, purpose: str) -> torch.Generator:
    """Return a CPU generator for one draw: the same for the same (seed, chunk, purpose), unrelated to any other."""
    digest = hashlib.sha256(f"{seed}/{chunk}/{purpose}".encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "little") & (2**63 - 1))


def alpha_sigma(alphas_cumprod: Tensor, timestep: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha, sigma of x_t = alpha x0 + sigma eps, each [1 or B, 1, 1, 1, 1], of the device and dtype of `like`.

    timestep: one for all, or [B].
    """
    alpha_squared = alphas_cumprod[timestep].to(like).reshape(-1, 1, 1, 1, 1)
    return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()


def predict_clean(
    prediction: Tensor, sample: Tensor, timestep: int | Tensor, alphas_cumprod: Tensor, kind: str
) -> Tensor:
    """Return the clean latents x0 implied by a prediction, [B, C, T, h, w]; timestep: one for all, or [B].

    x_t = a x0 + s eps, with a^2 = alphas_cumprod[t], s^2 = 1 - a^2.
    sample: x0 itself.  epsilon: x0 = (x_t - s eps) / a.  v = a eps - s x0: x0 = a x_t - s v (Salimans & Ho 2022).
    """
    if kind == "sample":
        return prediction
    alpha, sigma = alpha_sigma(alphas_cumprod, timestep, sample)
    if kind == "v_prediction":
        return alpha * sample - sigma * prediction
    return (sample - sigma * prediction) / alpha.clamp(min=1e-3)
