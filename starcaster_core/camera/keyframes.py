"""Camera paths drawn by hand: keyframes as JSON, with easing between them."""

from __future__ import annotations

import codecs
import json
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import CameraError
from ..types import DEFAULT_FPS, CameraPath
from .path import frame_times, make_path
from .presets import smoothstep

EXAMPLE = '[{"time": 0, "yaw": 0, "pitch": 0, "distance": 1}, {"time": 2, "yaw": 30, "pitch": 5, "distance": 0.9}]'
LARGEST_FILE = 10_000_000  # bytes, some 100,000 keyframes
NUMBERS = ("time", "yaw", "pitch", "distance")

# How the way from one keyframe to the next is spread over the time between them: 0..1 -> 0..1.
EASINGS = {
    "linear": lambda x: x,
    "smooth": smoothstep,
    "ease_in": lambda x: x * x,
    "ease_out": lambda x: x * (2 - x),
    "hold": lambda x: 0 * x,
}


@dataclass(frozen=True)
class Keyframe:
    """Where the camera is at one moment.

    time: seconds; yaw, pitch: degrees; distance: times the usual radius; easing: how it leaves for the next keyframe.
    """

    time: float
    yaw: float
    pitch: float
    distance: float
    easing: str = "smooth"


def read_keyframes(path: str | os.PathLike) -> str:
    """Read a keyframe file: UTF-8 with or without a byte order mark, or UTF-16 with one. Raises CameraError for
    anything else, and for files that are too large."""
    with open(path, "rb") as file:
        content = file.read(LARGEST_FILE + 1)
    if len(content) > LARGEST_FILE:
        raise CameraError(
            f"a keyframe file of at most {LARGEST_FILE // 10**6} MB", "a larger one", "Use fewer of them."
        )
    utf16 = content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        return content.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        fix = "Save it as UTF-8 in your editor."
        raise CameraError("a keyframe file in UTF-8", f"{Path(path).name} in another encoding", fix) from error


def parse_keyframes(text: str) -> tuple[Keyframe, ...]:
    """Keyframes from JSON, a list of {"time": s, "yaw": deg, "pitch": deg, "distance": factor, "easing": name}.

    `easing` may be left out ("smooth"); the others must be there. Raises CameraError for text that is not such a list,
    an empty list, missing, unknown or non-finite values, negative times, and times that repeat or go back.
    """
    try:
        entries = json.loads(text)
    except (ValueError, TypeError, RecursionError) as error:
        raise CameraError(
            "keyframes as a JSON list", f"text that is not JSON ({error})", f"Write {EXAMPLE}."
        ) from error
    if not isinstance(entries, list):
        raise CameraError("keyframes as a JSON list", f"a JSON {type(entries).__name__}", f"Write {EXAMPLE}.")
    if not entries:
        raise CameraError("at least one keyframe", "an empty list", f"Add a keyframe, as in {EXAMPLE}.")
    keys = tuple(_keyframe(entry, number) for number, entry in enumerate(entries, 1))
    for number, (before, after) in enumerate(zip(keys, keys[1:]), 2):
        if after.time <= before.time:
            order = "the same time as" if after.time == before.time else "earlier than"
            raise CameraError(
                "keyframes in the order of their times, each at its own",
                f"keyframe {number} at {after.time:g} s, {order} keyframe {number - 1} at {before.time:g} s",
                "Move or delete one of the two.",
            )
    return keys


def keyframe_path(text: str, frames: int, fps: float = DEFAULT_FPS) -> CameraPath:
    """The path through JSON keyframes, one pose a frame; the first and last pose are held before and after them."""
    keys = parse_keyframes(text)
    times = frame_times(frames, fps)
    starts = np.array([key.time for key in keys])
    poses = np.array([(key.yaw, key.pitch, key.distance) for key in keys])
    segment = np.clip(np.searchsorted(starts, times, side="right") - 1, 0, len(keys) - 1)
    following = np.minimum(segment + 1, len(keys) - 1)
    spans = np.maximum(starts[following] - starts[segment], 1e-12)
    with np.errstate(over="ignore"):  # a keyframe nearly forever ago: infinity is clipped to 1
        part = np.clip((times - starts[segment]) / spans, 0, 1)
    eased = np.array([EASINGS[keys[s].easing](p) for s, p in zip(segment, part)])[:, None]
    yaw, pitch, distance = (poses[segment] + eased * (poses[following] - poses[segment])).T
    return make_path(yaw, pitch, distance, fps)


def _keyframe(entry: object, number: int) -> Keyframe:
    if not isinstance(entry, dict):
        raise CameraError(f"keyframe {number} as a JSON object", repr(entry)[:80], f"Write it as in {EXAMPLE}.")
    unknown = sorted(set(entry) - {*NUMBERS, "easing"})
    if unknown:
        raise CameraError(
            f"keyframe {number} with {', '.join(NUMBERS)} and easing only", ", ".join(unknown), "Check the spelling."
        )
    values = {name: _number(entry, name, number) for name in NUMBERS}
    if values["time"] < 0:
        raise CameraError(
            f"keyframe {number} at 0 s or later", f"{values['time']:g} s", "Times start at the clip's start."
        )
    easing = entry.get("easing", "smooth")
    if not isinstance(easing, str) or easing not in EASINGS:
        raise CameraError(
            f"one of {', '.join(EASINGS)} as the easing of keyframe {number}", f"{easing!r}", "Pick one of them."
        )
    return Keyframe(**values, easing=easing)


def _number(entry: dict, name: str, number: int) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not _is_finite(value):
        got = "nothing" if name not in entry else repr(value)[:40]
        raise CameraError(f"a number for {name} in keyframe {number}", got, f"Write it as in {EXAMPLE}.")
    return float(value)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond every float
        return False
