"""Cameras of the head world: poses from angles, and the projection of points.

World: x right of a frontal view (the subject's left), y up, z towards the frontal viewer; camera: OpenCV axes.
"""

from __future__ import annotations

import numpy as np

RADIUS = 2.7  # EG3D's scale
FOCAL = 4.2647  # in image sides


def look_at_origin(yaw: float, pitch: float, radius: float = RADIUS) -> np.ndarray:
    """world_from_cam float32 [4, 4] of a camera on the sphere that looks at the origin; degrees.

    Positive yaw moves the camera to the subject's left (+x), positive pitch up.
    """
    y, p = np.radians([yaw, pitch])
    away = np.array([np.sin(y) * np.cos(p), np.sin(p), np.cos(y) * np.cos(p)])
    right = np.array([np.cos(y), 0.0, -np.sin(y)])
    pose = np.eye(4)
    pose[:3, 0], pose[:3, 1], pose[:3, 2] = right, np.cross(-away, right), -away
    pose[:3, 3] = radius * away
    return pose.astype(np.float32)


def default_intrinsics(focal: float = FOCAL) -> np.ndarray:
    """float32 [3, 3], lengths in image sides, principal point in the middle."""
    return np.array([[focal, 0, 0.5], [0, focal, 0.5], [0, 0, 1]], np.float32)


def project(points: np.ndarray, world_from_cam: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """World points [K, 3] -> image points [K, 2] in image sides, x right, y down."""
    rotation, centre = world_from_cam[:3, :3], world_from_cam[:3, 3]
    rays = (points - centre) @ rotation  # the inverse rotation, from the right
    pixels = rays @ intrinsics.T
    return pixels[:, :2] / pixels[:, 2:]
