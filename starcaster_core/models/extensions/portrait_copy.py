"""The portrait's own latents, to be copied where they fit. For networks that predict clean latents (docs/decisions/0004).

out = (1 - g) prediction + g portrait, with the gate g = sigmoid(conv(features)) in 0..1, one number a latent pixel
"""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn

from ..attention_kernels import per_frame


class PortraitCopy(nn.Module):
    """Show the portrait behind the first convolution, and copy it behind the last.

    `reference_in` starts at zero and the gate at a quarter. channels: C of the latents. width: C0.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.reference_in = nn.Conv2d(channels, width, 3, padding=1)
        self.gate = nn.Conv2d(width, 1, 3, padding=1)
        for tensor in (self.reference_in.weight, self.reference_in.bias, self.gate.weight):
            nn.init.zeros_(tensor)
        nn.init.constant_(self.gate.bias, -1.0)

    def prepare(self, portrait: Tensor) -> tuple[Tensor, ...]:
        """Once a chunk: portrait latents [B, C, R, h, w], R = 1 or one for each frame -> features [B * R, C0, h, w] and
        the latents [B * R, C, h, w]."""
        latents = rearrange(portrait, "b c r h w -> (b r) c h w")
        return self.reference_in(latents), latents

    def before(self, x: Tensor, time_embedding: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Add the portrait's features to x [B * T, C0, h, w]."""
        return x + for_frames(prepared[0], len(x)), time_embedding

    def after(self, x: Tensor, features: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Copy the portrait into x [B * T, C, h, w] where the gate says so."""
        portrait = for_frames(prepared[1], len(x)).to(x.dtype)  # under autocast x is of lower precision
        return torch.lerp(x, portrait, self.gate(features).sigmoid()), features


def for_frames(shared: Tensor, count: int) -> Tensor:
    """Return [B or B * T, ...] as [count = B * T, ...]."""
    return shared if len(shared) == count else per_frame(shared, count // len(shared))
