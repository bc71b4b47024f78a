"""The discriminator of the few-step student: tells latents of clips from generated ones, given their conditions.

Used in training only (`training/adversarial.py`); no checkpoint holds it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn

LEAK = 0.2  # slope of LeakyReLU below zero


class DiscriminatorConditions(NamedTuple):
    """What latents of T frames were generated from.

    portrait: latents [B, C, h, w], zeros where it was dropped. embedding: [B, E]. speech: [B, T, S], a window of
    features for each frame, or None. camera: [B, T, 25] or None. head_motion: [B, T, K].
    """

    portrait: Tensor
    embedding: Tensor
    speech: Tensor | None
    camera: Tensor | None
    head_motion: Tensor

    def repeated(self, times: int) -> DiscriminatorConditions:
        """Return the batch `times` times in a row, [times B, ...]."""
        return DiscriminatorConditions(*(x if x is None else x.repeat(times, *[1] * (x.ndim - 1)) for x in self))


class Discriminator(nn.Module):
    """Latents [B, C, T, h, w] and their conditions -> logits of being real, float32 [B, P].

    h and w are multiples of 4. For T > 1 they equal `side`.
    """

    def __init__(
        self,
        channels: int,
        speech_dim: int,
        identity_dim: int,
        side: int = 16,
        width: int = 48,
        head_motion_dim: int = 7,
    ):
        super().__init__()
        wide = 2 * width
        self.conv_in = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.down = nn.Sequential(ResidualBlock(width, width), ResidualBlock(width, wide, stride=2))
        # The order of these four decides which random weights each begins with.
        self.identity_in, self.speech_in = nn.Linear(identity_dim, 2 * wide), nn.Linear(speech_dim, 2 * wide)
        self.camera_in, self.head_motion_in = nn.Linear(25, 2 * wide), nn.Linear(head_motion_dim, 2 * wide)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(2 * wide, 2 * wide))
        self.fine = ResidualBlock(wide, wide)
        self.coarse = nn.Sequential(ResidualBlock(wide, wide, stride=2), ResidualBlock(wide, wide))
        self.fine_logits, self.coarse_logits = nn.Conv2d(wide, 1, 1), nn.Conv2d(wide, 1, 1)
        self.frame_features = nn.Linear(wide * (side // 4) ** 2, wide)
        self.temporal_logits = nn.Sequential(
            nn.Conv1d(wide, wide, 3, padding=1), nn.LeakyReLU(LEAK), nn.Conv1d(wide, 1, 3, padding=1)
        )

    def forward(self, latents: Tensor, conditions: DiscriminatorConditions) -> Tensor:
        """Return T (h w / 4 + h w / 16) logits of positions, and, for T > 1, T logits of motion."""
        batch, _, frames = latents.shape[:3]
        images = rearrange(latents, "b c t h w -> (b t) c h w")
        portraits = repeat(conditions.portrait, "b c h w -> (b t) c h w", t=frames)
        x = torch.cat([images, portraits], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.down(self.conv_in(x))
        scale, shift = rearrange(self.embed(conditions), "b t (two c) -> two (b t) c 1 1", two=2)
        fine = F.leaky_relu(self.fine(x * (1 + scale) + shift), LEAK)
        coarse = F.leaky_relu(self.coarse(fine), LEAK)
        logits = [rearrange(self.fine_logits(fine), "(b t) 1 h w -> b (t h w)", b=batch)]
        logits.append(rearrange(self.coarse_logits(coarse), "(b t) 1 h w -> b (t h w)", b=batch))
        if frames > 1:
            features = rearrange(self.frame_features(coarse.flatten(1)), "(b t) c -> b c t", b=batch)
            logits.append(self.temporal_logits(features)[:, 0])
        return torch.cat(logits, dim=1).float()

    def embed(self, conditions: DiscriminatorConditions) -> Tensor:
        """Return scale and shift of the features, [B, T, 2 * channels]."""
        identity = self.identity_in(F.normalize(conditions.embedding, dim=-1))
        embedded = identity[:, None] + self.head_motion_in(conditions.head_motion)
        if conditions.speech is not None:
            embedded = embedded + self.speech_in(F.layer_norm(conditions.speech, conditions.speech.shape[-1:]))
        if conditions.camera is not None:
            embedded = embedded + self.camera_in(conditions.camera)
        return self.modulation(embedded)


class ResidualBlock(nn.Module):
    """Two convolutions and a skip, [B, C, h, w] -> [B, C', h / stride, w / stride]."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.conv2 = nn.Conv2d(channels_out, channels_out, 3, stride=stride, padding=1)
        self.skip = nn.Conv2d(channels_in, channels_out, 1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        skip = self.skip(F.avg_pool2d(x, self.stride))
        x = F.leaky_relu(self.conv1(F.leaky_relu(x, LEAK)), LEAK)
        return (skip + self.conv2(x)) / 2**0.5
