"""From which side a photo shows its face, out of dlib's five points, by no learning that would know renders only."""

from __future__ import annotations

import numpy as np

from ..types import Identity
from .faces import Face, face_at, resized

# Corners of the eyes, outer and inner, and the base of the nose, as `Face.points` has them: right, up and towards the viewer.
# Mean head of the synthetic world (ICT FaceKit, MIT), in its units; the nose where dlib sees it.
HEAD = np.array(
    [
        (-0.0985, 0.016, 0.165),
        (-0.0392, 0.015, 0.175),
        (0.0392, 0.015, 0.175),
        (0.0985, 0.016, 0.165),
        (0.0, -0.09, 0.22),
    ]
)
LOOKED_AT = 256  # pixels of a face: on a smaller one the points' rounding costs degrees
WIDEST = 60.0  # degrees; the points say little of faces seen further from the side
SURE = 12.0  # degrees; less may be the points' own error, and faces are mostly photographed from the front
SIDEWAYS = 25.0  # degrees; well beyond what a face from the front may be taken for


def portrait_yaw(image: np.ndarray, face: Face) -> float:
    """From how far to its left a face is seen, degrees in -60..60: the yaw of a camera about a head that looks straight
    ahead (`camera.poses`); 0 where it could be that.

    image: uint8 [H, W, 3] RGB; face: one of it, of dlib's points. Of rendered faces from the side it is 8 off in the mean
    (docs/decisions/0004).
    """
    x0, y0, x1, y1 = np.round(face.box).astype(int)
    margin = (x1 - x0) // 2
    left, top = max(0, x0 - margin), max(0, y0 - margin)
    around = image[top : y1 + margin, left : x1 + margin]
    scale = max(1.0, LOOKED_AT / face.size)
    large, box = resized(around, scale), (face.box - [left, top, left, top]) * scale
    # In the mirror as well, so that no side is favoured.
    width = large.shape[1]
    there = face_at(large[:, ::-1], [width - box[2], box[1], width - box[0], box[3]])
    yaw = (yaw_of_points(face_at(large, box).points) - yaw_of_points(there.points)) / 2
    return float(np.clip(yaw, -WIDEST, WIDEST)) if abs(yaw) >= SURE else 0.0


def portrait_warnings(identity: Identity) -> list[str]:
    """What is hard about a portrait or the photos it was made from, a sentence each"""
    if abs(identity.yaw) < SIDEWAYS:
        return [*identity.warnings]
    return [
        *identity.warnings,
        f"The portrait seems to be taken from about {abs(identity.yaw):.0f} degrees to the side; "
        "one that looks into the camera does better.",
    ]


def yaw_of_points(points: np.ndarray) -> float:
    """points: float [5, 2], as `Face.points` -> degrees.

    The two rows of a scaled rotation that brings HEAD nearest to the points (orthography and scaling: DeMenthon and Davis
    1995) span the picture; what is perpendicular to both points to the camera.
    """
    offsets = (points - points.mean(axis=0)) * [1, -1]
    right, up = np.linalg.lstsq(HEAD - HEAD.mean(axis=0), offsets, rcond=None)[0].T
    towards = np.cross(right / np.linalg.norm(right), up / np.linalg.norm(up))
    return float(np.degrees(np.arctan2(towards[0], towards[2])))
