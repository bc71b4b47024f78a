"""Lip opening and view of the frames of a synthetic clip, from the renderer's landmarks and cameras."""

from __future__ import annotations

import numpy as np

from .shards import Clip


def lip_opening(clip: Clip) -> np.ndarray:
    """Return how far the inner lips are apart down the face, float [T], fraction of the frame's side; 0 where they
    press on each other."""
    names = clip.info["landmark_names"]
    upper, lower, nose, chin = (
        clip.truth["landmarks"][:, names.index(n)] for n in ("upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin")
    )
    down = chin - nose
    apart = ((lower - upper) * down).sum(axis=1) / np.maximum(np.linalg.norm(down, axis=1), 1e-6)
    return np.maximum(apart, 0) / clip.info["size"]


def true_readings(clip: Clip) -> np.ndarray:
    """Return lip opening (fraction of the frame's side), yaw and pitch (degrees) of each frame, float32 [T, 3].

    Yaw and pitch are the camera's in the head's coordinates: a turned head and a moved camera look the same.
    """
    centre = np.einsum("tij,ti->tj", clip.truth["head_rotation"], clip.truth["world_from_cam"][:, :3, 3])
    yaw = np.degrees(np.arctan2(centre[:, 0], centre[:, 2]))
    pitch = np.degrees(np.arcsin(centre[:, 1] / np.linalg.norm(centre, axis=1)))
    return np.stack([lip_opening(clip), yaw, pitch], axis=1).astype(np.float32)
