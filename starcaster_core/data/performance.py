"""A talking head's score: expression weights and the head's turn, one row a frame, from speech and a seed.

The mouth follows the phonemes (`visemes.py`); blinks, gaze, brows and head motion are random and smooth, and louder
moments lift the brows and nod the head.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .visemes import mouth_curves

MOST_TURN = np.array([15.0, 8.0, 5.0])  # degrees of yaw, pitch, roll
USUAL_TURN = np.array([5.5, 2.8, 1.8])
EYE_DEGREES = 28.0  # gaze angle at full weight of a look unit, about


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
    fps: float = 25.0,
) -> Performance:
    """The score of `frames` frames; frame t lies in the middle of [t, t + 1) / fps seconds of `samples` [N].

    phonemes: (start, end, symbol) in seconds. Everything random comes from `seed`.
    """
    rng = np.random.default_rng([seed, 0xAC7])
    times = (np.arange(frames) + 0.5) / fps
    loudness = frame_loudness(samples, sample_rate, frames, fps)
    liveliness = rng.uniform(0.35, 1.2)
    accents = np.convolve(np.pad(loudness, 2), np.array([1, 2, 3, 2, 1]) / 9, mode="valid") - loudness.mean()

    degrees = liveliness * USUAL_TURN * _drift(rng, times, 3)
    degrees[:, 1] -= 2.5 * liveliness * accents
    degrees = MOST_TURN * np.tanh(degrees / MOST_TURN)

    strength = float(np.clip(rng.normal(1.05, 0.14), 0.75, 1.4))
    expression = mouth_curves(phonemes, times, unit_names, loudness, strength)
    face = _Face(expression, unit_names)
    smile = rng.choice([0.0, rng.uniform(0, 0.3)])
    face.add("mouthSmile", smile * (1 - 0.6 * np.clip(loudness, 0, 1)))
    face.add("cheekSquint", 0.5 * smile)
    mood = rng.normal(0, 0.12)
    brows = mood + 0.12 * _drift(rng, times, 1)[:, 0] + 0.5 * liveliness * np.clip(accents, 0, None)
    face.add("browInnerUp", 0.14 + np.clip(brows, 0, 0.6))
    face.add("browOuterUp", np.clip(0.8 * brows, 0, 0.6))
    face.add("browDown", np.clip(-0.7 * brows, 0, 0.35))
    _look(face, rng, times, degrees)
    blink = _blinks(rng, times)
    face.add("eyeBlink", blink)
    return Performance(np.clip(expression, 0, 1), rotations(degrees), degrees.astype(np.float32))


def frame_loudness(samples: np.ndarray, sample_rate: int, frames: int, fps: float = 25.0) -> np.ndarray:
    """Root mean square of each frame's sound over that of a loud frame (0.9 quantile): [T], about 0..1."""
    width = int(round(sample_rate / fps))
    padded = np.zeros(frames * width, np.float32)
    heard = np.asarray(samples[: len(padded)], np.float32)
    padded[: len(heard)] = heard
    rms = np.sqrt((padded.reshape(frames, width) ** 2).mean(axis=1))
    return rms / max(float(np.quantile(rms, 0.9)), 1e-3)


def rotations(degrees: np.ndarray) -> np.ndarray:
    """Head turns [T, 3] of yaw (to the subject's left), pitch (up), roll (image-anticlockwise) -> float32 [T, 3, 3]."""
    yaw, pitch, roll = np.radians(np.asarray(degrees, np.float64)).T
    zero, one = np.zeros_like(yaw), np.ones_like(yaw)

    def matrices(*rows):
        return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)

    cy, sy, cp, sp, cr, sr = np.cos(yaw), np.sin(yaw), np.cos(pitch), np.sin(pitch), np.cos(roll), np.sin(roll)
    turn = matrices((cy, zero, sy), (zero, one, zero), (-sy, zero, cy))
    nod = matrices((one, zero, zero), (zero, cp, sp), (zero, -sp, cp))
    tilt = matrices((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
    return (turn @ nod @ tilt).astype(np.float32)


class _Face:
    """Adds to named units of an expression [T, U] in place; a name without a side means both sides."""

    def __init__(self, expression: np.ndarray, unit_names: tuple[str, ...]):
        self.expression, self.columns = expression, {name: i for i, name in enumerate(unit_names)}

    def add(self, unit: str, value) -> None:
        for name in (unit, f"{unit}Left", f"{unit}Right"):
            if name in self.columns:
                self.expression[:, self.columns[name]] += value


def _drift(rng: np.random.Generator, times: np.ndarray, channels: int) -> np.ndarray:
    """Smooth noise [T, channels] of about unit variance: a few slow sines."""
    total = np.zeros((len(times), channels))
    for low, high, size in ((0.05, 0.15, 1.0), (0.2, 0.45, 0.75), (0.5, 0.9, 0.32)):
        rate, phase = rng.uniform(low, high, channels), rng.uniform(0, 2 * np.pi, channels)
        total += size * np.sin(2 * np.pi * times[:, None] * rate + phase)
    return total * 1.1


def _look(face: _Face, rng: np.random.Generator, times: np.ndarray, head: np.ndarray) -> None:
    """Gaze: mostly kept on the viewer against the head's turn, with small sudden saccades."""
    gaze, now, t = np.zeros((len(times), 2)), np.zeros(2), 0.0
    while t < times[-1]:
        stay = rng.uniform(0.5, 2.0)
        gaze[(times >= t) & (times < t + stay)] = now
        now = rng.normal(0, 1, 2) * [5.0, 3.0] * (rng.random() < 0.6)
        t += stay
    gaze = gaze - 0.8 * head[:, :2]
    right, up = np.clip(gaze[:, 0] / EYE_DEGREES, -0.8, 0.8), np.clip(gaze[:, 1] / EYE_DEGREES, -0.6, 0.6)
    face.add("eyeLookOutLeft", np.clip(right, 0, None))
    face.add("eyeLookInRight", np.clip(right, 0, None))
    face.add("eyeLookOutRight", np.clip(-right, 0, None))
    face.add("eyeLookInLeft", np.clip(-right, 0, None))
    face.add("eyeLookUp", np.clip(up, 0, None))
    face.add("eyeLookDown", np.clip(-up, 0, None))


def _blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Blink weight [T]: down in 80 ms, up in 160 ms, every few seconds."""
    blink, t = np.zeros(len(times)), rng.uniform(0, 3.5)
    while t < times[-1]:
        since = times - t
        down = np.clip(1 + since / 0.08, 0, 1)
        up = np.clip(1 - since / 0.16, 0, 1)
        blink = np.maximum(blink, np.where(since < 0, down, up))
        t += rng.uniform(1.6, 5.0)
    return blink * blink * (3 - 2 * blink)
