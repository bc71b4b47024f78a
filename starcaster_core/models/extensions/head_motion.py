"""Head motion as a condition: a small network's answer is added to every frame's time embedding (docs/decisions/0004)."""

from __future__ import annotations

from diffusers.models.embeddings import TimestepEmbedding
from torch import Tensor, nn


class HeadMotion(nn.Module):
    """Embed head motion. The last layer starts at zero: an untrained one changes nothing.

    channels: len(starcaster_core.head_motion.CHANNELS). width: C0, channels of the UNet's first level.
    """

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.embedding = TimestepEmbedding(channels, 4 * width)
        nn.init.zeros_(self.embedding.linear_2.weight)
        nn.init.zeros_(self.embedding.linear_2.bias)

    def prepare(self, head_motion: Tensor) -> tuple[Tensor, ...]:
        """head_motion [B, T, K] -> what every frame's time embedding gets added, [B * T, 4 * C0]. Once a chunk."""
        return (self.embedding(head_motion.flatten(0, 1)),)

    def before(self, x: Tensor, time_embedding: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Add it to the time embedding [B * T, 4 * C0]."""
        return x, time_embedding + prepared[0]

    def after(self, x: Tensor, features: Tensor, prepared: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        """Change nothing."""
        return x, features
