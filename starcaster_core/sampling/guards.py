"""What a chunk must be: finite, not black, not frozen. A guard stops the render and names the chunk and its time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..errors import StarcasterError
from ..presets import ModelConfig

BLACK = 4 / 255  # no pixel of a black frame is brighter
FIX = "What was made before is kept. Use another precision, seed or scheduler; if it stays, the model is damaged."


def place(config: ModelConfig, index: int) -> str:
    """Return where a chunk lies: "chunk 3 (1.28 to 1.92 s)"."""
    seconds = config.chunk_frames / config.fps
    return f"chunk {index + 1} ({index * seconds:.2f} to {(index + 1) * seconds:.2f} s)"


def check_finite(latents: Tensor, where: str) -> None:
    """Raise StarcasterError for latents with NaN or infinite numbers."""
    if not torch.isfinite(latents).all():
        raise StarcasterError("finite latents", f"NaN or infinite numbers in {where}", FIX)


def check_moving(latents: Tensor, where: str) -> None:
    """Raise StarcasterError for latents [1, C, T, h, w] that are the same, bit for bit, in all frames."""
    if latents.shape[2] > 1 and bool((latents == latents[:, :, :1]).all()):
        raise StarcasterError("a moving picture", f"frames that are all the same in {where}", FIX)


def check_lit(frames: Tensor, where: str) -> None:
    """Raise StarcasterError for frames [T, H, W, 3] in 0..1 that are all black, or NaN."""
    if not frames.amax() > BLACK:  # so that NaN fails, too
        raise StarcasterError("visible frames", f"black ones in {where}", FIX)


def guarded(chunks: Iterable, config: ModelConfig) -> Iterator:
    """Yield the chunks of a rollout, and stop at one that does not move.

    Frames of a model whose noise is all shared may stand still.
    """
    for chunk in chunks:
        if config.extensions.shared_noise < 1:
            check_moving(chunk.latents, place(config, chunk.index))
        yield chunk
