"""The small layers of the UNet: time embedding, frame positions, residual block, halving and doubling.

Parameters have the names, shapes and order of diffusers' layers of the same purpose, so that public weights load as
they are (tests/unit/models/test_layers.py). diffusers itself is not imported: that takes a second of every start.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .norm import GroupNorm

MAX_PERIOD = 10000.0  # of the slowest sinusoid, in timesteps or frames, over 2 pi


class Timesteps(nn.Module):
    """Sinusoids of the timestep, cosines first (Ho et al. 2020). channels: even."""

    def __init__(self, channels: int):
        super().__init__()
        self.channels = channels

    def forward(self, timesteps: Tensor) -> Tensor:
        """timesteps [B] -> float32 [B, channels]"""
        half = self.channels // 2
        exponents = -math.log(MAX_PERIOD) * torch.arange(half, dtype=torch.float32, device=timesteps.device) / half
        angles = timesteps[:, None].float() * exponents.exp()
        return torch.cat([angles.cos(), angles.sin()], dim=-1)


class TimestepEmbedding(nn.Module):
    """linear_2(silu(linear_1(x)))"""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.linear_1 = nn.Linear(channels_in, channels_out)
        self.linear_2 = nn.Linear(channels_out, channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, channels_in] -> [B, channels_out]"""
        return self.linear_2(F.silu(self.linear_1(x)))


class SinusoidalPositionalEmbedding(nn.Module):
    """Add sinusoids of the position along a sequence, sines on even channels (Vaswani et al. 2017).

    The table `pe` [1, max_length, channels] is part of the state dict, as it is in AnimateDiff's files. channels: even.
    """

    pe: Tensor

    def __init__(self, channels: int, max_length: int = 32):
        super().__init__()
        frequencies = torch.exp(torch.arange(0, channels, 2) * (-math.log(MAX_PERIOD) / channels))
        angles = torch.arange(max_length)[:, None] * frequencies
        self.register_buffer("pe", torch.stack([angles.sin(), angles.cos()], dim=-1).flatten(1)[None])

    def forward(self, x: Tensor) -> Tensor:
        """x [B, L, channels], L at most max_length -> the same shape"""
        return x + self.pe[:, : x.shape[1]]


class GEGLU(nn.Module):
    """value * gelu(gate), both halves of one projection (Shazeer 2020)."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.proj = nn.Linear(channels_in, 2 * channels_out)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., channels_in] -> [..., channels_out]"""
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions, each after GroupNorm and SiLU; the time embedding is added between them.

    The input is added to the outcome, by way of a 1x1 convolution where the number of channels changes.
    """

    def __init__(self, channels_in: int, channels_out: int, time_channels: int, groups: int, eps: float = 1e-5):
        super().__init__()
        self.norm1 = GroupNorm(groups, channels_in, eps)
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.time_emb_proj = nn.Linear(time_channels, channels_out)
        self.norm2 = GroupNorm(groups, channels_out, eps)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(channels_in, channels_out, 1) if channels_in != channels_out else None

    def forward(self, x: Tensor, time_embedding: Tensor) -> Tensor:
        """x [B, channels_in, h, w]; time_embedding [B, time_channels] -> [B, channels_out, h, w]"""
        hidden = self.conv1(F.silu(self.norm1(x)))
        hidden = hidden + self.time_emb_proj(F.silu(time_embedding))[:, :, None, None]
        hidden = self.conv2(F.silu(self.norm2(hidden)))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Downsample2D(nn.Module):
    """Halve height and width by a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> [B, C, ceil(h / 2), ceil(w / 2)]"""
        return self.conv(x)


class Upsample2D(nn.Module):
    """Double height and width: nearest neighbour, then a 3x3 convolution."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """x [B, C, h, w] -> [B, C, 2 h, 2 w]"""
        return self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
