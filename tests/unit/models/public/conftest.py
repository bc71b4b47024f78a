"""Small networks of the public classes, and files of them in every layout that is read."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import AutoencoderKL, MotionAdapter, UNet2DConditionModel
from diffusers_networks import image_unet, randomise
from safetensors.torch import save_file

from starcaster_core.presets import PRESETS

SMALL_UNET = replace(
    PRESETS["sd15"].unet,
    block_out_channels=(32, 64, 64, 96),
    num_attention_heads=(4, 4, 4, 4),
    motion_num_attention_heads=(2, 2, 2, 2),
    cross_attention_dim=24,
    norm_num_groups=32,
    lora_rank=4,
)
# Where only the way of a weight matters.
TINY_UNET = replace(
    SMALL_UNET,
    block_out_channels=(32, 32),
    attention_levels=(True, False),
    layers_per_block=1,
    num_attention_heads=(4, 4),
    motion_num_attention_heads=(2, 2),
)


def small_unet(config=SMALL_UNET) -> UNet2DConditionModel:
    return randomise(image_unet(config))


def small_adapter(config=SMALL_UNET, middle: bool = True, frames: int = 32) -> MotionAdapter:
    return randomise(
        MotionAdapter(
            block_out_channels=config.block_out_channels,
            motion_layers_per_block=config.layers_per_block,
            motion_num_attention_heads=2,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=frames,
            use_motion_mid_block=middle,
        )
    )


def small_vae() -> AutoencoderKL:
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    return randomise(AutoencoderKL(**kinds, block_out_channels=(32, 32, 32, 32), layers_per_block=1))


def small_clip():
    from transformers import CLIPTextConfig, CLIPTextModel

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    return randomise(CLIPTextModel(CLIPTextConfig(vocab_size=50, **sizes)))


def small_wav2vec2():
    from transformers import Wav2Vec2Config, Wav2Vec2Model

    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    quiet = {"mask_time_prob": 0.0, "mask_feature_prob": 0.0}
    convolutions = {"conv_dim": (32,) * 7, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    return randomise(Wav2Vec2Model(Wav2Vec2Config(**sizes, **quiet, **convolutions)))


def shapes_of(module: torch.nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


def original_unet_name(name: str) -> str:
    """diffusers' name -> the one in Stable Diffusion's own checkpoints, written from that code's module lists."""
    for ours, theirs in (
        ("time_embedding.linear_1.", "time_embed.0."),
        ("time_embedding.linear_2.", "time_embed.2."),
        ("conv_in.", "input_blocks.0.0."),
        ("conv_norm_out.", "out.0."),
        ("conv_out.", "out.2."),
    ):
        if name.startswith(ours):
            return theirs + name.removeprefix(ours)
    side, rest = name.split("_block", 1)
    if side == "mid":
        kind, index, rest = re.match(r"\.(resnets|attentions)\.(\d)\.(.*)", rest).groups()
        place = f"middle_block.{2 * int(index) if kind == 'resnets' else 1}"
    else:
        level, kind, index, rest = re.match(r"s\.(\d)\.(\w+?)\.(\d)\.(.*)", rest).groups()
        level, index = int(level), int(index)
        if kind == "downsamplers":
            return f"input_blocks.{3 * level + 3}.0.op.{rest.removeprefix('conv.')}"
        if kind == "upsamplers":
            return f"output_blocks.{3 * level + 2}.{1 if level == 0 else 2}.{rest}"
        block = f"input_blocks.{3 * level + index + 1}" if side == "down" else f"output_blocks.{3 * level + index}"
        place = f"{block}.{0 if kind == 'resnets' else 1}"
    if kind == "resnets":
        for ours, theirs in (
            ("norm1", "in_layers.0"),
            ("conv1", "in_layers.2"),
            ("norm2", "out_layers.0"),
            ("conv2", "out_layers.3"),
            ("time_emb_proj", "emb_layers.1"),
            ("conv_shortcut", "skip_connection"),
        ):
            rest = rest.replace(ours, theirs)
    return f"{place}.{rest}"


def original_vae_name(name: str) -> str:
    """The same for the autoencoder. Its decoder counts levels from the finest up."""
    name = re.sub(r"encoder\.down_blocks\.(\d)\.resnets\.(\d)", r"encoder.down.\1.block.\2", name)
    name = re.sub(r"encoder\.down_blocks\.(\d)\.downsamplers\.0", r"encoder.down.\1.downsample", name)
    name = re.sub(r"up_blocks\.(\d)\.resnets\.(\d)", lambda m: f"up.{3 - int(m[1])}.block.{m[2]}", name)
    name = re.sub(r"up_blocks\.(\d)\.upsamplers\.0", lambda m: f"up.{3 - int(m[1])}.upsample", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda m: f"mid.block_{int(m[1]) + 1}", name)
    for ours, theirs in (("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")):
        name = re.sub(rf"mid_block\.attentions\.0\.{re.escape(ours)}\.", f"mid.attn_1.{theirs}.", name)
    return name.replace("conv_norm_out", "norm_out").replace("conv_shortcut", "nin_shortcut")


def original_motion_names(weights: dict) -> dict:
    """diffusers' adapter -> AnimateDiff's own file, which keeps the frame positions with each attention."""
    renamed = {}
    for name, value in weights.items():
        module, rest = re.match(r"(.*motion_modules\.\d)\.(.*)", name).groups()
        if rest.endswith("pos_embed.pe"):
            for attention in (0, 1):
                inner = f"transformer_blocks.0.attention_blocks.{attention}.pos_encoder.pe"
                renamed[f"{module}.temporal_transformer.{inner}"] = value
            continue
        rest = re.sub(r"\.attn([12])\.", lambda m: f".attention_blocks.{int(m[1]) - 1}.", rest)
        rest = re.sub(r"\.norm([12])\.", lambda m: f".norms.{int(m[1]) - 1}.", rest).replace(".norm3.", ".ff_norm.")
        renamed[f"{module}.temporal_transformer.{rest}"] = value
    return renamed


def contiguous(weights: dict) -> dict:
    return {name: value.detach().clone().contiguous() for name, value in weights.items()}


def save(path, weights: dict):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(contiguous(weights), path)
    return path


@pytest.fixture(scope="session")
def tools():
    """Everything above, for the tests beside this file."""
    return SimpleNamespace(**{name: value for name, value in globals().items() if not name.startswith("_")})
