"""Lighting and background of a clip, drawn from a seed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Lighting:
    """Lights and background.

    directions: float32 [3, 3], unit vectors to key, fill and rim light in the world. colours: float32 [3, 3], of those
    lights. sky, ground: float32 [3], ambient light from above and below. background: uint8 [h, w, 3], stretched
    smoothly over the whole surround (a plain one is 1x1). kind: of the background: plain, gradient or scene. softness:
    radius of the key light's shadow edge, fraction of the shadow map.
    """

    directions: np.ndarray
    colours: np.ndarray
    sky: np.ndarray
    ground: np.ndarray
    background: np.ndarray
    kind: str
    softness: float = 0.006


def sample_lighting(seed: int) -> Lighting:
    """Draw lights and background."""
    rng = np.random.default_rng([seed, 0x100C])
    side = rng.choice([-1, 1])
    key = _direction(side * rng.uniform(5, 60), rng.uniform(5, 50))
    fill = _direction(-side * rng.uniform(25, 80), rng.uniform(-10, 30))
    rim = _direction(-side * rng.uniform(120, 170), rng.uniform(10, 50))
    warmth = rng.normal(0, 0.07)
    strength = rng.uniform(0.85, 1.45)
    colours = np.array(
        [
            _tinted(warmth, strength),
            _tinted(-0.8 * warmth + rng.normal(0, 0.04), strength * rng.uniform(0.10, 0.40)),
            _tinted(rng.normal(0, 0.08), rng.uniform(0.1, 0.7)),
        ]
    )
    ambient = rng.uniform(0.22, 0.46)
    background, kind = _background(rng)
    return Lighting(
        directions=np.array([key, fill, rim], np.float32),
        colours=colours.astype(np.float32),
        sky=_tinted(rng.normal(0, 0.05), ambient).astype(np.float32),
        ground=_tinted(0.06, ambient * 0.45).astype(np.float32),
        background=background,
        kind=kind,
        softness=float(rng.uniform(0.003, 0.014)),
    )


def neutral_lighting() -> Lighting:
    """Return even light before a grey background: for identity embeddings and portraits."""
    return Lighting(
        directions=np.array([_direction(25, 30), _direction(-45, 10), _direction(-150, 35)], np.float32),
        colours=np.array([[0.95, 0.93, 0.90], [0.32, 0.33, 0.36], [0.35, 0.36, 0.40]], np.float32),
        sky=np.array([0.31, 0.32, 0.34], np.float32),
        ground=np.array([0.16, 0.14, 0.13], np.float32),
        background=np.array([[[150, 156, 163]], [[108, 113, 120]]], np.uint8),
        kind="gradient",
    )


def _direction(azimuth: float, elevation: float) -> np.ndarray:
    a, e = np.radians([azimuth, elevation])
    return np.array([np.sin(a) * np.cos(e), np.sin(e), np.cos(a) * np.cos(e)])


def _tinted(warmth: float, strength: float) -> np.ndarray:
    return strength * np.array([1 + warmth, 1.0, 1 - warmth])


def _scene(rng: np.random.Generator, base: np.ndarray, side: int = 64) -> np.ndarray:
    """A place far out of focus: walls, furniture, windows and lamps as boxes and discs, blurred; it meets itself at the
    edges. uint8 [side, side, 3]."""
    from scipy.ndimage import gaussian_filter

    picture = np.tile(base.astype(np.float32), (side, side, 1))
    picture *= np.linspace(1.15, 0.8, side)[:, None, None]
    rows, columns = np.mgrid[:side, :side]
    for _ in range(rng.integers(4, 16)):
        x, y, width, height = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(3, 26), rng.uniform(6, 50)
        inside = (((columns - x) % side) < width) & (((rows - y) % side) < height)
        picture[inside] = np.clip(base + rng.normal(0, 40) + rng.normal(0, 18, 3), 5, 250)
    for _ in range(rng.integers(0, 9)):
        x, y, radius = rng.uniform(0, side), rng.uniform(0, side), rng.uniform(1.5, 5)
        away = np.hypot((columns - x + side / 2) % side - side / 2, (rows - y + side / 2) % side - side / 2)
        picture[away < radius] = rng.uniform(150, 330) * np.array([1.0, rng.uniform(0.75, 1.0), rng.uniform(0.5, 1.0)])
    blur = rng.uniform(0.8, 3.5)
    return np.clip(gaussian_filter(picture, (blur, blur, 0), mode="wrap"), 2, 252).astype(np.uint8)


def _background(rng: np.random.Generator) -> tuple[np.ndarray, str]:
    base = rng.uniform(30, 215) + rng.normal(0, 14, 3)
    kind = str(rng.choice(["plain", "gradient", "scene"], p=[0.2, 0.2, 0.6]))
    if kind == "scene":
        return _scene(rng, base), kind
    shape = {"plain": (1, 1), "gradient": (2, 1)}[kind]
    spread = {"plain": 0, "gradient": 26}[kind]
    common = rng.normal(0, spread, (*shape, 1))
    colours = base + common + rng.normal(0, spread * 0.25, (*shape, 3))
    return np.clip(colours, 4, 250).astype(np.uint8), kind
