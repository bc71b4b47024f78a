"""Lips: visemes as the lip reader classifies them, and the lip opening over time.

The lip reader also teaches (`training/lips.py`): `lip_landmarks.py` measures with a network that did not. Without a lip
reader the probe reads the opening, and there are no visemes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.shards import Clip
from ..data.truth import lip_opening
from ..models.mouth import steady_squares
from ..training.mouths import REST, viseme_track
from .metric import Curve, Figure, curve_over_time, has_speech, mouth_boxes, to_float, trimmed
from .statistics import Ratio, best_lag, correlate

NAME, TITLE = "lips", "Lips by the lip reader (used in training)"
FIGURES = {
    "visemes": Figure("visemes right", "%", "high", "frames of speech whose mouth shape is the phoneme's", 100),
    "visemes_all": Figure("visemes right, with rest", "%", "high", "the same, of all frames", 100),
    "correlation": Figure("opening, correlation", "", "high", "of the lip opening with the true one, over a clip"),
    "within_one_frame": Figure(
        "within a frame", "%", "high", "clips whose opening fits best at -1, 0 or 1 frames", 100
    ),
}
applies = has_speech


class Lips(NamedTuple):
    """opening: [T], fraction of the frame's side. visemes: int [T] into VISEMES, or None."""

    opening: np.ndarray
    visemes: np.ndarray | None


def is_available(instruments) -> bool:
    return instruments.lipreader is not None or instruments.probe is not None


@torch.no_grad()
def extract(instruments, video: Tensor, clip: Clip) -> Lips:
    if instruments.lipreader is None:
        return Lips(instruments.probe.read(video.float() / 255)[:, 0], None)
    boxes = mouth_boxes(clip)
    reading = instruments.lipreader.read(to_float(video), boxes)
    squares = steady_squares(boxes)[0]
    opening = reading.opening[0] * (squares[:, 2] - squares[:, 0])
    return Lips(opening.numpy(), reading.logits[0].argmax(dim=-1).numpy())


def score(instruments, lips: Lips, target: Clip) -> dict[str, float | Ratio]:
    opening, true_opening = trimmed(lips.opening, lip_opening(target))
    values: dict[str, float | Ratio] = {
        "correlation": correlate(opening, true_opening),
        "within_one_frame": float(abs(best_lag(opening, true_opening)) <= 1),
    }
    if lips.visemes is not None:
        visemes, truth = trimmed(lips.visemes, viseme_track(target))
        right, speech = visemes == truth, truth != REST
        values["visemes"] = Ratio(float(right[speech].sum()), float(speech.sum()))
        values["visemes_all"] = float(right.mean())
    return values


def negative(clip: Clip, other: Clip) -> Clip:
    """Return another clip: what it says."""
    return other


def curve(instruments, lips: Lips, target: Clip) -> Curve:
    return curve_over_time("lip opening, % of the side", target, 100 * lips.opening, 100 * lip_opening(target))
