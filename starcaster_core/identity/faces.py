"""Find faces and their five landmarks with dlib, and choose the one that is meant.

Model files come from the CC0 package `face-recognition-models`. It is located, never imported: it asks for
`pkg_resources`, which new Python environments lack. Its 68-point predictor is never used: that model was trained on
data which forbids commercial use.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import FaceError, InputError, MissingDependencyError

MINIMUM_FACE = 40  # pixels; below this the embedding says more about the blur than about the person
DETECTION_SIDE = 1024  # larger photos are searched at this size: faces worth using stay well above 80 pixels
CERTAIN = 0.25  # below this score a find counts only when nothing better is there: folds of cloth reach 0.12
CHOICES = ("single", "largest", "leftmost", "rightmost")
# dlib's frontal face detector, written by `dlib.get_frontal_face_detector().save(DETECTOR)`.
DETECTOR = Path(__file__).resolve().parent.parent / "weights" / "face-detector.svm"
INSTALL = "Install the two packages with: pip install dlib-bin face-recognition-models"


@dataclass(frozen=True)
class Face:
    """A face in a picture. Coordinates are continuous pixels: the centre of the top left pixel is (0.5, 0.5).

    box: float [4], x0, y0, x1, y1, tight from the brows (SCRFD: the forehead) to the chin.
    points: float [5, 2], x and y of: image-left eye outer and inner corner, image-right eye inner and outer corner,
        nose base (dlib); or those that `Scrfd.detect` names.
    score: the detector's confidence, above 0; 0 when the box was given by the user.
    """

    box: np.ndarray
    points: np.ndarray
    score: float

    @property
    def size(self) -> float:
        """Return the shorter side of the box in pixels."""
        return float(min(self.box[2] - self.box[0], self.box[3] - self.box[1]))

    @property
    def centre(self) -> np.ndarray:
        """Return the middle of the box, float [2]."""
        return (self.box[:2] + self.box[2:]) / 2


def load_dlib():
    """Import dlib. Raises MissingDependencyError that says how to get it."""
    try:
        import dlib
    except ImportError as error:
        raise MissingDependencyError("the Python package dlib (dlib-bin)", f"{error}", INSTALL) from error
    return dlib


def model_file(name: str) -> str:
    """Return the path of one of face-recognition-models' files."""
    spec = importlib.util.find_spec("face_recognition_models")
    if spec is None or not spec.origin:
        raise MissingDependencyError("the Python package face-recognition-models", "nothing of that name", INSTALL)
    path = Path(spec.origin).parent / "models" / name
    if not path.is_file():
        raise MissingDependencyError(f"the face model {name}", f"no such file in {path.parent}", INSTALL)
    return str(path)


@lru_cache(maxsize=1)
def _detector():
    """Return dlib's detector. It comes out of a file: unpacking the copy inside dlib takes half a second."""
    dlib = load_dlib()
    try:
        return dlib.fhog_object_detector(str(DETECTOR))
    except RuntimeError:  # a dlib that reads other files
        return dlib.get_frontal_face_detector()


@lru_cache(maxsize=1)
def _predictor():
    return load_dlib().shape_predictor(model_file("shape_predictor_5_face_landmarks.dat"))


def detect(image: np.ndarray) -> list[Face]:
    """Find every face in a picture, the most certain first.

    image: uint8 [H, W, 3] RGB. Looks at faces of 80 pixels and more; when there is none, the picture is enlarged,
    twice at most, which finds faces down to about 20 pixels.
    """
    height, width = image.shape[:2]
    shrink = min(1.0, DETECTION_SIDE / max(height, width))
    small = resized(image, shrink)
    for enlarge in (1, 2, 4):
        if enlarge > 1 and enlarge * max(small.shape[:2]) > 2 * DETECTION_SIDE:
            break
        searched = small if enlarge == 1 else resized(small, enlarge)
        boxes, scores, _ = _detector().run(searched, 0, 0.0 if enlarge == 1 else CERTAIN)
        if len(boxes):
            worst = CERTAIN if max(scores) >= CERTAIN else 0.0
            scale = np.array([width / searched.shape[1], height / searched.shape[0]] * 2)
            found = [np.array([b.left(), b.top(), b.right() + 1, b.bottom() + 1]) * scale for b in boxes]
            return [face_at(image, box, score) for box, score in zip(found, scores) if score >= worst]
    return []


