"""Ready-made camera movements, as smooth functions of time that begin at the start pose."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..conventions import smoothstep
from ..errors import CameraError
from ..types import DEFAULT_FPS, CameraPath
from .path import frame_times, make_path


@dataclass(frozen=True)
class CameraMove:
    """A preset and how far it goes.

    yaw, pitch: degrees to each side (orbit, sway, oscillate), or how far the arc turns in all.
    distance: the factor of the distance that the dolly reaches; below 1 it comes closer. Other presets keep theirs.
    period: seconds of one round, or of the arc's sweep; 0 stands for the length of the clip.
    start_yaw, start_pitch, start_distance: where the camera is in the first frame.
    """

    preset: str = "orbit"
    yaw: float = 25.0
    pitch: float = 8.0
    distance: float = 0.85
    period: float = 4.0
    start_yaw: float = 0.0
    start_pitch: float = 0.0
    start_distance: float = 1.0


def preset_path(move: CameraMove, frames: int, fps: float = DEFAULT_FPS) -> CameraPath:
    """The movement sampled at each of `frames` frames. CameraError for an unknown preset or an impossible pose."""
    if move.preset not in PRESETS:
        raise CameraError(f"one of {', '.join(PRESETS)} as the camera preset", repr(move.preset), "Pick one of them.")
    if not (np.isfinite(move.period) and move.period >= 0):
        raise CameraError("a period of 0 or more seconds", f"{move.period:g}", "Use 0 for the length of the clip.")
    seconds = frame_times(frames, fps)
    rounds = seconds / (move.period or frames / float(fps))
    yaw, pitch, dolly = _SHAPES[move.preset](rounds)
    with np.errstate(all="ignore"):  # infinite values become NaN, which `make_path` refuses
        return make_path(
            move.start_yaw + move.yaw * yaw,
            move.start_pitch + move.pitch * pitch,
            move.start_distance * (1 + (move.distance - 1) * dolly),
            fps,
        )


# Each shape takes time in periods, [T], and gives three [T]: how much of the yaw, the pitch and the dolly to apply.
# All are 0 at time 0.


def _static(t):
    return 0 * t, 0 * t, 0 * t


def _orbit(t):
    """An ellipse around the start, spiralled into during the first half of the round."""
    grow = smoothstep(2 * t)
    return grow * np.sin(2 * np.pi * t), grow * np.cos(2 * np.pi * t), 0 * t


def _arc(t):
    """Once to the side and up, gently off and gently to rest, then still."""
    return smoothstep(t), smoothstep(t), 0 * t


def _dolly(t):
    """Closer (or farther) and back, once a period."""
    return 0 * t, 0 * t, (1 - np.cos(2 * np.pi * t)) / 2


def _sway(t):
    """A camera held by hand: incommensurate sines, so that no two rounds are alike, within the amplitudes."""
    golden = (1 + 5**0.5) / 2
    phase = 2 * np.pi * t
    yaw = 0.65 * np.sin(phase) + 0.35 * np.sin(golden * phase)
    pitch = 0.6 * np.sin(phase * golden / 2) - 0.4 * np.sin(phase * 2**0.5)
    ease = smoothstep(2 * t)
    return ease * yaw, ease * pitch, 0 * t


def _oscillate(t):
    """To one side, to the other and back along a line, once a period."""
    swing = np.sin(2 * np.pi * t) * smoothstep(2 * t)  # eases off the start
    return swing, swing, 0 * t


_SHAPES = {
    "static": _static,
    "orbit": _orbit,
    "arc": _arc,
    "dolly": _dolly,
    "sway": _sway,
    "oscillate": _oscillate,
}
PRESETS = tuple(_SHAPES)
