"""Any picture a user may hand over, as the uint8 RGB that the detector reads."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..errors import FaceError, InputError

BACKGROUND = 127.5  # grey behind transparent pixels: neither face nor hair is that flat
REFUSED = ("EPS", "WMF")  # Pillow hands these to other programs
LARGE = 50_000_000  # pixels; more cost seconds and gigabytes and show no more of a face
SURE = 0.25  # a detector's score; below it turned photos show faces that are none
DOUBTFUL = 0.5  # a photo with a better face is taken to be upright
TURNS = (
    (1, "one lying on its side", "Turn it by 90 degrees to the left"),
    (3, "one lying on its side", "Turn it by 90 degrees to the right"),
    (2, "one standing on its head", "Turn it by 180 degrees"),
)
RANGE_SLACK = 0.1  # resampling overshoots 0..1 a little; more means another scale


def read_picture(path: Path) -> np.ndarray:
    """Read a photo: uint8 [H, W, 3 or 4], turned as the camera held it.

    Grey pictures of 10 to 32 bits are scaled to 8 by the fewest bits that hold their values, float ones of 0..1, 0..255
    or 0..65535 likewise. Of moving pictures the first is taken. Above LARGE pixels the picture is shrunk by a whole
    number. Raises InputError where there is no picture, and for more than Pillow's limit of 178 million pixels.
    """
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about broken EXIF and sizes near its limit
            Image.init()
            with Image.open(path, formats=[name for name in Image.OPEN if name not in REFUSED]) as picture:
                shrink = math.ceil(math.sqrt(picture.width * picture.height / LARGE))
                if shrink > 1:
                    picture.draft("RGB", (picture.width // shrink, picture.height // shrink))  # JPEG: while decoding
                    shrink = math.ceil(math.sqrt(picture.width * picture.height / LARGE))
                upright = ImageOps.exif_transpose(picture)
                if upright.mode[0] in "IF":
                    upright = Image.fromarray(_grey(np.asarray(upright)))
                transparent = "A" in upright.getbands() or "transparency" in upright.info
                upright = upright.convert("RGBA" if transparent else "RGB")
                return np.asarray(upright.reduce(shrink) if shrink > 1 else upright)
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError("a picture", f"no file at {path}", "Check the path.") from None
    except Image.DecompressionBombError:
        raise InputError(
            f"a picture of at most {2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6} megapixels",
            f"{path}, which is larger",
            "Make it smaller first.",
        ) from None
    except Exception as error:  # noqa: BLE001  Pillow raises nearly anything over a broken file
        if isinstance(error, MemoryError):
            raise
        raise InputError("a picture", f"{path}, which cannot be read ({error})", "Try a PNG or JPEG.") from None


def _grey(pixels: np.ndarray) -> np.ndarray:
    """Grey values of more than 8 bits, or floats, [H, W] -> uint8 [H, W]."""
    if not np.isfinite(pixels).all():
        raise InputError("a picture of finite values", "NaN or infinite pixels", "Export it again.")
    low, high = float(pixels.min()), float(pixels.max())
    if np.issubdtype(pixels.dtype, np.floating):
        full = next((full for full in (1, 255, 65535) if high <= full * (1 + RANGE_SLACK)), 0)
    else:
        full = next((2**bits - 1 for bits in (8, 10, 12, 14, 16, 32) if high < 2**bits), 0)
    if not full or low < -RANGE_SLACK * full:
        raise InputError("float values within 0..1, 0..255 or 0..65535", f"{low:g}..{high:g}", "Export it again.")
    return np.clip(np.round(pixels.astype(np.float32) * (255 / full)), 0, 255).astype(np.uint8)


def refuse_turned(image: np.ndarray, faces: list, detect: Callable[[np.ndarray], list]) -> None:
    """Raise FaceError where a face is found once a photo uint8 [H, W, 3] is turned, and `detect` found none in it as it
    is, or one of which it is far less certain."""
    best = max((face.score for face in faces), default=0.0)
    if best >= DOUBTFUL:
        return
    for quarters, got, fix in TURNS:
        if any(face.score >= max(SURE, 3 * best) for face in detect(np.rot90(image, quarters).copy())):
            raise FaceError("a photo that stands upright", got, f"{fix} and save it again.")


def as_rgb(image) -> np.ndarray:
    """uint8 [H, W, 3] RGB, contiguous.

    image: array or CPU tensor, uint8 0..255 or float 0..1, of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha is
    laid over grey), or any of the last three with a leading 1. Raises InputError for other shapes and kinds, NaN or
    infinite values, floats beyond 0..1.
    """
    if hasattr(image, "is_floating_point") and image.is_floating_point():
        image = image.float()  # NumPy has no bfloat16
    pixels = np.asarray(image)
    if pixels.ndim == 4 and pixels.shape[0] == 1:
        pixels = pixels[0]
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[2] not in (1, 3, 4) or 0 in pixels.shape:
        raise InputError(
            "a picture of shape [height, width], or with 1, 3 or 4 channels last",
            f"shape {np.shape(image)}",
            "Give one photo at a time, channels last.",
        )
    pixels = _levels(pixels)
    if pixels.shape[2] == 4:
        alpha = pixels[..., 3:] / 255
        pixels = pixels[..., :3] * alpha + BACKGROUND * (1 - alpha)
    if pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    return np.ascontiguousarray(np.clip(np.round(pixels), 0, 255).astype(np.uint8))


def _levels(pixels: np.ndarray) -> np.ndarray:
    """The same pixels as float32 or uint8 in 0..255."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * 255
    if not np.issubdtype(pixels.dtype, np.floating):
        raise InputError("a picture of 8-bit or of 0..1 float values", f"{pixels.dtype} values", "Convert it first.")
    if not np.isfinite(pixels).all():
        raise InputError(
            "a picture of finite values", "NaN or infinite pixels", "Look at what made it: an earlier step overflowed."
        )
    low, high = float(pixels.min()), float(pixels.max())
    if low < -RANGE_SLACK or high > 1 + RANGE_SLACK:
        raise InputError("float values within 0..1", f"{low:g}..{high:g}", "Divide by 255, or scale from -1..1 first.")
    return pixels.astype(np.float32) * 255


def enlarged(image: np.ndarray, times: int) -> np.ndarray:
    """uint8 [H, W, 3] -> [times * H, times * W, 3], every pixel repeated: nothing is invented between them"""
    return np.ascontiguousarray(image.repeat(times, axis=0).repeat(times, axis=1))
