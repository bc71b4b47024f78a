"""Any picture a user may hand over, as the uint8 RGB that the detector reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import InputError

BACKGROUND = 127.5  # grey behind transparent pixels: neither face nor hair is that flat
RANGE_SLACK = 0.1  # resampling overshoots 0..1 a little; more means another scale


def read_picture(path: Path) -> np.ndarray:
    """uint8 [H, W, 3 or 4], turned as the camera held it. Raises InputError where there is no picture."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as picture:
            upright = ImageOps.exif_transpose(picture)
            return np.asarray(upright.convert("RGBA" if "A" in upright.getbands() else "RGB"))
    except FileNotFoundError:
        raise InputError("a picture", f"no file at {path}", "Check the path.") from None
    except (UnidentifiedImageError, OSError) as error:
        raise InputError("a picture", f"{path}, which cannot be read ({error})", "Try a PNG or JPEG.") from None


def as_rgb(image) -> np.ndarray:
    """uint8 [H, W, 3] RGB, contiguous.

    image: array or CPU tensor, uint8 0..255 or float 0..1, of shape [H, W], [H, W, 1], [H, W, 3] or [H, W, 4] (alpha is
    laid over grey), or any of the last three with a leading 1. Raises InputError for other shapes and kinds, NaN or
    infinite values, floats beyond 0..1.
    """
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
