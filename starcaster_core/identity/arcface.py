"""ArcFace (Deng et al. 2019) as Arc2Face uses it: 512 numbers that say who somebody is, for the `sd15` model.

Both networks are ONNX files of the user's, run by onnxruntime. Their licences forbid commercial use.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import FaceError
from .align import ARCFACE_POINTS, ARCFACE_SIDE, sampling_grid, similarity
from .faces import Face
from .onnx_models import find_file, open_onnx, refuse
from .scrfd import WANTED as DETECTOR
from .scrfd import Scrfd, overlap

WANTED = "the ArcFace recogniser"
DETECTOR_FILES = ("scrfd_10g_bnkps.onnx", "det_10g.onnx")
RECOGNISER_FILES = ("arcface.onnx",)
MARGIN = 0.5  # of a box given by the user, looked at on every side


class ArcFace:
    """The recogniser of models with `identity_backend="arcface"`; its methods are those of `recognisers.Dlib`.

    folders: where the two files may lie. Raises CheckpointError when one is missing or another network.
    """

    name = "arcface"

    def __init__(self, folders: Sequence[str | Path]):
        detector = find_file(DETECTOR_FILES, folders, DETECTOR, "InsightFace's antelopev2 package")
        recogniser = find_file(RECOGNISER_FILES, folders, WANTED, "Arc2Face")
        self.detector = Scrfd(detector)
        self.session = open_onnx(recogniser, WANTED)
        view, numbers = self.session.get_inputs()[0], self.session.get_outputs()[0]
        if list(view.shape[1:]) != [3, ARCFACE_SIDE, ARCFACE_SIDE] or numbers.shape[-1] != 512:
            got = f"input {view.shape} and output {numbers.shape}"
            raise refuse(recogniser, f"{WANTED}: pictures [3, 112, 112] to 512 numbers", got)
        self.input = view.name

    def detect(self, image: np.ndarray) -> list[Face]:
        """Find every face in a picture uint8 [H, W, 3], the most certain first."""
        return self.detector.detect(image)

    def face_at(self, image: np.ndarray, box: np.ndarray) -> Face:
        """Find the face in a box x0, y0, x1, y1 that was not found in the whole picture, by searching there alone."""
        margin = MARGIN * (box[2:] - box[:2])
        x0, y0 = np.maximum(box[:2] - margin, 0).astype(int)
        x1, y1 = np.ceil(np.minimum(box[2:] + margin, image.shape[1::-1])).astype(int)
        offset = np.array([x0, y0], np.float64)
        found = [
            Face(face.box + np.tile(offset, 2), face.points + offset, face.score)
            for face in self.detect(np.ascontiguousarray(image[y0:y1, x0:x1]))
        ]
        if not found:
            raise FaceError("a face where it was marked", "none there", "Mark it from the brows to the chin.")
        return max(found, key=lambda face: overlap(box, face.box[None])[0])

    def eyes_and_mouth(self, face: Face) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return image-left eye, image-right eye and middle of the mouth, [2] each, for the FFHQ crop."""
        return face.points[0], face.points[1], face.points[3:].mean(0)

    def embed(self, image: np.ndarray, face: Face) -> np.ndarray:
        """Embed a face: float32 [512], not normalised. image: uint8 [H, W, 3] RGB."""
        crop = sample(image, similarity(face.points, ARCFACE_POINTS), ARCFACE_SIDE)
        pixels = ((crop - 127.5) / 127.5).transpose(2, 0, 1)[None]
        return self.session.run(None, {self.input: np.ascontiguousarray(pixels)})[0][0].astype(np.float32)


def sample(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Warp a picture by a similarity: float32 [size, size, 3] in 0..255, bilinear, black beyond its borders, no
    smoothing.

    The recogniser saw faces so in training.
    """
    import torch
    import torch.nn.functional as F

    height, width = image.shape[:2]
    grid = sampling_grid(np.linalg.inv(transform), np.arange(size) + 0.5, height, width)
    grid = torch.from_numpy(grid).float()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    return (
        F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)[0]
        .permute(1, 2, 0)
        .numpy()
    )
