"""The 128 numbers that say who somebody is, by dlib's face recogniser (CC0 weights)."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .faces import Face, load_dlib, model_file

PADDING = 0.25  # around the face in the recogniser's 150x150 view; the value it was trained with


@lru_cache(maxsize=1)
def _recogniser():
    return load_dlib().face_recognition_model_v1(model_file("dlib_face_recognition_resnet_model_v1.dat"))


def embed(image: np.ndarray, face: Face) -> np.ndarray:
    """Embed a face: float32 [128], not normalised; photos of one person lie within a Euclidean distance of about 0.6.

    image: uint8 [H, W, 3] RGB. No jitter, so the same picture always gives the same numbers.
    """
    dlib = load_dlib()
    # back to dlib's own order and pixel numbering
    points = [dlib.point(int(x), int(y)) for x, y in face.points[[3, 2, 0, 1, 4]]]
    x0, y0, x1, y1 = (round(float(value)) for value in face.box)
    shape = dlib.full_object_detection(dlib.rectangle(x0, y0, x1 - 1, y1 - 1), points)
    descriptor = _recogniser().compute_face_descriptor(np.ascontiguousarray(image), shape, 0, PADDING)
    return np.array(descriptor, np.float32)
