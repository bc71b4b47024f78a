"""diffusers' own networks in any size, with random weights, to hold ours against."""

from __future__ import annotations

import torch

from starcaster_core.benchmark.plain import image_unet, motion_unet

__all__ = ["image_unet", "motion_unet", "randomise"]


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()
