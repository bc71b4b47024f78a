"""Diversity of motion: how much head and lips vary over a clip, and in the ground truth.

The head is measured only where the camera stands still: a turned head and a moved camera look the same.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from ..data.truth import true_readings
from . import lips
from .metric import Figure, has_speech, trimmed
from .statistics import Ratio

NAME, TITLE = "motion", "Diversity of motion"
FIGURES = {
    "pose_std": Figure("head, deviation", "°", "one", "standard deviation over a clip of yaw and pitch (PoseStd)"),
    "pose_ratio": Figure("head, fraction of the truth's", "", "one", "the same, divided by that of the true head"),
    "lip_std": Figure("lips, deviation", "% of side", "one", "standard deviation over a clip of the lip opening", 100),
    "lip_ratio": Figure("lips, fraction of the truth's", "", "one", "the same, divided by that of the true lips"),
}
applies = has_speech


def is_available(instruments) -> bool:
    return instruments.probe is not None


def extract(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """Return opening, yaw and pitch of each frame, [T, 3]."""
    readings = instruments.probe.read(video.float() / 255)
    readings[:, 0] = lips.extract(instruments, video, clip).opening
    return readings


def score(instruments, readings: np.ndarray, target: Clip) -> dict[str, float | Ratio]:
    measured, truth = (values.std(axis=0) for values in trimmed(readings, true_readings(target)))
    values: dict[str, float | Ratio] = {
        "lip_std": float(measured[0]),
        "lip_ratio": Ratio(float(measured[0]), float(truth[0])),
    }
    if target.info["kind"] == "temporal":
        values["pose_std"] = float(measured[1:].mean())
        values["pose_ratio"] = Ratio(float(measured[1:].mean()), float(truth[1:].mean()))
    return values


def negative(clip: Clip, other: Clip) -> Clip | None:
    """Return None: no exchanged condition changes how much moves; the still portrait is the control here."""
    return None
