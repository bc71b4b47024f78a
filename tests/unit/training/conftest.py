"""Clips of noise, as `synth` would write them."""

from __future__ import annotations

import numpy as np
import pytest

from starcaster_core.data.shards import Clip

FRAMES, SIDE = 36, 64


def noise_clip(number: int, kind: str) -> Clip:
    rng = np.random.default_rng(number)
    poses = np.repeat(np.eye(4, dtype=np.float32)[None], FRAMES, axis=0)
    poses[:, 2, 3] = 2.7
    info = {
        "split": "train",
        "kind": kind,
        "fps": 25.0,
        "identity": number,
        "size": SIDE,
        "landmark_names": ["left_eye", "right_eye"],
    }
    truth = {
        "world_from_cam": poses,
        "intrinsics": np.repeat(np.eye(3, dtype=np.float32)[None], FRAMES, axis=0),
        "landmarks": np.tile(np.array([[40, 24], [24, 24]], np.float32), (FRAMES, 1, 1)),
        "mouth_box": np.tile(np.array([16, 40, 48, 56], np.float32), (FRAMES, 1)),
        "embedding": rng.normal(size=128).astype(np.float32),
    }
    frames = rng.integers(0, 256, (FRAMES, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    audio = None if kind == "spatial" else (rng.normal(size=FRAMES * 640) * 0.1).astype(np.float32)
    return Clip(f"{number:04d}", info, frames, audio, truth)


@pytest.fixture(scope="session")
def clip():
    """(number, kind) -> a training clip of 36 frames of 64x64 pixels"""
    return noise_clip
