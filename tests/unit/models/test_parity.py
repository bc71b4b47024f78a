"""The UNet against diffusers' own networks: same weights in, same numbers out, same names at full width."""

from __future__ import annotations

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel, UNetMotionModel

from starcaster_core.models.unet import StarcasterUNet, cache_condition
from starcaster_core.presets import PRESETS, UNetConfig

OURS_ALONE = (".lora.", ".audio.", ".camera.", "reference_in", "copy_gate")
REDUCED = UNetConfig(
    in_channels=4,
    block_out_channels=(32, 64, 64, 96),
    attention_levels=(True, True, True, False),
    num_attention_heads=(4, 4, 4, 4),
    motion_num_attention_heads=(2, 2, 2, 2),
    cross_attention_dim=24,
    norm_num_groups=8,
    lora_rank=4,
)


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


def motion_unet(config: UNetConfig) -> UNetMotionModel:
    kinds = ["CrossAttnDownBlockMotion" if attends else "DownBlockMotion" for attends in config.attention_levels]
    return UNetMotionModel(
        in_channels=config.in_channels,
        out_channels=config.in_channels,
        down_block_types=kinds,
        up_block_types=[kind.replace("Down", "Up") for kind in reversed(kinds)],
        block_out_channels=config.block_out_channels,
        layers_per_block=config.layers_per_block,
        num_attention_heads=config.num_attention_heads,
        motion_num_attention_heads=config.motion_num_attention_heads,
        motion_max_seq_length=config.motion_max_seq_length,
        cross_attention_dim=config.cross_attention_dim,
        norm_num_groups=config.norm_num_groups,
    )


def randomise(module: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return module.eval()


def ours_with(weights: dict, config: UNetConfig) -> StarcasterUNet:
    unet = StarcasterUNet(config).eval()
    missing, unexpected = unet.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(any(part in key for part in OURS_ALONE) for key in missing)
    return unet


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 6, 16, 16, generator=generator)
    tokens = torch.randn(2, 5, REDUCED.cross_attention_dim, generator=generator)
    return latents, torch.tensor([13, 801]), tokens


@torch.no_grad()
def test_equals_the_image_unet_of_diffusers_frame_by_frame(inputs):
    latents, timesteps, tokens = inputs
    reference = randomise(image_unet(REDUCED))
    weights = reference.state_dict()
    config = UNetConfig(**{**REDUCED.__dict__, "motion": False})
    unet = ours_with(weights, config)
    ours = unet(latents, timesteps, cache_condition(unet.cache_identity(tokens)))
    for frame in range(latents.shape[2]):
        theirs = reference(latents[:, :, frame], timesteps, encoder_hidden_states=tokens).sample
        assert relative_error(ours[:, :, frame], theirs) < 1e-4


@torch.no_grad()
def test_equals_the_motion_unet_of_diffusers(inputs):
    latents, timesteps, tokens = inputs
    reference = randomise(motion_unet(REDUCED))
    unet = ours_with(reference.state_dict(), REDUCED)
    ours = unet(latents, timesteps, cache_condition(unet.cache_identity(tokens)))
    repeated = tokens.repeat_interleave(latents.shape[2], dim=0)
    theirs = reference(latents, timesteps, encoder_hidden_states=repeated).sample
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("preset", ["sd15", "mini", "tiny"])
def test_names_and_shapes_are_those_of_diffusers(preset):
    config = PRESETS[preset].unet
    with torch.device("meta"):
        ours, image, motion = StarcasterUNet(config), image_unet(config), motion_unet(config)
        adapter = MotionAdapter(
            block_out_channels=config.block_out_channels,
            motion_layers_per_block=config.layers_per_block,
            motion_num_attention_heads=config.motion_num_attention_heads,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=config.motion_max_seq_length,
        )

    def shapes(module):
        state = module.state_dict().items()
        return {key: tuple(value.shape) for key, value in state if not any(part in key for part in OURS_ALONE)}

    assert shapes(ours) == shapes(motion)
    assert {key: shape for key, shape in shapes(ours).items() if "motion_modules" not in key} == shapes(image)
    assert {key: shape for key, shape in shapes(ours).items() if "motion_modules" in key} == shapes(adapter)
