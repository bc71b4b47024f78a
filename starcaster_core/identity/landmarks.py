"""A photo's face geometry: 478 points in 3D, from where the face is seen, what its mouth and lids do.

The networks are MediaPipe's (`landmarker.py`), run by torch. Coordinates are continuous pixels of the picture: the
centre of the top left pixel is (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from ..errors import InputError

# What the 52 scores are called, in order (MediaPipe, face_blendshapes_graph.cc, Apache-2.0): ARKit's, left and right
# the subject's. `_neutral` stands where ARKit has the tongue.
BLENDSHAPES = tuple(
    "_neutral browDownLeft browDownRight browInnerUp browOuterUpLeft browOuterUpRight cheekPuff cheekSquintLeft "
    "cheekSquintRight eyeBlinkLeft eyeBlinkRight eyeLookDownLeft eyeLookDownRight eyeLookInLeft eyeLookInRight "
    "eyeLookOutLeft eyeLookOutRight eyeLookUpLeft eyeLookUpRight eyeSquintLeft eyeSquintRight eyeWideLeft eyeWideRight "
    "jawForward jawLeft jawOpen jawRight mouthClose mouthDimpleLeft mouthDimpleRight mouthFrownLeft mouthFrownRight "
    "mouthFunnel mouthLeft mouthLowerDownLeft mouthLowerDownRight mouthPressLeft mouthPressRight mouthPucker "
    "mouthRight mouthRollLower mouthRollUpper mouthShrugLower mouthShrugUpper mouthSmileLeft mouthSmileRight "
    "mouthStretchLeft mouthStretchRight mouthUpperUpLeft mouthUpperUpRight noseSneerLeft noseSneerRight".split()
)
# Points by name; left and right are the subject's.
RIGHT_EYE_OUTER, RIGHT_EYE_INNER, LEFT_EYE_INNER, LEFT_EYE_OUTER = 33, 133, 362, 263
RIGHT_LIDS, LEFT_LIDS = ((160, 144), (158, 153)), ((385, 380), (387, 373))  # upper, lower
RIGHT_MOUTH_CORNER, LEFT_MOUTH_CORNER = 61, 291
UPPER_LIP_INNER, LOWER_LIP_INNER = 13, 14
RIGHT_IRIS, LEFT_IRIS = 468, 473  # centres
NOSE_TIP, CHIN = 1, 152

POINTS = 478

PRESENT = 0.5  # probability; below it there is no face
DETECTED = 0.5  # the same, of the detector
OVERLAP = 0.3  # intersection over union from which two finds are one face
PITCH_OFFSET = 5.0  # degrees, see `average_face`
MARGIN = 1.5  # side of the crop, in those of the box round the points (MediaPipe)


class Square(NamedTuple):
    """A turned square of a picture: centre float [2] and side in pixels, angle in radians, positive clockwise"""

    centre: np.ndarray
    side: float
    angle: float

    def to_picture(self, points: np.ndarray) -> np.ndarray:
        """Convert points [..., 2] in units of the square, 0..1, to the picture's pixels."""
        return self.centre + self.side * (points - 0.5) @ self.axes

    @property
    def axes(self) -> np.ndarray:
        """Return the directions of its top and of its left side in the picture, [2, 2]."""
        c, s = np.cos(self.angle), np.sin(self.angle)
        return np.array([[c, s], [-s, c]])


class Pose(NamedTuple):
    """From where a head is seen, degrees, as `camera.poses` has it: positive yaw = from the subject's left, positive
    pitch = from above. Positive roll = the head's top leans to the picture's right."""

    yaw: float
    pitch: float
    roll: float


