"""Frames as the encoder wants them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..errors import InputError


def as_frames(frames) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3] one by one, with even H and W.

    frames: one frame [H, W, 3] or several [T, H, W, 3], array or tensor, uint8 or float 0..1 (clipped; rounded to the
    nearest level). An odd side gains one row or column, a copy of its last: half the colour samples of yuv420p need
    even sides. Raises InputError for other shapes and for NaN.
    """
    if hasattr(frames, "detach"):
        frames = frames.detach().cpu()
        frames = (frames.float() if frames.is_floating_point() else frames).numpy()
    frames = np.asarray(frames)
    if frames.ndim == 3:
        frames = frames[None]
    if frames.ndim != 4 or frames.shape[-1] != 3 or 0 in frames.shape[1:]:
        raise InputError(
            "frames of shape [frames, height, width, 3]", f"{frames.shape}", "Give RGB frames, channels last."
        )
    for frame in frames:
        yield _even(_levels(frame))


def _levels(frame: np.ndarray) -> np.ndarray:
    if frame.dtype == np.uint8:
        return frame
    if not np.issubdtype(frame.dtype, np.floating):
        raise InputError("frames of uint8 or of 0..1 float values", f"{frame.dtype} values", "Convert them first.")
    if not np.isfinite(frame).all():
        raise InputError(
            "frames of finite values",
            "NaN or infinite pixels",
            "The model or its decoder overflowed: use float32 precision, or lower the guidance scales.",
        )
    return np.round(np.clip(frame, 0, 1) * 255).astype(np.uint8)


def _even(frame: np.ndarray) -> np.ndarray:
    height, width = frame.shape[:2]
    if height % 2 or width % 2:
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    return np.ascontiguousarray(frame)
