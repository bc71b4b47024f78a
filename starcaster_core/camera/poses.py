"""Camera poses around a head: from angles to matrices and back.

World: x to the right of a frontal picture, y up, z from the face to its viewer, the head at the origin (EG3D). Cameras
have OpenCV axes: x right, y down, z forward. Positive yaw moves the camera to the subject's left (+x), positive pitch
up; angles are in degrees.
"""

from __future__ import annotations

import numpy as np

from ..conventions import CAMERA_RADIUS as RADIUS
from ..conventions import FOCAL_LENGTH as FOCAL
from ..conventions import PRINCIPAL_POINT
from ..errors import CameraError

STEEPEST = 89.0  # degrees of pitch; straight above, left and right lose their meaning


def world_from_cam(yaw, pitch, radius=RADIUS) -> np.ndarray:
    """float32 [..., 4, 4]: poses that look at the origin, upright.

    yaw, pitch: degrees, any shapes that broadcast; radius: distance from the origin, > 0.
    The camera stands at radius (sin yaw cos pitch, sin pitch, cos yaw cos pitch).
    Raises CameraError for values that are not finite, pitch beyond +-89 and distances that are not positive.
    """
    yaw, pitch, radius = np.broadcast_arrays(*(np.asarray(value, np.float64) for value in (yaw, pitch, radius)))
    _check_possible(yaw, pitch, radius)
    y, p = np.radians(yaw), np.radians(pitch)
    outward = np.stack([np.sin(y) * np.cos(p), np.sin(p), np.cos(y) * np.cos(p)], -1)
    right = np.stack([np.cos(y), np.zeros_like(y), -np.sin(y)], -1)
    pose = np.zeros((*yaw.shape, 4, 4))
    pose[..., :3, 0] = right
    pose[..., :3, 1] = np.cross(-outward, right)
    pose[..., :3, 2] = -outward
    pose[..., :3, 3] = outward * radius[..., None]
    pose[..., 3, 3] = 1
    return pose.astype(np.float32)


def angles(pose: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Yaw and pitch in degrees and the radius, [...] each, of where the cameras `world_from_cam` [..., 4, 4] stand."""
    x, y, z = np.moveaxis(np.asarray(pose, np.float64)[..., :3, 3], -1, 0)
    radius = np.sqrt(x * x + y * y + z * z)
    if not (radius > 0).all():
        raise CameraError("a camera away from the head", "one in its middle, or with NaN", "Move the camera outwards.")
    return np.degrees(np.arctan2(x, z)), np.degrees(np.arcsin(np.clip(y / radius, -1, 1))), radius


def intrinsics(frames: int, focal: float = FOCAL) -> np.ndarray:
    """float32 [frames, 3, 3]: focal length and principal point in units of the picture's side (EG3D)."""
    return np.repeat(default_intrinsics(focal)[None], frames, axis=0)


def default_intrinsics(focal: float = FOCAL) -> np.ndarray:
    """Return the intrinsics of one camera, float32 [3, 3], in units of the picture's side."""
    return np.array([[focal, 0, PRINCIPAL_POINT], [0, focal, PRINCIPAL_POINT], [0, 0, 1]], np.float32)


def _check_possible(yaw: np.ndarray, pitch: np.ndarray, radius: np.ndarray) -> None:
    for name, values in (("yaw", yaw), ("pitch", pitch), ("distance", radius)):
        if not np.isfinite(values).all():
            raise CameraError(f"a finite {name} at every moment", "NaN or infinity", f"Correct the {name}.")
    if (np.abs(pitch) > STEEPEST).any():
        raise CameraError(
            f"a pitch within {-STEEPEST:g} to {STEEPEST:g} degrees",
            f"{pitch.flat[np.abs(pitch).argmax()]:g}",
            "Lower the pitch; the model is at its best within 35 degrees.",
        )
    if (radius <= 0).any():
        raise CameraError("a distance above 0", f"{radius.min():g}", "Use a distance factor of about 0.8 to 1.25.")
