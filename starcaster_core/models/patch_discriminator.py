"""A discriminator of patches: is this detail of a face photographed, or made? (Isola et al. 2017)"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PatchDiscriminator(nn.Module):
    """Pictures [B, 3, h, w] in -1..1 -> logits [B, 1, h / 8, w / 8], each of about 40 pixels a side."""

    def __init__(self, width: int = 32):
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for factor in (1, 2, 3):
            layers += [nn.Conv2d(channels, factor * width, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
            channels = factor * width
        self.body = nn.Sequential(*layers, nn.Conv2d(channels, channels, 3, padding=1), nn.LeakyReLU(0.2))
        self.out = nn.Conv2d(channels, 1, 1)

    def forward(self, pictures: Tensor) -> Tensor:
        return self.out(self.body(pictures.to(memory_format=torch.channels_last)))
