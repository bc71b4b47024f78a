"""CSIM: cosine of ArcFace embeddings of a frame and of the portrait, with an ArcFace of the user's (`public.py`).

The five points ArcFace is aligned by are here three, both eyes and the middle of the mouth, as dlib's landmarks give
them: values may differ a little from those of a pipeline with a detector of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from .family import Figure
from .footage import portrait_of
from .identity import LOOKED_AT, frontal_frames

NAME, TITLE = "csim", "Identity (ArcFace)"
FIGURES = {"cosine": Figure("CSIM", "", "high", "cosine of the ArcFace embeddings of frame and portrait, -1..1")}
SIDE = 112
# Where ArcFace's training crops have the eyes and the middle of the mouth.
TEMPLATE = np.array([[38.2946, 51.6963], [73.5318, 51.5014], [56.1396, 92.2848]])


def ready(instruments) -> bool:
    return instruments.public.arcface is not None and instruments.faces


def applies(clip: Clip) -> bool:
    return True


def read(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """Unit vectors [found, E] of some frames"""
    found = [embed(instruments.public.arcface, picture) for picture in video[frontal_frames(clip)].numpy()]
    return np.array([vector for vector in found if vector is not None])


def judge(instruments, vectors: np.ndarray, asked: Clip) -> dict[str, float]:
    wanted = embed(instruments.public.arcface, portrait_of(asked))
    if wanted is None or not len(vectors):
        return {}
    return {"cosine": float((vectors @ wanted).mean())}


def wrong(clip: Clip, other: Clip) -> Clip | None:
    """Another person's portrait; None where the two clips show the same one"""
    if clip.info["identity"] == other.info["identity"]:
        return None
    return replace(clip, frames=other.frames, truth=other.truth)


def embed(session, picture: np.ndarray) -> np.ndarray | None:
    """uint8 [S, S, 3] -> unit vector [E], None where no face is found"""
    from ..errors import FaceError
    from ..identity import detect, select_face, warp
    from ..identity.align import three_points
    from ..identity.pictures import enlarged

    picture = enlarged(picture, max(1, round(LOOKED_AT / len(picture))))
    try:
        face = select_face(detect(picture), picture, "largest")
    except FaceError:
        return None
    crop = warp(picture, similarity(np.stack(three_points(face.points)), TEMPLATE), SIDE)
    pixels = (crop.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    (vector,) = session.run(None, {session.get_inputs()[0].name: pixels})
    return vector[0] / np.linalg.norm(vector[0])


def similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The turn, scale and shift [3, 3] that takes points [N, 2] as near as can be to others (least squares)."""
    x, y = source.T
    one, none = np.ones_like(x), np.zeros_like(x)
    rows = np.concatenate([np.stack([x, -y, one, none], axis=1), np.stack([y, x, none, one], axis=1)])
    (a, b, dx, dy), *_ = np.linalg.lstsq(rows, target.T.reshape(-1), rcond=None)
    return np.array([[a, -b, dx], [b, a, dy], [0, 0, 1]])
