"""The diffusion process in closed form, and random numbers that can be told apart."""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor

from ..errors import InputError
from ..presets import NoiseConfig


def alphas_cumprod(noise: NoiseConfig) -> Tensor:
    """Return the fraction of the variance that is signal at every timestep, float32 [num_train_timesteps].

    Equals that of diffusers' schedulers. Raises InputError for a beta_schedule other than "linear" and "scaled_linear".
    """
    power = {"linear": 1.0, "scaled_linear": 0.5}.get(noise.beta_schedule)
    if power is None:
        raise InputError("the beta_schedule linear or scaled_linear", repr(noise.beta_schedule), "Choose one of them.")
    ends = noise.beta_start**power, noise.beta_end**power
    betas = torch.linspace(*ends, noise.num_train_timesteps, dtype=torch.float32) ** (1 / power)
    cumulative = torch.cumprod(1 - betas, dim=0)
    if not noise.rescale_betas_zero_snr:
        return cumulative
    # No signal at the last timestep (Lin et al. 2024, algorithm 1): shift and scale sqrt(alphas_cumprod).
    roots = cumulative.sqrt()
    roots = (roots - roots[-1]) * (roots[0] / (roots[0] - roots[-1]))
    squares = roots**2
    # By way of the betas, so that the rounding is diffusers' too.
    betas = 1 - torch.cat([squares[:1], squares[1:] / squares[:-1]])
    return torch.cumprod(1 - betas, dim=0)


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
