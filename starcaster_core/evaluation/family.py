"""What a family of figures is: a module with the names below, so that `evaluate` can go through a list of them.

NAME       its key in the results
TITLE      its heading in the report
FIGURES    name -> Figure
ready(instruments) -> bool                    is what it reads with there?
applies(clip) -> bool                         does this kind of clip have what it needs?
read(instruments, video, clip) -> reading     the costly part, once a video; uint8 [T, S, S, 3], frames of `clip`
judge(instruments, reading, asked) -> values  figure -> float or Share, against what the clip `asked` for
wrong(clip, other) -> Clip                    what a video of `clip` is deliberately held against
curves(instruments, reading, asked) -> Curve  for the report; may be absent
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.shards import Clip


class Figure(NamedTuple):
    """title and unit for people; best: "high", "low", or "one" (as much as the truth has); scale: what to multiply by
    before showing it in that unit."""

    title: str
    unit: str
    best: str
    meaning: str
    scale: float = 1.0


class Curve(NamedTuple):
    """What the generated video shows and, where there is such a thing, what it should."""

    title: str
    x_title: str
    x: list[float]
    said: list[float]
    meant: list[float] | None = None


def over_time(title: str, clip: Clip, said: np.ndarray, meant: np.ndarray) -> Curve:
    said, meant = (np.round(values, 4).tolist() for values in together(said, meant))
    return Curve(title, "seconds", [t / clip.info["fps"] for t in range(len(said))], said, meant)


def floats(video: Tensor) -> Tensor:
    """uint8 [T, S, S, 3] -> float [1, T, 3, S, S] in 0..1"""
    return video.movedim(-1, 1)[None].float() / 255


def mouth_boxes(clip: Clip) -> Tensor:
    """[1, T, 4] round the mouth, as shares of the frame's side"""
    return torch.from_numpy(clip.truth["mouth_box"]).float()[None] / clip.info["size"]


def resized(frames: Tensor, side: int) -> Tensor:
    """uint8 [T, H, W, 3] -> uint8 [T, side, side, 3]"""
    if frames.shape[1] == side:
        return frames
    small = F.interpolate(frames.movedim(-1, 1).float(), (side, side), mode="bicubic", antialias=True)
    return small.movedim(1, -1).round().clamp(0, 255).byte()


def speaks(clip: Clip) -> bool:
    return clip.audio is not None


def together(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Both as long as the shorter one."""
    return a[: len(b)], b[: len(a)]
