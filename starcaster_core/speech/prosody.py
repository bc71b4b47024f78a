"""How loud a voice is, syllable by syllable: what heads nod to and where they pause."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ..conventions import FPS, SAMPLE_RATE
from ..types import Speech

LOUD = 0.9  # quantile of the frames that counts as loud
FAINT = 1e-3  # of full scale: a recording with quieter loud frames is as good as silent
SYLLABLE, PHRASE = 0.32, 1.2  # seconds over which loudness is averaged: of an accent, of what it stands out of
PAUSE, PAUSE_SECONDS = 0.15, 0.24  # loudness below which nobody speaks, and for how long


def frame_loudness(samples: np.ndarray, sample_rate: int, frames: int, fps: float = FPS) -> np.ndarray:
    """Return the root mean square of each frame's sound over that of a loud frame: samples [N] -> float [frames], about
    0..1."""
    width = int(round(sample_rate / fps))
    padded = np.zeros(frames * width, np.float32)
    heard = np.asarray(samples[: len(padded)], np.float32)
    padded[: len(heard)] = heard
    rms = np.sqrt((padded.reshape(frames, width) ** 2).mean(axis=1))
    return rms / max(float(np.quantile(rms, LOUD)), FAINT)


def with_loudness(speech: Speech, samples: Tensor) -> Speech:
    """Return speech with the loudness of its sound, 16 kHz mono samples [N]."""
    return replace(speech, loudness=frame_loudness(samples.cpu().numpy(), SAMPLE_RATE, speech.frames, speech.fps))


def smooth(x: np.ndarray, width: float) -> np.ndarray:
    """Return x [T] averaged over about `width` frames, weights of a Hann window; beyond the ends it is 0."""
    half = max(1, round(width / 2))
    window = np.hanning(2 * half + 3)[1:-1]
    return np.convolve(x, window / window.sum(), mode="full")[half : half + len(x)]


def accents(loudness: np.ndarray, fps: float) -> np.ndarray:
    """Return how far the loudness [T] of each syllable stands out of its phrase, in -1..1: positive where it is
    stressed."""
    return np.clip(smooth(loudness, SYLLABLE * fps) - smooth(loudness, PHRASE * fps), -1, 1)


def pauses(loudness: np.ndarray, fps: float) -> np.ndarray:
    """Return the first frames of pauses between words [K]: from there on it is quiet for PAUSE_SECONDS and more."""
    quiet = np.concatenate([[False], loudness < PAUSE, [False]]).astype(int)
    starts, ends = (np.diff(quiet) == 1).nonzero()[0], (np.diff(quiet) == -1).nonzero()[0]
    return starts[(ends - starts >= PAUSE_SECONDS * fps) & (starts > 0)]
