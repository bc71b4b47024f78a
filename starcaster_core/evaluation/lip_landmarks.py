"""Lips by landmarks: the lip opening over time, against the renderer's and against the loudness of the sound.

The face landmarker (`identity/landmarker.py`) was trained elsewhere and teaches no part of the training that draws
lips; the lip reader of `lips.py` does. (The landmarker does teach the reference decoder, whose frames are not measured
here.)
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..conventions import SAMPLE_RATE
from ..data.shards import Clip
from ..data.truth import lip_opening
from ..identity.landmarks import follow_landmarks
from ..models.lip_warp import mouth_gap
from ..speech.prosody import frame_loudness
from .metric import Curve, Figure, curve_over_time, has_speech, trimmed
from .statistics import Ratio, best_lag, correlate

NAME, TITLE = "lip_landmarks", "Lips by landmarks (not used in training)"
FIGURES = {
    "correlation": Figure("opening, correlation", "", "high", "of the lip opening with the true one, over a clip"),
    "within_one_frame": Figure(
        "within a frame", "%", "high", "clips whose opening fits best at -1, 0 or 1 frames", 100
    ),
    "loudness": Figure("opening and loudness", "", "high", "correlation of the lip opening with the sound's loudness"),
    "ratio": Figure("opening, deviation", "", "one", "standard deviation over a clip, divided by the true opening's"),
    "found": Figure("faces found", "%", "high", "frames in which the landmarker sees a face", 100),
}
MIN_FOUND = 0.5  # fraction of the frames; below it the opening over time is not known
applies = has_speech


def is_available(instruments) -> bool:
    return instruments.landmarks


def extract(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """Return the distance between the inner lips in each frame, [T], fraction of the frame's side; NaN without a
    face."""
    frames = video[:1] if (video == video[0]).all() else video  # landmarks of equal frames would jitter
    faces = follow_landmarks(frames.numpy())
    opening = np.array([np.nan if face is None else mouth_gap(face.points) / video.shape[1] for face in faces])
    return np.resize(opening, len(video))


def score(instruments, opening: np.ndarray, target: Clip) -> dict[str, float | Ratio]:
    values: dict[str, float | Ratio] = {"found": Ratio(float(np.isfinite(opening).sum()), len(opening))}
    opening, true_opening = trimmed(opening, lip_opening(target))
    known = np.isfinite(opening)
    if known.mean() < MIN_FOUND:
        return values
    frames = np.arange(len(opening))
    opening = np.interp(frames, frames[known], opening[known])
    loudness = frame_loudness(target.audio, SAMPLE_RATE, len(opening), target.info["fps"])
    return values | {
        "correlation": correlate(opening, true_opening),
        "within_one_frame": float(abs(best_lag(opening, true_opening)) <= 1),
        "loudness": correlate(opening, loudness),
        "ratio": Ratio(float(opening.std()), float(true_opening.std())),
    }


def negative(clip: Clip, other: Clip) -> Clip:
    """Return another clip: what it says."""
    return other


def curve(instruments, opening: np.ndarray, target: Clip) -> Curve:
    measured = 100 * np.nan_to_num(opening, nan=float(np.nanmean(opening)) if np.isfinite(opening).any() else 0.0)
    return curve_over_time("lip opening by landmarks, % of the side", target, measured, 100 * lip_opening(target))
