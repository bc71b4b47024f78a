"""Do the lips say what is said? Visemes as the lip reader names them, and how far the lips are apart over time.

Without a lip reader the opening is read by the probe, and no visemes are named.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..data.overview import lip_opening
from ..data.shards import Clip
from ..models.mouth import steady_squares
from ..training.mouths import REST, viseme_track
from .family import Curve, Figure, floats, mouth_boxes, over_time, speaks, together
from .statistics import Share, best_lag, correlate

NAME, TITLE = "lips", "Lips and phonemes"
FIGURES = {
    "visemes": Figure("visemes right", "%", "high", "frames of speech whose mouth shape is the phoneme's", 100),
    "visemes_all": Figure("visemes right, with rest", "%", "high", "the same, of all frames", 100),
    "correlation": Figure("opening, correlation", "", "high", "of the lip opening with the true one, over a clip"),
    "within_one_frame": Figure(
        "within a frame", "%", "high", "clips whose opening fits best at -1, 0 or 1 frames", 100
    ),
}
applies = speaks


class Lips(NamedTuple):
    """opening [T], a share of the frame's side; visemes [T], or None"""

    opening: np.ndarray
    visemes: np.ndarray | None


def ready(instruments) -> bool:
    return instruments.lipreader is not None or instruments.probe is not None


@torch.no_grad()
def read(instruments, video: Tensor, clip: Clip) -> Lips:
    if instruments.lipreader is None:
        return Lips(instruments.probe.read(video.float() / 255)[:, 0], None)
    boxes = mouth_boxes(clip)
    reading = instruments.lipreader.read(floats(video), boxes)
    squares = steady_squares(boxes)[0]
    opening = reading.opening[0] * (squares[:, 2] - squares[:, 0])
    return Lips(opening.numpy(), reading.logits[0].argmax(dim=-1).numpy())


def judge(instruments, said: Lips, asked: Clip) -> dict[str, float | Share]:
    opening, meant = together(said.opening, lip_opening(asked))
    values: dict[str, float | Share] = {
        "correlation": correlate(opening, meant),
        "within_one_frame": float(abs(best_lag(opening, meant)) <= 1),
    }
    if said.visemes is not None:
        visemes, truth = together(said.visemes, viseme_track(asked))
        right, speech = visemes == truth, truth != REST
        values["visemes"] = Share(float(right[speech].sum()), float(speech.sum()))
        values["visemes_all"] = float(right.mean())
    return values


def wrong(clip: Clip, other: Clip) -> Clip:
    """What another clip says"""
    return other


def curves(instruments, said: Lips, asked: Clip) -> Curve:
    return over_time("lip opening, % of the side", asked, 100 * said.opening, 100 * lip_opening(asked))
