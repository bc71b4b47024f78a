"""The projection of points by a camera of `camera/poses.py`."""

from __future__ import annotations

import numpy as np


def project(points: np.ndarray, world_from_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """Project points [K, 3] of the world to the image, [K, 2] in image sides, x right, y down."""
    rotation, centre = world_from_cam[:3, :3], world_from_cam[:3, 3]
    rays = (points - centre) @ rotation  # the inverse rotation, from the right
    pixels = rays @ intrinsics.T
    return pixels[:, :2] / pixels[:, 2:]
