"""Is it still that person? Distances of dlib embeddings, and who of the gallery comes nearest."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from .family import Figure
from .probe import true_readings
from .statistics import Share

NAME, TITLE = "identity", "Identity (dlib)"
FIGURES = {
    "distance": Figure("distance", "", "low", "to the embedding asked for; under about 0.6 is the same person to dlib"),
    "rank_1": Figure("nearest of all", "%", "high", "frames nearer to this person than to anybody else at hand", 100),
    "found": Figure("faces found", "%", "high", "looked-at frames in which dlib sees a face at all", 100),
}
FRAMES_A_CLIP = 3  # dlib takes a tenth of a second each
FRONTAL = 35.0  # degrees of yaw within which its detector was made to work
LOOKED_AT = 256  # pixels that small frames are enlarged to: its smallest face is 80
_known: dict[bytes, np.ndarray | None] = {}  # digest of a picture -> its embedding


class Faces(NamedTuple):
    """embeddings [found, 128] of so many frames `looked` at"""

    embeddings: np.ndarray
    looked: int


def ready(instruments) -> bool:
    return instruments.faces


def applies(clip: Clip) -> bool:
    return True


def frontal_frames(clip: Clip) -> np.ndarray:
    """FRAMES_A_CLIP frames spread over those seen from the front; the most frontal one where none is."""
    yaw = np.abs(true_readings(clip)[:, 1])
    usable = np.flatnonzero(yaw < FRONTAL)
    if not len(usable):
        return yaw.argmin(keepdims=True)
    return np.unique(usable[np.linspace(0, len(usable) - 1, FRAMES_A_CLIP).round().astype(int)])


def read(instruments, video: Tensor, clip: Clip) -> Faces:
    chosen = frontal_frames(clip)
    found = [embed_picture(picture) for picture in video[chosen].numpy()]
    vectors = [vector for vector in found if vector is not None]
    return Faces(np.array(vectors, np.float32).reshape(-1, 128), len(chosen))


def embed_picture(picture: np.ndarray) -> np.ndarray | None:
    """uint8 [S, S, 3] -> dlib's embedding [128] of its largest face, None where it finds none; remembered, since
    several families look at the same frames and a still portrait is the same frame all along."""
    key = blake2b(np.ascontiguousarray(picture), digest_size=16).digest()
    if key not in _known:
        _known[key] = look_at(picture)
    return _known[key]


def look_at(picture: np.ndarray) -> np.ndarray | None:
    from ..errors import FaceError
    from ..identity import detect, embed, select_face
    from ..identity.pictures import enlarged

    picture = enlarged(picture, max(1, round(LOOKED_AT / len(picture))))
    try:
        return embed(picture, select_face(detect(picture), picture, "largest"))
    except FaceError:
        return None


def judge(instruments, faces: Faces, asked: Clip) -> dict[str, float | Share]:
    found = len(faces.embeddings)
    values: dict[str, float | Share] = {"found": Share(found, faces.looked)}
    if found:
        values["distance"] = float(np.linalg.norm(faces.embeddings - asked.truth["embedding"], axis=1).mean())
        people, hits = instruments.gallery, nearest(faces.embeddings, instruments.gallery) == asked.info["identity"]
        if len(people) > 1:
            values["rank_1"] = Share(float(hits.sum()), found)
    return values


def nearest(embeddings: np.ndarray, gallery: dict[int, np.ndarray]) -> np.ndarray:
    """Who of the gallery each embedding [N, 128] is nearest to, [N]"""
    people = np.array(list(gallery))
    apart = np.linalg.norm(embeddings[:, None] - np.stack(list(gallery.values())), axis=2)
    return people[apart.argmin(axis=1)]


def wrong(clip: Clip, other: Clip) -> Clip | None:
    """Another person; None where the two clips show the same one"""
    if clip.info["identity"] == other.info["identity"]:
        return None
    return replace(
        clip,
        info={**clip.info, "identity": other.info["identity"]},
        truth={**clip.truth, "embedding": other.truth["embedding"]},
    )


def gallery_of(clips) -> dict[int, np.ndarray]:
    """identity -> its embedding [128], of the clips' people"""
    return {clip.info["identity"]: clip.truth["embedding"] for clip in clips}
