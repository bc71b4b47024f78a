"""Does the mouth move with the sound? What our SyncNet says: confidence, distance, delay."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.shards import Clip
from ..models.mouth import mouth_crops
from ..speech.spectrum import FRAME_SAMPLES
from .family import Curve, Figure, floats, mouth_boxes, speaks
from .syncnet import REACH, Sync, synchrony

NAME, TITLE = "sync", "Lips and sound (SyncNet)"
FIGURES = {
    "confidence": Figure("confidence", "", "high", "median distance over all delays minus the least"),
    "distance": Figure("distance", "", "low", "of picture and sound at the best delay, 0..2"),
    "within_one_frame": Figure("within a frame", "%", "high", "clips whose delay is found at -1, 0 or 1 frames", 100),
    "offset": Figure("delay", "frames", "low", "how far from 0 the best delay lies, on average"),
}
applies = speaks


def ready(instruments) -> bool:
    return instruments.syncnet is not None


@torch.no_grad()
def read(instruments, video: Tensor, clip: Clip) -> Tensor:
    """Embeddings [W, E] of what is seen"""
    return instruments.syncnet.see(mouth_crops(floats(video), mouth_boxes(clip)))[0]


@torch.no_grad()
def compare(instruments, seen: Tensor, asked: Clip) -> Sync:
    net, frames = instruments.syncnet, len(seen) + instruments.syncnet.config.window - 1
    sound = torch.from_numpy(asked.audio.copy())[: frames * FRAME_SAMPLES]
    sound = F.pad(sound, (0, frames * FRAME_SAMPLES - len(sound)))
    return synchrony(seen, net.hear(net.spectra(sound[None]))[0])


def judge(instruments, seen: Tensor, asked: Clip) -> dict[str, float]:
    found = compare(instruments, seen, asked)
    return {
        "confidence": found.confidence,
        "distance": found.distance,
        "within_one_frame": float(abs(found.offset) <= 1),
        "offset": float(abs(found.offset)),
    }


def wrong(clip: Clip, other: Clip) -> Clip:
    """The sound of another clip"""
    return replace(clip, audio=other.audio)


def curves(instruments, seen: Tensor, asked: Clip) -> Curve:
    found = compare(instruments, seen, asked)
    return Curve("distance of picture and sound", "frames late", list(range(-REACH, REACH + 1)), list(found.distances))