@dataclass(frozen=True)
class FaceLandmarks:
    """A face's geometry.

    points: float32 [478, 3], x to the right, y down, z away from the camera, all in pixels of the picture; the mean of
        z is about 0. MediaPipe's numbering: 468 of the face, then 5 of the right iris, 5 of the left.
    pose: yaw, pitch and roll in degrees.
    blendshapes: float32 [52] in 0..1, named by BLENDSHAPES.
    presence: probability that this is a face, 0..1.
    """

    points: np.ndarray
    pose: Pose
    blendshapes: np.ndarray
    presence: float

    @property
    def box(self) -> np.ndarray:
        """Return x0, y0, x1, y1 round all points, from the forehead to the chin, float32 [4]."""
        return np.concatenate([self.points[:, :2].min(0), self.points[:, :2].max(0)])

    def score(self, name: str) -> float:
        """The score called `name` in BLENDSHAPES, 0..1; raises InputError for another name."""
        if name not in BLENDSHAPES:
            raise InputError("the name of a face score", repr(name), "Use one of identity.landmarks.BLENDSHAPES.")
        return float(self.blendshapes[BLENDSHAPES.index(name)])

    @property
    def mouth_opening(self) -> float:
        """Return how far the inner lips are apart, in widths of the mouth: 0 closed, about 0.5 wide open."""
        gap = np.linalg.norm(self.points[UPPER_LIP_INNER] - self.points[LOWER_LIP_INNER])
        return float(gap / np.linalg.norm(self.points[RIGHT_MOUTH_CORNER] - self.points[LEFT_MOUTH_CORNER]))

    @property
    def lid_openings(self) -> tuple[float, float]:
        """Return how far the lids of the right and the left eye are apart, in widths of the eye: 0.1 closed, 0.3
        open."""

        def opening(lids, outer, inner) -> float:
            gaps = [np.linalg.norm(self.points[upper] - self.points[lower]) for upper, lower in lids]
            return float(np.mean(gaps) / np.linalg.norm(self.points[outer] - self.points[inner]))

        return (
            opening(RIGHT_LIDS, RIGHT_EYE_OUTER, RIGHT_EYE_INNER),
            opening(LEFT_LIDS, LEFT_EYE_OUTER, LEFT_EYE_INNER),
        )


def mouth_and_eyes(points: np.ndarray) -> np.ndarray:
    """Return where the mouth's middle and the irises of the right and the left eye lie, float32 [3, 2], of landmarks
    [478, 2 or 3] in their units."""
    corners = points[RIGHT_MOUTH_CORNER, :2] + points[LEFT_MOUTH_CORNER, :2]
    return np.stack([corners / 2, points[RIGHT_IRIS, :2], points[LEFT_IRIS, :2]]).astype(np.float32)


# Finding --------------------------------------------------------------------------------------------------------------


def find_landmarks(image: np.ndarray, box: Sequence[float] | None = None) -> FaceLandmarks | None:
    """Find the geometry of a picture's face; None where there is none.

    image: uint8 [H, W, 3] RGB.
    box: x0, y0, x1, y1 round the wanted face in pixels, tight (`Face.box` or `FaceLandmarks.box`); None takes the
        largest face.
    Raises InputError for pictures and boxes of another form.
    """
    check_picture(image)
    start = first_square(image, box)
    if start is None:
        return None
    first = look(image, start)
    # Again from the square that the points themselves give: the detector's is off by some percent.
    return look(image, square_of_points(first.points)) if first else None


def follow_landmarks(
    frames: Iterable[np.ndarray], box: Sequence[float] | None = None
) -> Iterator[FaceLandmarks | None]:
    """Yield `find_landmarks` for the frames of one shot: each starts where the last one was found, in half the time.

    frames: uint8 [H, W, 3] RGB each; box: the wanted face in the first. Yields None for frames without it.
    """
    last = None
    for frame in frames:
        check_picture(frame)
        last = (look(frame, square_of_points(last.points)) if last else None) or find_landmarks(frame, box)
        box = box if last is None else last.box
        yield last


def check_picture(image: np.ndarray) -> None:
    """Raise InputError unless the picture is uint8 [H, W, 3]."""
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        got = f"{image.dtype} of shape {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise InputError("a picture, uint8 [height, width, 3]", got, "Convert it to 8-bit RGB.")


