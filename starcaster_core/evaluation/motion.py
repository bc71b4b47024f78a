"""Does anything move? How much head and lips vary over a clip, beside how much they do in the ground truth.

The head only where the camera stands still: a turned head and a moved camera look the same.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from . import lips
from .family import Figure, speaks, together
from .probe import true_readings
from .statistics import Share

NAME, TITLE = "motion", "Diversity of motion"
FIGURES = {
    "pose_std": Figure("head, deviation", "°", "one", "standard deviation over a clip of yaw and pitch (PoseStd)"),
    "pose_ratio": Figure("head, share of the truth's", "", "one", "the same, divided by that of the true head"),
    "lip_std": Figure("lips, deviation", "% of side", "one", "standard deviation over a clip of the lip opening", 100),
    "lip_ratio": Figure("lips, share of the truth's", "", "one", "the same, divided by that of the true lips"),
}
applies = speaks


def ready(instruments) -> bool:
    return instruments.probe is not None


def read(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """[T, 3]: opening, yaw, pitch"""
    readings = instruments.probe.read(video.float() / 255)
    readings[:, 0] = lips.read(instruments, video, clip).opening
    return readings


def judge(instruments, seen: np.ndarray, asked: Clip) -> dict[str, float | Share]:
    seen, truth = (values.std(axis=0) for values in together(seen, true_readings(asked)))
    values: dict[str, float | Share] = {"lip_std": float(seen[0]), "lip_ratio": Share(float(seen[0]), float(truth[0]))}
    if asked.info["kind"] == "temporal":
        values["pose_std"] = float(seen[1:].mean())
        values["pose_ratio"] = Share(float(seen[1:].mean()), float(truth[1:].mean()))
    return values


def wrong(clip: Clip, other: Clip) -> Clip | None:
    """None: how much moves depends on nothing that could be exchanged; the still portrait is the wrong input here."""
    return None
