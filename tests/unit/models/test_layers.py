"""The UNet's small layers against diffusers': same parameter names, same numbers."""

from __future__ import annotations

import pytest
import torch
from diffusers.models import embeddings, resnet

from starcaster_core.models import layers


def residual_pair(channels_in: int, channels_out: int):
    theirs = resnet.ResnetBlock2D(
        in_channels=channels_in, out_channels=channels_out, temb_channels=12, groups=4, eps=1e-5
    )
    return theirs, layers.ResidualBlock(channels_in, channels_out, 12, groups=4), [(3, channels_in, 6, 5), (3, 12)]


def pairs() -> dict:
    """name -> diffusers' layer, ours, the shapes of the inputs"""
    return {
        "time embedding": (embeddings.TimestepEmbedding(8, 32), layers.TimestepEmbedding(8, 32), [(3, 8)]),
        "frame positions": (
            embeddings.SinusoidalPositionalEmbedding(6, max_seq_length=16),
            layers.SinusoidalPositionalEmbedding(6, 16),
            [(2, 9, 6)],
        ),
        "residual": residual_pair(8, 8),
        "residual to other channels": residual_pair(8, 16),
        "half": (
            resnet.Downsample2D(8, use_conv=True, padding=1, name="op"),
            layers.Downsample2D(8),
            [(2, 8, 7, 6)],
        ),
        "double": (resnet.Upsample2D(8, use_conv=True), layers.Upsample2D(8), [(2, 8, 5, 6)]),
    }


@pytest.mark.parametrize("name", pairs())
@torch.no_grad()
def test_a_layer_equals_that_of_diffusers(name):
    torch.manual_seed(0)
    theirs, ours, shapes = pairs()[name]
    weights = {key: torch.randn_like(value) for key, value in theirs.state_dict().items() if key != "pe"}
    assert list(ours.state_dict()) == list(theirs.state_dict()), "in this order random numbers are drawn"
    for layer in (theirs, ours):
        layer.load_state_dict(weights, strict="pe" not in layer.state_dict())
    inputs = [torch.randn(shape) for shape in shapes]
    torch.testing.assert_close(ours(*inputs), theirs(*inputs), rtol=1e-6, atol=1e-6)


def test_timesteps_are_those_of_diffusers():
    theirs = embeddings.Timesteps(32, flip_sin_to_cos=True, downscale_freq_shift=0)
    timesteps = torch.tensor([0, 1, 250, 999])
    assert torch.equal(layers.Timesteps(32)(timesteps), theirs(timesteps))
