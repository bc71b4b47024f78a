"""A small network that reads a frame: how far the lips are apart, and from where the face is seen.

Trained on rendered frames, whose lips and cameras are known exactly (`training/probe.py`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..frozen import load_frozen, save_frozen

READINGS = ("opening", "yaw", "pitch")
SCALES = torch.tensor([0.02, 30.0, 15.0])  # typical sizes: fraction of the frame's side, degrees, degrees
SIDE = 128  # pixels
BATCH = 64  # frames at once


class Probe(nn.Module):
    """Frames [B, 3, 128, 128] in -1..1 -> lip opening (fraction of the side), yaw and pitch (degrees), [B, 3]."""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, 96, 128, 128)
        self.layers = nn.Sequential(*(downsample(a, b) for a, b in zip(widths, widths[1:])))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 256), nn.SiLU(), nn.Linear(256, len(READINGS)))

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.layers(frames)) * SCALES.to(frames)

    @torch.no_grad()
    def read(self, frames: Tensor) -> np.ndarray:
        """Read frames [T, H, W, 3] in 0..1 -> float32 [T, 3]."""
        return torch.cat([self(part) for part in self.prepare(frames).split(BATCH)]).float().numpy()

    @torch.no_grad()
    def features(self, frames: Tensor) -> np.ndarray:
        """Return the inputs of the last layer, float32 [T, 256], of frames [T, H, W, 3] in 0..1."""
        parts = self.prepare(frames).split(BATCH)
        return torch.cat([self.head[:-1](self.layers(part)) for part in parts]).float().numpy()

    @staticmethod
    def prepare(frames: Tensor) -> Tensor:
        """Resize and rescale frames [T, H, W, 3] in 0..1 -> [T, 3, 128, 128] in -1..1."""
        return F.interpolate(frames.movedim(-1, 1).float(), (SIDE, SIDE), mode="area") * 2 - 1


def downsample(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two convolutions, the first of stride 2. Batch normalisation makes them learn in minutes."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.SiLU(),
        nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.SiLU(),
    )


def save_probe(path: Path, probe: Probe, facts: dict) -> None:
    """Write a probe; facts: how it was trained, and what was measured."""
    save_frozen(path, "probe", probe, {}, facts)


def load_probe(path: str | Path) -> Probe:
    """Read a probe, frozen. Raises CheckpointError for a file that holds no whole one."""
    return load_frozen(path, "probe", lambda config: Probe(), default={})
