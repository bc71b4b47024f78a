"""From angles over time to a `CameraPath`, and what the user should know about it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..errors import CameraError
from ..types import DEFAULT_FPS, CameraPath
from .poses import RADIUS, angles, intrinsics, world_from_cam

TRAINED_YAW = 70.0  # degrees either way
TRAINED_PITCH = 35.0
TRAINED_DISTANCE = (0.8, 1.25)  # times the usual radius
LARGEST_YAW = 36_000.0  # degrees either way, a hundred rounds
LARGEST_DISTANCE = 100.0
SLACK = 1e-3  # degrees, or parts of the radius: what float32 poses may lose


def make_path(yaw: np.ndarray, pitch: np.ndarray, distance: np.ndarray, fps: float = DEFAULT_FPS) -> CameraPath:
    """The path through yaw [T] and pitch [T] in degrees at distance [T] times the usual radius, one pose a frame.

    Raises CameraError for poses that cannot be, and for numbers so large that only a mistake makes them.
    """
    for name, values, most in (("yaw", yaw, LARGEST_YAW), ("distance", distance, LARGEST_DISTANCE)):
        worst = float(np.max(np.abs(values), initial=0))
        if not worst <= most:  # NaN fails this too
            raise CameraError(f"a camera's {name} of at most {most:g}", f"{worst:g}", "Choose a smaller value.")
    pose = world_from_cam(yaw, pitch, np.asarray(distance, np.float64) * RADIUS)
    path = CameraPath(pose, intrinsics(len(pose)), fps)
    return replace(path, warnings=check_range(path))


def frame_times(frames: int, fps: float) -> np.ndarray:
    """float [frames]: the moment each frame is shown, in seconds. CameraError unless there is at least one frame."""
    if frames < 1 or not np.isfinite(fps) or fps <= 0:
        raise CameraError(
            "a path of at least one frame at a positive frame rate",
            f"{frames} frames at {fps:g} a second",
            "Connect speech, or set the length.",
        )
    return np.arange(frames) / float(fps)


def check_range(path: CameraPath) -> tuple[str, ...]:
    """One sentence for the user about each way in which the path leaves what the model was trained on."""
    yaw, pitch, radius = angles(path.world_from_cam)
    near, far = TRAINED_DISTANCE
    factor = radius / RADIUS
    excess = {
        "yaw": (yaw, np.abs(yaw) - TRAINED_YAW, f"{-TRAINED_YAW:g} to {TRAINED_YAW:g} degrees"),
        "pitch": (pitch, np.abs(pitch) - TRAINED_PITCH, f"{-TRAINED_PITCH:g} to {TRAINED_PITCH:g} degrees"),
        "distance": (factor, np.maximum(near - factor, factor - far), f"{near:g} to {far:g} times the usual distance"),
    }
    warnings = []
    for name, (values, beyond, trained) in excess.items():
        worst = int(beyond.argmax())
        if beyond[worst] > SLACK:
            warnings.append(
                f"The camera's {name} reaches {values[worst]:.3g} at {worst / float(path.fps):.2f} s, outside "
                f"{trained}, "
                "which is what the model was trained on: expect a softer or distorted picture there."
            )
    return tuple(warnings)
