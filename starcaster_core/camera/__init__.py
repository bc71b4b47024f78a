"""Where the camera stands, frame by frame: presets, keyframes, poses, a plot."""

from .keyframes import EASINGS, Keyframe, keyframe_path, parse_keyframes, read_keyframes
from .path import TRAINED_DISTANCE, TRAINED_PITCH, TRAINED_YAW, check_range, make_path
from .plot import plot_path
from .poses import FOCAL, RADIUS, angles, intrinsics, world_from_cam
from .presets import PRESETS, CameraMove, preset_path

__all__ = [
    "EASINGS",
    "FOCAL",
    "PRESETS",
    "RADIUS",
    "TRAINED_DISTANCE",
    "TRAINED_PITCH",
    "TRAINED_YAW",
    "CameraMove",
    "Keyframe",
    "angles",
    "check_range",
    "intrinsics",
    "keyframe_path",
    "make_path",
    "parse_keyframes",
    "plot_path",
    "preset_path",
    "read_keyframes",
    "world_from_cam",
]
