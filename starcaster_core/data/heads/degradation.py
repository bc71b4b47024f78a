"""Degradation of rendered frames by a camera: exposure, white balance, contrast, vignetting, blur, noise.

Its strength is drawn once a clip; the noise is new in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraDegradation:
    """How much a camera degrades a clip.

    gains: of red, green and blue, [3]. gamma: above 1 darkens the middle. saturation: 1 leaves it. vignette: fraction
    of the light lost in the corners. blur: standard deviation in thousandths of the picture's side. grain: standard
    deviation of the noise in the darks, grey levels of 255. coarse: fraction of the noise that neighbouring pixels have
    in common.
    """

    gains: np.ndarray
    gamma: float
    saturation: float
    vignette: float
    blur: float
    grain: float
    coarse: float


def sample_degradation(seed: int) -> CameraDegradation:
    """Draw a degradation: most are slight, some are those of an old telephone."""
    rng = np.random.default_rng([seed, 0xF11A])
    warmth = rng.normal(0, 0.03)
    return CameraDegradation(
        gains=rng.uniform(0.88, 1.08) * np.array([1 + warmth, 1.0, 1 - warmth]),
        gamma=float(rng.uniform(0.9, 1.15)),
        saturation=float(rng.uniform(0.8, 1.12)),
        vignette=float(rng.uniform(0, 0.25)),
        blur=float(rng.uniform(0, 4) * (rng.random() < 0.5)),
        grain=float(rng.exponential(2.5)),
        coarse=float(rng.uniform(0, 0.8)),
    )


def degrade(frames: np.ndarray, degradation: CameraDegradation, seed: int) -> np.ndarray:
    """Degrade frames uint8 [T, S, S, 3]; the noise comes from `seed`."""
    from scipy.ndimage import gaussian_filter

    rng, side = np.random.default_rng([seed, 0x6A1]), frames.shape[1]
    across = np.linspace(-1, 1, side)
    corners = 1 - degradation.vignette * 0.5 * (across[:, None] ** 2 + across[None] ** 2)
    tone = (corners[..., None] * degradation.gains).astype(np.float32)
    degraded = np.empty_like(frames)
    for index, frame in enumerate(frames):  # a frame at a time: a clip in float32 would not fit the cache
        picture = (np.clip(frame / np.float32(255) * tone, 0, 1)) ** np.float32(degradation.gamma)
        grey = picture @ np.float32([0.3, 0.59, 0.11])
        picture = grey[..., None] + np.float32(degradation.saturation) * (picture - grey[..., None])
        if degradation.blur:
            picture = gaussian_filter(picture, (degradation.blur * side / 1000, degradation.blur * side / 1000, 0))
        noise = rng.standard_normal((side, side, 3), np.float32)
        shared = gaussian_filter(noise, (1, 1, 0)) * 3.5  # of unit variance again
        noise = (1 - degradation.coarse) * noise + degradation.coarse * shared
        strength = degradation.grain / 255 * (1.2 - 0.7 * grey[..., None])  # the darks are noisiest
        degraded[index] = (np.clip(picture + strength * noise, 0, 1) * 255 + 0.5).astype(np.uint8)
    return degraded
