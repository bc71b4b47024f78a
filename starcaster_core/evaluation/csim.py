"""CSIM: cosine of ArcFace embeddings of a frame and of the portrait, with an ArcFace of the user's (`public.py`).

The five points ArcFace is aligned by are here three, both eyes and the middle of the mouth, as dlib's landmarks give
them: values may differ a little from those of a pipeline with a detector of its own.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from ..identity.align import ARCFACE_POINTS, ARCFACE_SIDE, similarity, three_points
from .identity import MIN_SIDE, frontal_frames
from .metric import Figure
from .videos import portrait_of

NAME, TITLE = "csim", "Identity (ArcFace)"
FIGURES = {"cosine": Figure("CSIM", "", "high", "cosine of the ArcFace embeddings of frame and portrait, -1..1")}
# Where ArcFace's training crops have the eyes and the middle of the mouth.
TEMPLATE = np.stack([*ARCFACE_POINTS[:2], ARCFACE_POINTS[3:].mean(axis=0)])


def is_available(instruments) -> bool:
    return instruments.public.arcface is not None and instruments.faces


def applies(clip: Clip) -> bool:
    return True


def extract(instruments, video: Tensor, clip: Clip) -> np.ndarray:
    """Return unit vectors [N, E] of those of the frontal frames that show a face."""
    found = [embed(instruments.public.arcface, picture) for picture in video[frontal_frames(clip)].numpy()]
    return np.array([vector for vector in found if vector is not None])


def score(instruments, vectors: np.ndarray, target: Clip) -> dict[str, float]:
    portrait = embed(instruments.public.arcface, portrait_of(target))
    if portrait is None or not len(vectors):
        return {}
    return {"cosine": float((vectors @ portrait).mean())}


def negative(clip: Clip, other: Clip) -> Clip | None:
    """Return the clip with another person's portrait; None where the two clips show the same person."""
    if clip.info["identity"] == other.info["identity"]:
        return None
    return replace(clip, frames=other.frames, truth=other.truth)


def embed(session, picture: np.ndarray) -> np.ndarray | None:
    """Embed the largest face of a picture uint8 [S, S, 3] -> unit vector [E]; None where no face is found."""
    from ..errors import FaceError
    from ..identity import detect, select_face, warp
    from ..identity.pictures import enlarged

    picture = enlarged(picture, max(1, round(MIN_SIDE / len(picture))))
    try:
        face = select_face(detect(picture), picture, "largest")
    except FaceError:
        return None
    crop = warp(picture, similarity(np.stack(three_points(face.points)), TEMPLATE), ARCFACE_SIDE)
    pixels = (crop.astype(np.float32).transpose(2, 0, 1)[None] - 127.5) / 127.5
    (vector,) = session.run(None, {session.get_inputs()[0].name: pixels})
    return vector[0] / np.linalg.norm(vector[0])
