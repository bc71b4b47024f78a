"""FFHQ alignment: the upright square around a face that the models were trained on.

The square follows the FFHQ data set (Karras et al. 2019, "A Style-Based Generator Architecture", appendix on data):
from the two eye centres and the mouth centre, with x along eye_to_eye - rot90(eye_to_mouth),
side = 2 max(2.0 |eye_to_eye|, 1.8 |eye_to_mouth|) and centre = eyes + 0.1 eye_to_mouth.
Coordinates are continuous pixels: the centre of the top left pixel is (0.5, 0.5).
"""

from __future__ import annotations

import math

import numpy as np

from ..errors import InputError

# dlib's five points end at the nose base. Where the mouth is follows from it; both factors were fitted on renders of
# six heads with known mouth corners, yaw within 50 and pitch within 15 degrees, three expressions. Sideways the mouth
# moves less than the nose base when the head turns, because it stands out less.
MOUTH_ALONG = 1.45  # eye_to_mouth / eye_to_nose, down the face
MOUTH_ACROSS = 0.41  # the same along the line between the eyes

ARCFACE_SIDE = 112  # pixels of ArcFace's view
# Where eyes, nose and corners of the mouth lie in it. InsightFace counts from the centre of the first pixel, hence the
# half.
ARCFACE_POINTS = 0.5 + np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def three_points(points: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return image-left eye, image-right eye and (estimated) mouth centre, float [2] each, from `Face.points`."""
    left, right = points[:2].mean(0), points[2:4].mean(0)
    across = (right - left) / max(float(np.linalg.norm(right - left)), 1e-6)
    down = np.array([-across[1], across[0]])
    eyes = (left + right) / 2
    nose = points[4] - eyes
    return left, right, eyes + MOUTH_ACROSS * (nose @ across) * across + MOUTH_ALONG * (nose @ down) * down


def ffhq_transform(left_eye: np.ndarray, right_eye: np.ndarray, mouth: np.ndarray, size: int) -> np.ndarray:
    """Return the similarity float64 [3, 3] from picture coordinates (x, y, 1) to those of the FFHQ crop.

    left_eye, right_eye: eye centres [2], left and right as seen in the picture; mouth: middle of its corners [2].
    """
    left_eye, right_eye, mouth = (np.asarray(point, np.float64) for point in (left_eye, right_eye, mouth))
    eyes, eye_to_eye = (left_eye + right_eye) / 2, right_eye - left_eye
    eye_to_mouth = mouth - eyes
    x = eye_to_eye - np.array([-eye_to_mouth[1], eye_to_mouth[0]])
    length = np.linalg.norm(x)
    if not length > 1e-6:
        raise InputError("two eyes and a mouth apart from each other", "points that coincide", "Mark the face by hand.")
    x /= length
    side = 2 * max(2.0 * np.linalg.norm(eye_to_eye), 1.8 * np.linalg.norm(eye_to_mouth))
    centre = eyes + 0.1 * eye_to_mouth
    linear = np.array([x, [-x[1], x[0]]]) * (size / side)
    transform = np.eye(3)
    transform[:2, :2] = linear
    transform[:2, 2] = size / 2 - linear @ centre
    return transform


def similarity(points: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the rotation, scale and shift, float64 [3, 3], that takes points [N, 2] closest to targets [N, 2], least
    squares."""
    x, y = np.asarray(points, np.float64).T
    one, none = np.ones_like(x), np.zeros_like(x)
    # u = a x - b y + c, v = b x + a y + d
    system = np.concatenate([np.stack([x, -y, one, none], 1), np.stack([y, x, none, one], 1)])
    a, b, c, d = np.linalg.lstsq(system, np.concatenate(np.asarray(targets, np.float64).T), rcond=None)[0]
    return np.array([[a, -b, c], [b, a, d], [0, 0, 1]])


def align(image: np.ndarray, points: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Cut the FFHQ crop of a face.

    image: uint8 [H, W, 3]; points: `Face.points`, [5, 2]; size: side of the crop in pixels.
    Returns the crop, uint8 [size, size, 3], and the similarity float64 [3, 3] from picture to crop coordinates.
    """
    transform = ffhq_transform(*three_points(np.asarray(points, np.float64)), size)
    return warp(image, transform, size), transform


def warp(image: np.ndarray, transform: np.ndarray, size: int) -> np.ndarray:
    """Resample a picture through a similarity, without aliasing, mirrored beyond its borders.

    image: uint8 [H, W, 3]; transform: [3, 3] from picture to crop coordinates. Returns uint8 [size, size, 3].
    """
    import torch
    import torch.nn.functional as F
    from PIL import Image

    back = np.linalg.inv(transform)
    scale = float(np.hypot(back[0, 0], back[1, 0]))  # picture pixels per crop pixel
    reduce = max(1, int(scale / 2))
    if reduce > 1:  # a cheap box filter first, so that the fine grid below stays small
        height, width = image.shape[:2]
        reduced = Image.fromarray(image).reduce(reduce)
        back = np.diag([1 / reduce, 1 / reduce, 1.0]) @ back
        # the last, incomplete cells of `reduce` stay whole pixels, so the scale is exactly 1 / reduce
        image = np.asarray(reduced)
        scale /= reduce
    height, width = image.shape[:2]
    fine = size * max(1, math.ceil(scale))  # at least one sample a picture pixel, averaged below
    grid = torch.from_numpy(sampling_grid(back, (np.arange(fine) + 0.5) * size / fine, height, width)).float()
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float()
    crop = F.grid_sample(pixels, grid, mode="bicubic", padding_mode="reflection", align_corners=False)
    crop = F.avg_pool2d(crop, fine // size)[0].permute(1, 2, 0)
    return crop.round().clamp(0, 255).to(torch.uint8).numpy()


def sampling_grid(back: np.ndarray, steps: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return where `F.grid_sample` (align_corners=False) is to sample in a picture of that size: [1, N, N, 2].

    back: [3, 3] from crop to picture coordinates; steps: [N] crop coordinates of the samples, across as down.
    """
    xs = back[0, 0] * steps[None, :] + back[0, 1] * steps[:, None] + back[0, 2]
    ys = back[1, 0] * steps[None, :] + back[1, 1] * steps[:, None] + back[1, 2]
    return np.stack([xs * 2 / width - 1, ys * 2 / height - 1], -1)[None]
