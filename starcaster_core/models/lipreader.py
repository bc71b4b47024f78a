"""A lip reader: mouths -> features of what they say, visemes, and how far the lips are apart. Small, frozen in use.

As a loss it is two lines:

    said, meant = reader.features(predicted, boxes), reader.features(frames, boxes)
    loss = (said - meant).square().mean()
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .frozen import load_frozen, save_frozen
from .mouth import SIDE, mouth_crops

OPENING_SCALE = 0.1  # a usual opening, as a share of the crop's side


@dataclass(frozen=True)
class LipReaderConfig:
    """visemes: names of the classes, in order. widths: channels at half, a quarter and an eighth of the crop's side.
    layers: temporal ones, each looks one frame further either way."""

    visemes: tuple[str, ...]
    widths: tuple[int, int, int] = (32, 64, 96)
    features: int = 128
    layers: int = 3


class Reading(NamedTuple):
    """features [B, T, F], mean square 1 in every frame; logits [B, T, V]; opening [B, T], a share of the crop's side"""

    features: Tensor
    logits: Tensor
    opening: Tensor


class LipReader(nn.Module):
    """mouth crops [B, T, 40, 40] in 0..1 -> Reading. About 0.7 M parameters; sees `layers` frames either way."""

    def __init__(self, config: LipReaderConfig):
        super().__init__()
        self.config = config
        widths, features = config.widths, config.features
        self.frame = nn.Sequential(*(Halve(a, b) for a, b in zip((1, *widths), widths)), nn.Flatten())
        self.embed = nn.Linear(widths[-1] * (SIDE // 8) ** 2, features)
        self.over_time = nn.Sequential(*(OverTime(features) for _ in range(config.layers)))
        self.to_logits = nn.Linear(features, len(config.visemes))
        self.to_opening = nn.Linear(features, 1)

    def forward(self, crops: Tensor) -> Reading:
        batch, count = crops.shape[:2]
        pictures = crops.reshape(-1, 1, SIDE, SIDE).contiguous(memory_format=torch.channels_last)
        frames = self.embed(self.frame(pictures)).reshape(batch, count, -1)
        hidden = self.over_time(frames.transpose(1, 2)).transpose(1, 2).float()
        # Without this a network could make any loss on its features small by making the features small.
        features = F.layer_norm(hidden, hidden.shape[-1:])
        return Reading(features, self.to_logits(features), OPENING_SCALE * self.to_opening(features)[..., 0])

    def read(self, frames: Tensor, boxes: Tensor) -> Reading:
        """frames [B, T, 3, S, S] in 0..1, RGB; boxes [B, T, 4] round the mouth, as shares of the side."""
        return self(mouth_crops(frames, boxes))

    def features(self, frames: Tensor, boxes: Tensor) -> Tensor:
        """[B, T, F], differentiable in the frames; arguments as for `read`. Give truth and prediction equal boxes."""
        return self.read(frames, boxes).features


class Halve(nn.Module):
    """A picture of half the size, and a second look at it"""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__()
        self.down = nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1)
        # Not batch statistics: what the reader says of a clip must not depend on the clips beside it.
        self.norm = nn.GroupNorm(4, channels_out)
        self.look = nn.Conv2d(channels_out, channels_out, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.down(x)))
        return x + F.silu(self.look(x))


class OverTime(nn.Module):
    """[B, C, T] -> the same shape: a frame and its two neighbours; before the first and after the last, they repeat."""

    def __init__(self, channels: int):
        super().__init__()
        self.spread = nn.Conv1d(channels, channels, 3, padding=1, padding_mode="replicate")
        self.mix = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.silu(self.spread(x)))


def save_lipreader(path: Path, reader: LipReader, facts: dict) -> None:
    save_frozen(path, "lip reader", reader, asdict(reader.config), facts)


def load_lipreader(path: str | Path) -> LipReader:
    """Ready for use, its own weights frozen. Raises CheckpointError for a file that is not a whole lip reader."""

    def build(config: dict) -> LipReader:
        lists = {key: tuple(value) if isinstance(value, list) else value for key, value in config.items()}
        return LipReader(LipReaderConfig(**lists))

    return load_frozen(path, "lip reader", build)
