"""SCRFD (Guo et al., "Sample and Computation Redistribution for Efficient Face Detection", 2021): faces and five
points."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .faces import Face, resized
from .onnx_models import open_onnx, refuse

WANTED = "an SCRFD face detector with landmarks"
SIDE = 640  # pixels of the square the network sees
STRIDES = (8, 16, 32)
ANCHORS = 2  # to a cell
CERTAIN = 0.5
SAME_FACE = 0.4  # overlap above which the less certain of two finds is dropped


class Scrfd:
    def __init__(self, path: Path):
        self.session = open_onnx(path, WANTED)
        self.input = self.session.get_inputs()[0].name
        outputs = len(self.session.get_outputs())
        if outputs != 3 * len(STRIDES):
            raise refuse(path, f"{WANTED}: scores, boxes and points at strides 8, 16, 32", f"{outputs} outputs")

    def detect(self, image: np.ndarray) -> list[Face]:
        """Find every face in a picture uint8 [H, W, 3], the most certain first.

        `Face.points` are image-left eye, image-right eye, nose, image-left and image-right corner of the mouth."""
        for fraction in (1.0, 0.5):  # a face that fills the picture is found when it fills less of the square
            scale = fraction * SIDE / max(image.shape[:2])
            if found := self.search(resized(image, scale), scale):
                return found
        return []

    def search(self, image: np.ndarray, scale: float) -> list[Face]:
        """Find faces in an image, `scale` times the picture and at most SIDE pixels either way; in the picture's
        pixels."""
        square = np.zeros((SIDE, SIDE, 3), np.float32)
        height, width = image.shape[:2]
        square[:height, :width] = image
        pixels = ((square - 127.5) / 128).transpose(2, 0, 1)[None]
        scores, boxes, points = decode(self.session.run(None, {self.input: pixels}))
        kept = without_doubles(scores, boxes)
        # The network counts pixels from the centre of the first, a `Face` from its corner.
        return [Face(boxes[i] / scale, (points[i] + 0.5) / scale, float(scores[i])) for i in kept]


def decode(outputs: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Decode scores, box sides and points of each stride; those above CERTAIN: [N], [N, 4] and [N, 5, 2] in pixels.

    A side is so many strides from the anchor's centre, a point so many strides beside it.
    """
    levels = len(STRIDES)
    scores, boxes, points = [], [], []
    for level, stride in enumerate(STRIDES):
        score, sides, offsets = (
            outputs[level + levels * kind].reshape(-1, width) for kind, width in enumerate((1, 4, 10))
        )
        cells = SIDE // stride
        rows, columns = np.divmod(np.arange(cells * cells * ANCHORS) // ANCHORS, cells)
        centres = np.stack([columns, rows], 1) * stride
        sure = score[:, 0] >= CERTAIN
        centres, sides, offsets = centres[sure], sides[sure] * stride, offsets[sure] * stride
        scores.append(score[sure, 0])
        boxes.append(np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], 1))
        points.append(centres[:, None] + offsets.reshape(-1, 5, 2))
    return np.concatenate(scores), np.concatenate(boxes), np.concatenate(points)


def without_doubles(scores: np.ndarray, boxes: np.ndarray) -> Iterator[int]:
    """Return the indices of the detections to keep, the most certain first."""
    left = np.argsort(-scores, kind="stable")
    while left.size:
        best, left = left[0], left[1:]
        yield int(best)
        left = left[overlap(boxes[best], boxes[left]) <= SAME_FACE]


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the intersection over union of one box [4] with others [N, 4]."""
    low, high = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = np.clip(high - low, 0, None).prod(1)
    areas = (others[:, 2:] - others[:, :2]).prod(1) + (box[2:] - box[:2]).prod()
    return shared / (areas - shared)
