"""What travels between the streams, the model and the sampler. Plain records, no behaviour beyond shape checks.

Frames are counted at the video rate `fps`; seconds appear only at the user's edge.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # the command line's help reads this file, and torch takes a second
    from torch import Tensor

from .conventions import FPS as DEFAULT_FPS


@dataclass(frozen=True)
class Identity:
    """Who is to be shown.

    embedding: float32 [E], as the face recogniser gives it (dlib: E = 128, not normalised; ArcFace: E = 512).
    portrait: uint8 [S, S, 3] RGB, the FFHQ-aligned crop that becomes the reference frame; None when only the
        embedding is known (identity-only mode).
    backend: the recogniser that made the embedding, "dlib" or "arcface"; a model accepts only its own.
    yaw, pitch: from how far to the person's left and from how far above the portrait was taken, degrees; 0 from the
        front or where it is not known.
    regions: float32 [3, 2], where mouth, right and left eye lie in the portrait, x and y in 0..1; None where not known.
    photo: uint8 [H, W, 3] RGB, the whole picture the portrait was cut from; None where it was not kept.
    crop: float64 [3, 3], the similarity from the photo's pixels (x, y, 1) to those of the portrait.
    warnings: sentences for the user, for instance that two of the photos show different people.
    """

    embedding: np.ndarray
    portrait: np.ndarray | None = None
    backend: str = "dlib"
    yaw: float = 0.0
    pitch: float = 0.0
    regions: np.ndarray | None = None
    photo: np.ndarray | None = None
    crop: np.ndarray | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Speech:
    """What is said, one row of features a video frame.

    features: float32 [T, F]; row t describes the sound heard while frame t is shown, [t, t + 1) / fps seconds.
    seconds: length of the sound the features were made from; T = max(1, round(seconds * fps)).
    encoder: name of the encoder that made the features; a model accepts only its own.
    loudness: float [T], about 0..1 (`speech.prosody.frame_loudness`), which heads nod to; None where it is not known.
    """

    features: Tensor
    seconds: float
    encoder: str
    fps: float = DEFAULT_FPS
    loudness: np.ndarray | None = None

    @property
    def frames(self) -> int:
        return self.features.shape[0]


@dataclass(frozen=True)
class CameraPath:
    """Where the camera stands, one pose a video frame.

    world_from_cam: float32 [T, 4, 4], row-major, OpenCV axes (x right, y down, z forward), head at the origin,
        EG3D/FFHQ scale (radius 2.7).
    intrinsics: float32 [T, 3, 3], normalised by the image side (focal 4.2647, principal point 0.5 by default).
    warnings: sentences for the user, for instance that the path leaves the trained range.
    """

    world_from_cam: np.ndarray
    intrinsics: np.ndarray
    fps: float = DEFAULT_FPS
    warnings: tuple[str, ...] = field(default=())

    @property
    def frames(self) -> int:
        return self.world_from_cam.shape[0]

    def vectors(self) -> np.ndarray:
        """float32 [T, 25]: the 16 numbers of `world_from_cam`, then the 9 of `intrinsics`, both row-major (EG3D)."""
        poses = self.world_from_cam.reshape(-1, 16)
        return np.concatenate([poses, self.intrinsics.reshape(-1, 9)], axis=1).astype(np.float32)
