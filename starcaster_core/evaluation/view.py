"""Is the face seen from where it was to be seen? Degrees, as the probe reads them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from .family import Curve, Figure, over_time, together
from .probe import true_readings
from .statistics import correlate

NAME, TITLE = "view", "View"
FIGURES = {
    "error": Figure("degrees off", "°", "low", "between seen and requested view, mean of yaw and pitch"),
    "yaw_error": Figure("yaw off", "°", "low", "the same, sideways alone"),
    "yaw_correlation": Figure("yaw, correlation", "", "high", "of seen and requested yaw, over a clip"),
}
MIRROR = np.diag([-1.0, 1.0, 1.0])


def ready(instruments) -> bool:
    return instruments.probe is not None


def applies(clip: Clip) -> bool:
    return clip.info["kind"] != "temporal"


def read(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """[T, 3]: opening, yaw, pitch"""
    return instruments.probe.read(video.float() / 255)


def judge(instruments, seen: np.ndarray, asked: Clip) -> dict[str, float]:
    seen, wanted = together(seen, true_readings(asked))
    off = np.abs(seen - wanted)
    return {
        "error": float(off[:, 1:].mean()),
        "yaw_error": float(off[:, 1].mean()),
        "yaw_correlation": correlate(seen[:, 1], wanted[:, 1]),
    }


def wrong(clip: Clip, other: Clip) -> Clip:
    """The camera on the other side: the head and its camera mirrored"""
    poses = clip.truth["world_from_cam"].copy()
    poses[:, :3, 3] = poses[:, :3, 3] @ MIRROR
    turned = MIRROR @ clip.truth["head_rotation"] @ MIRROR
    return replace(clip, truth={**clip.truth, "world_from_cam": poses, "head_rotation": turned})


def curves(instruments, seen: np.ndarray, asked: Clip) -> Curve:
    return over_time("yaw, degrees", asked, seen[:, 1], true_readings(asked)[:, 1])