def first_square(image: np.ndarray, box: Sequence[float] | None) -> Square | None:
    """Return where to look first: round the detector's find in the picture, or near the box; None without a face."""
    height, width = image.shape[:2]
    if box is None:
        whole = Square(np.array([width, height]) / 2, float(max(height, width)), 0.0)
        found = find_faces(image, whole) or find_small_faces(image)
        return max(found, key=lambda face: face.side, default=None)
    box = np.asarray(box, np.float64)
    if box.shape != (4,) or not np.isfinite(box).all() or not (box[2:] > box[:2]).all():
        raise InputError(
            "a face box x0, y0, x1, y1 in pixels", f"{box.tolist()}", "Give four numbers, x0 < x1, y0 < y1."
        )
    middle, side = (box[:2] + box[2:]) / 2, float((box[2:] - box[:2]).max())
    near = [
        face
        for face in find_faces(image, Square(middle, 2.5 * side, 0.0))
        if (np.abs(face.centre - middle) < 0.4 * side).all()
    ]
    # The detector knows how far the head leans; without its help, straight up.
    return min(near, key=lambda f: np.linalg.norm(f.centre - middle), default=Square(middle, MARGIN * side, 0.0))


def find_faces(image: np.ndarray, where: Square) -> list[Square]:
    """Find the faces in a part of a picture: squares upright with the head, as large as the landmark network wants."""
    import torch

    from .landmarker import DETECTOR_SIDE, load_landmarker

    with torch.inference_mode():
        logits, boxes = load_landmarker().detector(cut(image, where, DETECTOR_SIDE) * 2 - 1)
    scores, boxes = logits[0].sigmoid().numpy(), boxes[0].numpy().astype(np.float64)
    sure = scores >= DETECTED
    squares = []
    for box in merged(boxes[sure], scores[sure]):
        centre, (right_eye, left_eye) = where.to_picture(box[:2]), where.to_picture(box[4:8].reshape(2, 2))
        across = left_eye - right_eye
        squares.append(
            Square(centre, MARGIN * where.side * float(box[2:4].max()), float(np.arctan2(across[1], across[0])))
        )
    return squares


def merged(boxes: np.ndarray, scores: np.ndarray) -> list[np.ndarray]:
    """Merge boxes to one a face: the score-weighted mean of those that overlap, the most certain first.

    boxes: [N, 16], as `FaceDetector` gives them; scores: [N].
    """
    order = np.argsort(-scores)
    boxes, scores, faces = boxes[order], scores[order], []
    while len(boxes):
        low, high = boxes[:, :2] - boxes[:, 2:4] / 2, boxes[:, :2] + boxes[:, 2:4] / 2
        shared = np.clip(np.minimum(high, high[0]) - np.maximum(low, low[0]), 0, None).prod(1)
        areas = boxes[:, 2:4].prod(1)
        same = shared / (areas + areas[0] - shared) > OVERLAP
        same[0] = True
        faces.append(np.average(boxes[same], axis=0, weights=scores[same]))
        boxes, scores = boxes[~same], scores[~same]
    return faces


def find_small_faces(image: np.ndarray) -> list[Square]:
    """Find faces with dlib: the network's detector misses those below about a seventh of the picture's side."""
    from ..errors import MissingDependencyError
    from .faces import detect

    try:
        faces = detect(image)
    except MissingDependencyError:
        return []
    return [Square(face.centre, 1.8 * float((face.box[2:] - face.box[:2]).max()), 0.0) for face in faces]


def look(image: np.ndarray, where: Square) -> FaceLandmarks | None:
    """Run the networks on a square; None where that is no face."""
    import torch

    from .landmarker import CROP_SIDE, load_landmarker

    networks = load_landmarker()
    with torch.inference_mode():
        points, logits = networks.landmarks(cut(image, where, CROP_SIDE))
        presence = float(logits[0].sigmoid())
        if presence < PRESENT:
            return None
        shapes = networks.shapes(points)[0].numpy()
    points = points[0].numpy().astype(np.float64) / CROP_SIDE
    points = np.column_stack([where.to_picture(points[:, :2]), points[:, 2] * where.side]).astype(np.float32)
    return FaceLandmarks(points, head_pose(points), shapes, presence)


