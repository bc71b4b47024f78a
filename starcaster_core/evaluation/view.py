"""View control: from where the face is seen against where the camera stands, in degrees read by the probe."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from ..data.truth import true_readings
from .metric import Curve, Figure, curve_over_time, trimmed
from .statistics import correlate

NAME, TITLE = "view", "View"
FIGURES = {
    "error": Figure("degrees off", "°", "low", "between seen and requested view, mean of yaw and pitch"),
    "yaw_error": Figure("yaw off", "°", "low", "the same, sideways alone"),
    "yaw_correlation": Figure("yaw, correlation", "", "high", "of seen and requested yaw, over a clip"),
}
MIRROR = np.diag([-1.0, 1.0, 1.0])


def is_available(instruments) -> bool:
    return instruments.probe is not None


def applies(clip: Clip) -> bool:
    return clip.info["kind"] != "temporal"


def extract(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """Return opening, yaw and pitch of each frame, [T, 3]."""
    return instruments.probe.read(video.float() / 255)


def score(instruments, readings: np.ndarray, target: Clip) -> dict[str, float]:
    measured, wanted = trimmed(readings, true_readings(target))
    off = np.abs(measured - wanted)
    return {
        "error": float(off[:, 1:].mean()),
        "yaw_error": float(off[:, 1].mean()),
        "yaw_correlation": correlate(measured[:, 1], wanted[:, 1]),
    }


def negative(clip: Clip, other: Clip) -> Clip:
    """Return the clip with head and camera mirrored: the camera on the other side."""
    poses = clip.truth["world_from_cam"].copy()
    poses[:, :3, 3] = poses[:, :3, 3] @ MIRROR
    turned = MIRROR @ clip.truth["head_rotation"] @ MIRROR
    return replace(clip, truth={**clip.truth, "world_from_cam": poses, "head_rotation": turned})


def curve(instruments, readings: np.ndarray, target: Clip) -> Curve:
    return curve_over_time("yaw, degrees", target, readings[:, 1], true_readings(target)[:, 1])
