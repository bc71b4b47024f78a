"""The performance of a talking head: expression weights and the head's turn, one row a frame, from speech and a seed.

The mouth follows the phonemes (`visemes.py`); blinks, gaze, brows and head motion are random and smooth, and louder
moments lift the brows and nod the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from ..conventions import FPS
from ..head_motion import POSE_LIMIT, POSE_STD, blinks, drift, glances, look, rotations
from ..speech.prosody import frame_loudness
from .visemes import mouth_curves

RESTING_BROWS = 0.14  # weight of the inner brows
BROWS_DOWN = 0.7  # how far brows go down, of how far they would go up


@dataclass(frozen=True)
class Performance:
    """expression float32 [T, U] in 0..1; head_rotation float32 [T, 3, 3]; head_degrees [T, 3] yaw, pitch, roll."""

    expression: np.ndarray
    head_rotation: np.ndarray
    head_degrees: np.ndarray


def perform(
    phonemes: list[tuple[float, float, str]],
    samples: np.ndarray,
    sample_rate: int,
    frames: int,
    unit_names: tuple[str, ...],
    seed: int,
    fps: float = FPS,
) -> Performance:
    """Return the performance of `frames` frames; frame t lies in the middle of [t, t + 1) / fps seconds of `samples`
    [N].

    phonemes: (start, end, symbol) in seconds. Everything random comes from `seed`.
    """
    rng = np.random.default_rng([seed, 0xAC7])
    times = (np.arange(frames) + 0.5) / fps
    loudness = frame_loudness(samples, sample_rate, frames, fps)
    amount = rng.uniform(0.35, 1.2)
    accents = np.convolve(np.pad(loudness, 2), np.array([1, 2, 3, 2, 1]) / 9, mode="valid") - loudness.mean()

    degrees = amount * POSE_STD * drift(rng, times, 3)
    degrees[:, 1] -= 2.5 * amount * accents
    degrees = POSE_LIMIT * np.tanh(degrees / POSE_LIMIT)

    strength = float(np.clip(rng.normal(1.05, 0.14), 0.75, 1.4))
    expression = mouth_curves(phonemes, times, unit_names, loudness, strength)
    face = _Face(expression, unit_names)
    smile = rng.choice([0.0, rng.uniform(0, 0.3)])
    face.add("mouthSmile", smile * (1 - 0.6 * np.clip(loudness, 0, 1)))
    face.add("cheekSquint", 0.5 * smile)
    mood = rng.normal(0, 0.12)
    brows = mood + 0.12 * drift(rng, times, 1)[:, 0] + 0.5 * amount * np.clip(accents, 0, None)
    face.add("browInnerUp", RESTING_BROWS + np.clip(brows, 0, 0.6))
    face.add("browOuterUp", np.clip(0.8 * brows, 0, 0.6))
    face.add("browDown", np.clip(-BROWS_DOWN * brows, 0, 0.35))
    _look(face, *look(glances(rng, times), degrees).T)
    face.add("eyeBlink", blinks(rng, times))
    return Performance(
        np.clip(expression, 0, 1), rotations(torch.from_numpy(degrees)).numpy(), degrees.astype(np.float32)
    )


class _Face:
    """Adds to named units of an expression [T, U] in place; a name without a side means both sides."""

    def __init__(self, expression: np.ndarray, unit_names: tuple[str, ...]):
        self.expression, self.columns = expression, {name: i for i, name in enumerate(unit_names)}

    def add(self, unit: str, value) -> None:
        for name in (unit, f"{unit}Left", f"{unit}Right"):
            if name in self.columns:
                self.expression[:, self.columns[name]] += value


def _look(face: _Face, right: np.ndarray, up: np.ndarray) -> None:
    face.add("eyeLookOutLeft", np.clip(right, 0, None))
    face.add("eyeLookInRight", np.clip(right, 0, None))
    face.add("eyeLookOutRight", np.clip(-right, 0, None))
    face.add("eyeLookInLeft", np.clip(-right, 0, None))
    face.add("eyeLookUp", np.clip(up, 0, None))
    face.add("eyeLookDown", np.clip(-up, 0, None))
