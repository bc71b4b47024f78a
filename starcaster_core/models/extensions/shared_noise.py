"""Noise that is partly the same for all frames of a video ("mixed noise", Ge et al. 2023; docs/decisions/0004).

What the noise decides is then decided alike for neighbours.
"""

from __future__ import annotations

import torch
from torch import Tensor


def draw_noise(shape: tuple[int, ...], fraction: float, own: torch.Generator, shared: torch.Generator) -> Tensor:
    """Draw noise [B, C, T, h, w] of unit variance.

    fraction: of the variance that is drawn from `shared` once for all frames, 0..1; the rest is drawn from `own`.
    """
    noise = torch.randn(shape, generator=own)
    if not fraction:
        return noise
    common = torch.randn(noise[:, :, :1].shape, generator=shared)
    return fraction**0.5 * common + (1 - fraction) ** 0.5 * noise
