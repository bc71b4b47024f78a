"""diffusers' own networks in any size, with random weights, to hold ours against."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel

from starcaster_core.presets import UNetConfig


def image_unet(config: UNetConfig) -> UNet2DConditionModel:
    kinds = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention_levels]
    return UNet2DConditionModel(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        attention_head_dim=config.num_attention_heads,  # diffusers' old name for the number of heads
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
    )


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()
