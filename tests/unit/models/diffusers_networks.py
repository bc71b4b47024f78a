"""diffusers' own networks in any size, with random weights, to hold ours against."""

from __future__ import annotations

import torch
from diffusers import UNet2DConditionModel, UNetMotionModel

from starcaster_core.presets import UNetConfig


def image_unet(config: UNetConfig) -> UNet2DConditionModel:
    # attention_head_dim is diffusers' old name for the number of heads.
    return UNet2DConditionModel(**common(config, "2D"), attention_head_dim=config.num_attention_heads)


def motion_unet(config: UNetConfig) -> UNetMotionModel:
    return UNetMotionModel(
        **common(config, "Motion"),
        num_attention_heads=config.num_attention_heads,
        motion_num_attention_heads=config.motion_num_attention_heads,
        motion_max_seq_length=config.motion_max_seq_length,
    )


def common(config: UNetConfig, kind: str) -> dict:
    """What both are told alike; kind: how the names of their blocks end"""
    blocks = [f"CrossAttnDownBlock{kind}" if attends else f"DownBlock{kind}" for attends in config.attention_levels]
    return {
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "down_block_types": blocks,
        "up_block_types": [block.replace("Down", "Up") for block in reversed(blocks)],
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.norm_num_groups,
    }


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()
