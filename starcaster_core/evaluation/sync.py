"""Lips and sound: confidence, distance and delay by this project's SyncNet (`models/judges/syncnet.py`)."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.shards import Clip
from ..models.judges.syncnet import MAX_OFFSET, Sync, synchrony
from ..models.mouth import mouth_crops
from ..speech.spectrum import FRAME_SAMPLES
from .metric import Curve, Figure, has_speech, mouth_boxes, to_float

NAME, TITLE = "sync", "Lips and sound (SyncNet)"
FIGURES = {
    "confidence": Figure("confidence", "", "high", "median distance over all delays minus the least"),
    "distance": Figure("distance", "", "low", "of picture and sound at the best delay, 0..2"),
    "within_one_frame": Figure("within a frame", "%", "high", "clips whose delay is found at -1, 0 or 1 frames", 100),
    "offset": Figure("delay", "frames", "low", "how far from 0 the best delay lies, on average"),
}
applies = has_speech


def is_available(instruments) -> bool:
    return instruments.syncnet is not None


@torch.no_grad()
def extract(instruments, video: Tensor, clip: Clip) -> Tensor:
    """Return the embeddings of the mouth's windows, [W, E]."""
    return instruments.syncnet.embed_video(mouth_crops(to_float(video), mouth_boxes(clip)))[0]


@torch.no_grad()
def sync_with(instruments, video_features: Tensor, target: Clip) -> Sync:
    net, frames = instruments.syncnet, len(video_features) + instruments.syncnet.config.window - 1
    sound = torch.from_numpy(target.audio.copy())[: frames * FRAME_SAMPLES]
    sound = F.pad(sound, (0, frames * FRAME_SAMPLES - len(sound)))
    return synchrony(video_features, net.embed_audio(net.spectra(sound[None]))[0])


def score(instruments, video_features: Tensor, target: Clip) -> dict[str, float]:
    found = sync_with(instruments, video_features, target)
    return {
        "confidence": found.confidence,
        "distance": found.distance,
        "within_one_frame": float(abs(found.offset) <= 1),
        "offset": float(abs(found.offset)),
    }


def negative(clip: Clip, other: Clip) -> Clip:
    """Return the clip with the sound of another."""
    return replace(clip, audio=other.audio)


def curve(instruments, video_features: Tensor, target: Clip) -> Curve:
    found = sync_with(instruments, video_features, target)
    return Curve(
        "distance of picture and sound", "frames late", list(range(-MAX_OFFSET, MAX_OFFSET + 1)), list(found.distances)
    )
