"""Small clips whose truth is known because it is made up, and instruments that read just that."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from starcaster_core.camera import intrinsics, world_from_cam
from starcaster_core.data.shards import Clip
from starcaster_core.evaluation.instruments import Instruments
from starcaster_core.evaluation.metric import mouth_boxes

FRAMES, SIZE = 32, 64
SYMBOLS = ("p", "A:", "f", "i:", "s", "u:")
NAMES = ["upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin"]


def turned(degrees: np.ndarray) -> np.ndarray:
    """About the vertical axis, [T, 3, 3]"""
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    none, one = np.zeros_like(c), np.ones_like(c)
    return np.stack([c, none, s, none, one, none, -s, none, c], axis=1).reshape(-1, 3, 3)


def made_up(kind: str = "temporal", number: int = 0, split: str = "test", frames: int = FRAMES) -> Clip:
    """Pictures whose brightness is the lip opening, sound as loud as the lips are open, a sound every four frames and
    silence in the last four."""
    rng = np.random.default_rng(number)
    opening = np.repeat(rng.uniform(0, 8, -(-frames // 2)), 2)[:frames] if kind != "spatial" else np.full(frames, 2.0)
    still = np.zeros(frames)
    yaw = still + 5 if kind == "temporal" else np.linspace(-20, 30, frames) + number
    head = 4 * np.sin(np.arange(frames) / 3 + number) if kind == "temporal" else still
    landmarks = np.zeros((frames, 4, 2), np.float32)
    landmarks[:, :, 0] = 32
    landmarks[:, :, 1] = np.stack([still + 40, 40 + opening, still + 25, still + 55], axis=1)
    level = (40 + 20 * opening + rng.uniform(-5, 5)).astype(np.uint8)
    picture = np.broadcast_to(level[:, None, None, None], (frames, SIZE, SIZE, 3)).copy()
    picture[:, : SIZE // 2] += rng.integers(0, 30, (SIZE // 2, SIZE, 3), dtype=np.uint8)
    audio = (opening / 10).repeat(640) * rng.normal(size=frames * 640) * 0.3
    spoken = [[4 * k / 25, 4 * (k + 1) / 25, SYMBOLS[rng.integers(6)]] for k in range(frames // 4 - 1)]
    info = {
        "identity": number,
        "split": split,
        "kind": kind,
        "fps": 25.0,
        "frames": frames,
        "size": SIZE,
        "phonemes": spoken if kind != "spatial" else [],
        "landmark_names": NAMES,
    }
    truth = {
        "landmarks": landmarks,
        "mouth_box": np.tile(np.array([22, 32, 42, 52], np.float32), (frames, 1)),
        "world_from_cam": np.stack([world_from_cam(y, 0.0, 2.7) for y in yaw]).astype(np.float32),
        "intrinsics": np.repeat(intrinsics(frames)[:1], frames, axis=0),
        "head_rotation": turned(head),
        "embedding": rng.normal(size=128).astype(np.float32),
    }
    return Clip(f"{number:04d}", info, picture, audio.astype(np.float32) if kind != "spatial" else None, truth)


@pytest.fixture
def make_clip():
    return made_up


@pytest.fixture
def video_of():
    """The clip's own frames, as an instrument gets them"""
    return lambda clip: torch.from_numpy(clip.frames)


class Loudness:
    """A SyncNet that sees how bright and hears how loud, in windows of five frames"""

    config = SimpleNamespace(window=5)

    def embedded(self, track: torch.Tensor) -> torch.Tensor:
        track = (track - track.mean()) / track.std().clamp(min=1e-6)
        return torch.nn.functional.normalize(track.unfold(0, 5, 1) + 1e-3, dim=-1)[None]

    def embed_video(self, crops: torch.Tensor) -> torch.Tensor:
        return self.embedded(crops[0].mean(dim=(1, 2)))

    def spectra(self, samples: torch.Tensor) -> torch.Tensor:
        return samples.unflatten(1, (-1, 640)).std(dim=-1)

    def embed_audio(self, spectra: torch.Tensor) -> torch.Tensor:
        return self.embedded(spectra[0])


@pytest.fixture
def loudness():
    return Instruments(syncnet=Loudness())


class Told:
    """A probe that is told what it reads: [T, 3] a call"""

    def __init__(self, *readings):
        self.readings = list(readings)

    def read(self, frames) -> np.ndarray:
        return self.readings.pop(0).astype(np.float32)


@pytest.fixture
def told():
    return lambda *readings: Instruments(probe=Told(*readings))


@pytest.fixture
def boxes_of():
    return mouth_boxes
