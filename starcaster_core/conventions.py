"""Numbers that the whole package agrees on. Axes and signs: docs/architecture.md."""

from __future__ import annotations

FPS = 25.0  # video frames a second, unless a checkpoint says otherwise
SAMPLE_RATE = 16_000  # samples a second that every speech encoder hears
CAMERA_RADIUS = 2.7  # distance from camera to head, EG3D/FFHQ scale
FOCAL_LENGTH = 4.2647  # in image sides, EG3D/FFHQ
PRINCIPAL_POINT = 0.5  # in image sides
KINDS = ("temporal", "spatial", "joint")  # of clips: voice, camera, both
SPLITS = ("train", "val", "test")


def smoothstep(x):
    """Return 3 x^2 - 2 x^3 of x clipped to 0..1, which rises smoothly from 0 to 1; x: tensor or array."""
    x = x.clip(0, 1)
    return x * x * (3 - 2 * x)
