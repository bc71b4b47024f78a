"""From one frame rate to another: features of a speech encoder -> one row a video frame."""

from __future__ import annotations

import torch
from torch import Tensor


def resample_frames(features: Tensor, source_fps: float, frames: int, fps: float) -> Tensor:
    """[N, F] at `source_fps` -> [frames, F] at `fps`, linearly interpolated at the centres of the video frames.

    Row i of the source is taken to describe (i + 0.5) / source_fps seconds; row t of the result (t + 0.5) / fps.
    Beyond the first and last centre of the source its end rows go on.
    """
    seconds = (torch.arange(frames, dtype=torch.float64, device=features.device) + 0.5) / fps
    position = (seconds * source_fps - 0.5).clamp(0, features.shape[0] - 1)
    below = position.floor().long()
    above = (below + 1).clamp(max=features.shape[0] - 1)
    weight = (position - below).to(features.dtype)[:, None]
    return torch.lerp(features[below], features[above], weight)


def align_layers(hidden: Tensor, source_fps: float, frames: int, fps: float) -> Tensor:
    """Hidden states of all layers [L, N, D] -> [frames, L * D], layer after layer within a row.

    For wav2vec2-base: 12 layers of 768 at 50 rows a second -> 9216 features a video frame.
    """
    layers, rows, width = hidden.shape
    stacked = hidden.transpose(0, 1).reshape(rows, layers * width)
    return resample_frames(stacked, source_fps, frames, fps)
