"""Whether the person stays the same: distances of dlib embeddings, and the nearest person of the gallery."""

from __future__ import annotations

from dataclasses import replace
from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from ..data.truth import true_readings
from .metric import Figure
from .statistics import Ratio

NAME, TITLE = "identity", "Identity (dlib)"
FIGURES = {
    "distance": Figure("distance", "", "low", "to the embedding asked for; under about 0.6 is the same person to dlib"),
    "rank_1": Figure("nearest of all", "%", "high", "frames nearer to this person than to anybody else at hand", 100),
    "found": Figure("faces found", "%", "high", "looked-at frames in which dlib sees a face at all", 100),
}
FRAMES_A_CLIP = 3  # dlib takes a tenth of a second each
FRONTAL = 35.0  # degrees of yaw within which its detector was made to work
MIN_SIDE = 256  # pixels that small frames are enlarged to: dlib's smallest face is 80
_cache: dict[bytes, np.ndarray | None] = {}  # digest of a picture -> its embedding


class FaceEmbeddings(NamedTuple):
    """embeddings float32 [N, 128]: of the faces found in so many `frames`."""

    embeddings: np.ndarray
    frames: int


def is_available(instruments) -> bool:
    return instruments.faces


def applies(clip: Clip) -> bool:
    return True


def frontal_frames(clip: Clip) -> np.ndarray:
    """Return FRAMES_A_CLIP frame numbers spread over the frontal frames; the most frontal one where there is none."""
    yaw = np.abs(true_readings(clip)[:, 1])
    usable = np.flatnonzero(yaw < FRONTAL)
    if not len(usable):
        return yaw.argmin(keepdims=True)
    return np.unique(usable[np.linspace(0, len(usable) - 1, FRAMES_A_CLIP).round().astype(int)])


def extract(instruments, video: Tensor, clip: Clip) -> FaceEmbeddings:
    """Embed the largest face of each frontal frame."""
    chosen = frontal_frames(clip)
    found = [embed_picture(picture) for picture in video[chosen].numpy()]
    vectors = [vector for vector in found if vector is not None]
    return FaceEmbeddings(np.array(vectors, np.float32).reshape(-1, 128), len(chosen))


def embed_picture(picture: np.ndarray) -> np.ndarray | None:
    """Embed the largest face of a picture uint8 [S, S, 3] -> [128]; None where no face is found.

    Results are cached: several metrics embed the same frames, and a still portrait is one frame all along.
    """
    key = blake2b(np.ascontiguousarray(picture), digest_size=16).digest()
    if key not in _cache:
        _cache[key] = embed_largest_face(picture)
    return _cache[key]


def embed_largest_face(picture: np.ndarray) -> np.ndarray | None:
    """As `embed_picture`, without the cache."""
    from ..errors import FaceError
    from ..identity import detect, embed, select_face
    from ..identity.pictures import enlarged

    picture = enlarged(picture, max(1, round(MIN_SIDE / len(picture))))
    try:
        return embed(picture, select_face(detect(picture), picture, "largest"))
    except FaceError:
        return None


def score(instruments, faces: FaceEmbeddings, target: Clip) -> dict[str, float | Ratio]:
    found = len(faces.embeddings)
    values: dict[str, float | Ratio] = {"found": Ratio(found, faces.frames)}
    if found:
        values["distance"] = float(np.linalg.norm(faces.embeddings - target.truth["embedding"], axis=1).mean())
        people, hits = instruments.gallery, nearest(faces.embeddings, instruments.gallery) == target.info["identity"]
        if len(people) > 1:
            values["rank_1"] = Ratio(float(hits.sum()), found)
    return values


def nearest(embeddings: np.ndarray, gallery: dict[int, np.ndarray]) -> np.ndarray:
    """Return whom of the gallery each embedding [N, 128] is nearest to, [N]."""
    people = np.array(list(gallery))
    distances = np.linalg.norm(embeddings[:, None] - np.stack(list(gallery.values())), axis=2)
    return people[distances.argmin(axis=1)]


def negative(clip: Clip, other: Clip) -> Clip | None:
    """Return the clip with another person; None where the two clips show the same person."""
    if clip.info["identity"] == other.info["identity"]:
        return None
    return replace(
        clip,
        info={**clip.info, "identity": other.info["identity"]},
        truth={**clip.truth, "embedding": other.truth["embedding"]},
    )


def gallery_of(clips) -> dict[int, np.ndarray]:
    """Return the embeddings [128] of the clips' people, by identity."""
    return {clip.info["identity"]: clip.truth["embedding"] for clip in clips}