def face_at(image: np.ndarray, box: Sequence[float], score: float = 0.0) -> Face:
    """Return the face inside a known box: the five points are fitted, nothing is searched.

    image: uint8 [H, W, 3] RGB; box: x0, y0, x1, y1 in pixels.
    """
    x0, y0, x1, y1 = (round(float(value)) for value in box)
    shape = _predictor()(np.ascontiguousarray(image), load_dlib().rectangle(x0, y0, x1 - 1, y1 - 1))
    # dlib numbers them: right eye outer, inner, left eye outer, inner (as seen in the picture), nose base
    points = np.array([(p.x + 0.5, p.y + 0.5) for p in shape.parts()])[[2, 3, 1, 0, 4]]
    return Face(np.asarray(box, np.float64), points, float(score))


def select_face(
    faces: list[Face],
    image: np.ndarray,
    which: str = "single",
    box: Sequence[float] | None = None,
    mask: np.ndarray | None = None,
    look_in: Callable[[np.ndarray, np.ndarray], Face] = face_at,
) -> Face:
    """Return the face that is meant. Raises FaceError that says what to do.

    faces: what `detect` found in image, uint8 [H, W, 3].
    which: "single" (there must be exactly one), "largest", "leftmost" or "rightmost".
    box: the user's own box x0, y0, x1, y1 in pixels; mask: [H, W], above 0.5 where the face is. Either of them picks
        the detected face it covers best, and stands in for the detector where that found nothing.
    look_in: finds the face of a picture in a box where the detector found none.
    """
    if which not in CHOICES:
        raise InputError(f"one of {', '.join(CHOICES)} as the choice of a face", repr(which), "Pick one of them.")
    if mask is not None and box is None:
        box = mask_box(mask, image.shape[:2])
    face = _in_box(faces, image, box, look_in) if box is not None else _by_rule(faces, which)
    if face.size < MINIMUM_FACE:
        raise FaceError(
            f"a face at least {MINIMUM_FACE} pixels wide",
            f"one of {face.size:.0f} pixels in a {image.shape[1]}x{image.shape[0]} picture",
            "Use a larger photo, or one taken closer; enlarging this one does not bring the details back.",
        )
    return face


def mask_box(mask: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return x0, y0, x1, y1, float [4], around everything above 0.5 in a mask [H, W] that fits the picture's (H, W)."""
    mask = np.asarray(mask)
    if mask.shape != tuple(size):
        raise InputError(
            f"a mask as large as the picture, {size[1]}x{size[0]}",
            f"one of shape {mask.shape}",
            "Draw the mask on this picture, or resize it.",
        )
    rows, columns = np.nonzero(mask > 0.5)
    if rows.size == 0:
        raise InputError("a mask that marks the face", "an empty mask", "Paint over the face, or give no mask.")
    return np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1], np.float64)


def _by_rule(faces: list[Face], which: str) -> Face:
    if not faces:
        raise FaceError(
            "a photo with a face",
            "no face in it",
            "Use a photo that shows the whole face from the front.",
        )
    if which == "single":
        if len(faces) > 1:
            raise FaceError(
                "a photo of one person",
                f"{len(faces)} faces",
                "Crop the photo, or choose the largest, leftmost or rightmost face.",
            )
        return faces[0]
    rules = {"largest": lambda f: -f.size, "leftmost": lambda f: f.centre[0], "rightmost": lambda f: -f.centre[0]}
    return min(faces, key=rules[which])


def _in_box(faces: list[Face], image: np.ndarray, box: Sequence[float], look_in: Callable) -> Face:
    values = np.asarray(box, np.float64)
    height, width = image.shape[:2]
    if values.shape != (4,) or not np.isfinite(values).all():
        raise InputError("a face box x0, y0, x1, y1 in pixels", f"{box!r}", "Give four numbers.")
    clipped = np.clip(values, 0, [width, height, width, height])
    if (clipped[2:] - clipped[:2] < 1).any():
        raise InputError(
            f"a face box x0, y0, x1, y1 with x0 < x1 and y0 < y1 inside the {width}x{height} picture",
            ", ".join(f"{value:g}" for value in values),
            "Draw the box around the face, from the brows to the chin.",
        )
    inside = [f for f in faces if (clipped[:2] <= f.centre).all() and (f.centre <= clipped[2:]).all()]
    if inside:
        return max(inside, key=lambda face: _overlap(face.box, clipped))
    return look_in(image, clipped)


def _overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Intersection over union of two boxes."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = sides.prod()
    return float(shared / ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - shared))


def resized(image: np.ndarray, scale: float) -> np.ndarray:
    """Resize a picture uint8 [H, W, 3] to `scale` times its size, at least a pixel either way."""
    if scale == 1:
        return np.ascontiguousarray(image)
    from PIL import Image

    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
