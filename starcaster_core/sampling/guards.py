"""What a chunk must be before it is kept: finite, not black, not frozen. A guard stops the render and names the chunk."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import StarcasterError
from ..presets import ModelConfig
from .settings import Conditions

BLACK = 4 / 255  # no pixel of a black frame is brighter
FIX = "What was made before it is kept. Use another precision, seed or scheduler; if it stays, the model's file is damaged."


@dataclass(frozen=True)
class Span:
    """Where a chunk lies in a video: `str` gives "chunk 3 of 18 (1.28 to 1.92 s)"."""

    index: int
    chunks: int
    begins: float  # seconds
    ends: float

    @classmethod
    def of(cls, conditions: Conditions, config: ModelConfig, index: int) -> Span:
        length, frames = config.chunk_frames, conditions.frames
        begins, ends = index * length / config.fps, min(frames, (index + 1) * length) / config.fps
        return cls(index, -(-frames // length), begins, ends)

    def __str__(self) -> str:
        return f"chunk {self.index + 1} of {self.chunks} ({self.begins:.2f} to {self.ends:.2f} s)"


def check_finite(latents: Tensor, where: Span) -> None:
    """Raise StarcasterError for latents with NaN or infinite numbers."""
    if not torch.isfinite(latents).all():
        raise StarcasterError("finite latents", f"NaN or infinite numbers in {where}", FIX)


def check_moving(latents: Tensor, where: Span) -> None:
    """Raise StarcasterError for latents [1, C, T, h, w] that are the same, bit for bit, in all frames."""
    if latents.shape[2] > 1 and bool((latents == latents[:, :, :1]).all()):
        raise StarcasterError("a moving picture", f"frames that are all the same in {where}", FIX)


def check_lit(frames: Tensor, where: Span) -> None:
    """Raise StarcasterError for frames [T, H, W, 3] in 0..1 that are all black or not finite."""
    if not bool((frames.amax() > BLACK) & torch.isfinite(frames).all()):
        raise StarcasterError("visible frames", f"black ones in {where}", FIX)


def guarded(chunks: Iterable, conditions: Conditions, config: ModelConfig) -> Iterator:
    """Yield the chunks of a rollout, and stop at one that does not move. Frames of a model whose noise is all shared may stand still."""
    for chunk in chunks:
        if config.extensions.shared_noise < 1:
            check_moving(chunk.latents, Span.of(conditions, config, chunk.index))
        yield chunk