def square_of_points(points: np.ndarray) -> Square:
    """Return the square for points [478, 3]: upright with the eyes, MARGIN times as large as what it holds."""
    across = points[LEFT_EYE_OUTER, :2] - points[RIGHT_EYE_OUTER, :2]
    upright = Square(np.zeros(2), 1.0, float(np.arctan2(across[1], across[0])))
    turned = points[:, :2].astype(np.float64) @ upright.axes.T
    low, high = turned.min(0), turned.max(0)
    return Square((low + high) / 2 @ upright.axes, MARGIN * float((high - low).max()), upright.angle)


def cut(image: np.ndarray, where: Square, side: int):
    """Cut a square out of a picture uint8 [H, W, 3]: float32 [1, 3, side, side] in 0..1, black beyond the picture."""
    import torch
    import torch.nn.functional as F
    from PIL import Image

    reach = 0.75 * where.side  # half the diagonal of the square, and a little
    low = np.clip(np.floor(where.centre - reach), 0, None).astype(int)
    high = np.clip(np.ceil(where.centre + reach), 0, None).astype(int)
    part = image[low[1] : high[1], low[0] : high[0]]
    if part.size == 0:
        return torch.zeros(1, 3, side, side)
    shrink = max(1, int(where.side / side))  # without it small details would flicker
    if shrink > 1:
        part = np.asarray(Image.fromarray(part).reduce(shrink))
    steps = (np.arange(side) + 0.5) / side
    places = where.to_picture(np.stack(np.meshgrid(steps, steps), -1)) - low
    grid = places / shrink * 2 / [part.shape[1], part.shape[0]] - 1
    pixels = torch.from_numpy(np.array(part)).permute(2, 0, 1)[None].float() / 255
    grid = torch.from_numpy(grid).float()[None]
    return F.grid_sample(pixels, grid, align_corners=False).contiguous(memory_format=torch.channels_last)


# Pose -----------------------------------------------------------------------------------------------------------------


class Fit(NamedTuple):
    """How the average face lies in the picture: points = scale * face @ rotation.T + shift.

    rotation: float64 [3, 3], the head's axes (x to its left, y up, z forwards) to the camera's (x right, y down, z
    away);
    scale: pixels a centimetre; shift: float64 [3] in pixels.
    """

    rotation: np.ndarray
    scale: float
    shift: np.ndarray


@lru_cache(maxsize=1)
def average_face() -> tuple[np.ndarray, np.ndarray]:
    """Return a frontal face, float64 [468, 3] in centimetres, and each point's weight in a fit, [468].

    MediaPipe's canonical face, turned down by PITCH_OFFSET: of 88 rendered people, 576 views within 40 degrees of yaw
    and 25 of pitch, the pitch came out 4.9 (standard error 0.4) too high without; of 189 portraits of members of
    Congress, photographed at eye level, it was 5.3 in the mean. The yaw was right within 0.1.
    """
    from .landmarker import load_landmarker

    networks = load_landmarker()
    c, s = np.cos(np.radians(PITCH_OFFSET)), np.sin(np.radians(PITCH_OFFSET))
    down = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    return networks.face.double().numpy() @ down.T, networks.face_weights.double().numpy()


def fit_face(points: np.ndarray) -> Fit:
    """Fit the similarity that brings the average face nearest to points [478 or 468, 3], weighted least squares.

    Umeyama 1991, "Least-squares estimation of transformation parameters between two point patterns".
    """
    face, weights = average_face()
    points = np.asarray(points, np.float64)[: len(face)]
    if points.shape != face.shape or not np.isfinite(points).all():
        raise InputError("478 points of a face with x, y and z", f"shape {points.shape}", "Use `find_landmarks`.")
    weights = weights / weights.sum()
    a, b = face - weights @ face, points - weights @ points
    left, sizes, right = np.linalg.svd((b * weights[:, None]).T @ a)
    signs = np.array([1, 1, np.sign(np.linalg.det(left @ right))])
    rotation = (left * signs) @ right
    scale = float((sizes * signs).sum() / (weights @ (a**2).sum(1)))
    return Fit(rotation, scale, weights @ points - scale * rotation @ (weights @ face))


