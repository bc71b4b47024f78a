"""Which faces a model understands: dlib's for `mini`, ArcFace's for `sd15`. Each finds, places and embeds faces its
way."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from .align import three_points
from .embed import embed
from .faces import Face, detect, face_at


class Dlib:
    name = "dlib"
    detect = staticmethod(detect)
    face_at = staticmethod(face_at)
    embed = staticmethod(embed)

    def eyes_and_mouth(self, face: Face) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image-left eye, image-right eye and (estimated) middle of the mouth, [2] each, for the FFHQ crop."""
        return three_points(np.asarray(face.points, np.float64))


def load_recogniser(backend: str, folders: Sequence[str | Path] = ()):
    """Load a recogniser.

    backend: a model's `identity_backend`. folders: where the files of "arcface" may lie; "dlib" brings its own.
    Raises InputError for another backend, CheckpointError where a file is missing.
    """
    if backend == "dlib":
        return Dlib()
    if backend == "arcface":
        from .arcface import ArcFace

        return ArcFace(folders)
    raise InputError("an identity backend, dlib or arcface", repr(backend), "Update the node pack.")
