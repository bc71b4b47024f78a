"""The interface of a metric, and what several metrics share.

A metric is a module with the names below; `metrics.py` lists them.

NAME       its key in the results
TITLE      its heading in the report
FIGURES    name -> Figure
is_available(instruments) -> bool                are the instruments it needs there?
applies(clip) -> bool                            does this kind of clip have what it needs?
extract(instruments, video, clip) -> features    once for each video, the costly part; video uint8 [T, S, S, 3] of
`clip` score(instruments, features, target) -> values   figure -> float or Ratio; the features against the clip `target`
negative(clip, other) -> Clip | None             the target of the negative control: what a video of `clip` must not
match curve(instruments, features, target) -> Curve    for the report; may be absent
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.shards import Clip


class Figure(NamedTuple):
    """How a figure is shown.

    best: "high", "low", or "one" (as much as the ground truth has). scale: factor from the stored value to `unit`.
    """

    title: str
    unit: str
    best: str
    meaning: str
    scale: float = 1.0


class Curve(NamedTuple):
    """A measured series and, where there is one, its target."""

    title: str
    x_title: str
    x: list[float]
    measured: list[float]
    target: list[float] | None = None


def curve_over_time(title: str, clip: Clip, measured: np.ndarray, target: np.ndarray) -> Curve:
    """Return a curve over seconds, as long as the shorter series."""
    measured, target = (np.round(values, 4).tolist() for values in trimmed(measured, target))
    return Curve(title, "seconds", [t / clip.info["fps"] for t in range(len(measured))], measured, target)


def to_float(video: Tensor) -> Tensor:
    """Convert a video uint8 [T, S, S, 3] to float [1, T, 3, S, S] in 0..1."""
    return video.movedim(-1, 1)[None].float() / 255


def mouth_boxes(clip: Clip) -> Tensor:
    """Return the boxes round the mouth, float [1, T, 4], fractions of the frame's side."""
    return torch.from_numpy(clip.truth["mouth_box"]).float()[None] / clip.info["size"]


def resized(frames: Tensor, side: int) -> Tensor:
    """Resize frames uint8 [T, H, W, 3] to uint8 [T, side, side, 3]."""
    if frames.shape[1] == side:
        return frames
    small = F.interpolate(frames.movedim(-1, 1).float(), (side, side), mode="bicubic", antialias=True)
    return small.movedim(1, -1).round().clamp(0, 255).byte()


def has_speech(clip: Clip) -> bool:
    """Return whether a clip has sound."""
    return clip.audio is not None


def trimmed(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cut both arrays to the length of the shorter one."""
    return a[: len(b)], b[: len(a)]