def head_pose(points: np.ndarray) -> Pose:
    """Return from where the head of points [478, 3] is seen, degrees.

    On 240 renders of 40 other people than PITCH_OFFSET comes from, within 40 degrees of yaw and 25 of pitch, the yaw is
    1.5 off in the mean, the pitch 3.4: people's profiles lean by 4 (standard deviation), and the fit cannot know how
    much of it is the pose. For one person both vary by 1.4 about their mean. From 45 to 65 degrees the yaw comes out
    about 3 too small; at 75 one face in three is found.
    """
    rotation = fit_face(points).rotation
    x, y, z = -rotation[2]  # where the camera stands, seen from the head
    up = rotation[:, 1]
    return Pose(
        float(np.degrees(np.arctan2(x, z))),
        float(np.degrees(np.arcsin(np.clip(y, -1, 1)))),
        float(np.degrees(np.arctan2(up[0], -up[1]))),
    )


# From ComfyUI ---------------------------------------------------------------------------------------------------------


def core_landmarks(found: dict, frame: int = 0, box: Sequence[float] | None = None) -> FaceLandmarks | None:
    """Read one face's geometry from ComfyUI's own Detect Face Landmarks node (type FACE_LANDMARKS).

    found: "frames", a list of faces for each picture; of a face, "landmarks_xy" [478, 2] in pixels of the picture,
        "landmarks_3d" [478, 3] in another scale, "blendshapes" by name, "presence" as a logit.
    frame: which picture. box: x0, y0, x1, y1 of the wanted face; None takes the largest.
    Returns None where that picture has no face. Raises InputError for anything else than FACE_LANDMARKS, and for faces
    of another picture: none whose middle lies in the box.
    """
    try:
        faces = [_core_face(face) for face in found["frames"][frame]]
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise InputError(
            f"FACE_LANDMARKS with a picture {frame} and 478 points a face",
            f"{type(found).__name__} ({type(error).__name__}: {error})",
            "Connect Detect Face Landmarks (MediaPipe), given the same picture.",
        ) from None
    if box is not None:

        def middle(of: np.ndarray) -> np.ndarray:
            return of.reshape(2, 2).mean(0)

        low, high = (wanted := np.asarray(box, np.float64)).reshape(2, 2)
        there = [face for face in faces if ((low < middle(face.box)) & (middle(face.box) < high)).all()]
        if faces and not there:
            raise InputError(
                "FACE_LANDMARKS of the face in the photo",
                f"{len(faces)} faces elsewhere",
                "Give Detect Face Landmarks (MediaPipe) the same picture, or disconnect it.",
            )
        return min(there, key=lambda face: np.linalg.norm(middle(face.box) - middle(wanted)), default=None)
    return max(faces, key=lambda f: (f.box[2:] - f.box[:2]).max(), default=None)


def _core_face(face: dict) -> FaceLandmarks:
    flat, deep = (np.asarray(face[key], np.float64) for key in ("landmarks_xy", "landmarks_3d"))
    if flat.shape != (POINTS, 2) or deep.shape != (POINTS, 3):
        raise ValueError(f"points of shape {flat.shape} and {deep.shape}")
    spread = [np.sqrt(((points - points.mean(0)) ** 2).sum()) for points in (flat, deep[:, :2])]
    points = np.column_stack([flat, deep[:, 2] * spread[0] / spread[1]]).astype(np.float32)
    shapes = np.array([face["blendshapes"].get(name, 0.0) for name in BLENDSHAPES], np.float32)
    presence = float(1 / (1 + np.exp(-np.clip(face["presence"], -50, 50))))
    return FaceLandmarks(points, head_pose(points), shapes, presence)
