"""Phonemes with times -> mouth shapes: ARKit expression weights, one row a frame.

Each phoneme pulls the mouth towards its shape for as long as it lasts and a little around it; shapes blend by how
strongly each pulls at that moment (the dominance functions of Cohen & Massaro 1993, Gaussian here). Closed lips
(p, b, m) and lip on teeth (f, v) are not a matter of degree: they are laid over the blend and reached in full.
"""

from __future__ import annotations

import numpy as np

from ..conventions import smoothstep
from .phonemes import CLASS_NAMES, class_of

# Units without a side are set on both sides.
SHAPES: dict[str, dict[str, float]] = {
    "rest": {},
    "closed": {"jawOpen": 0.03, "mouthPress": 0.35, "mouthRollLower": 0.18, "mouthRollUpper": 0.12},
    "labiodental": {"jawOpen": 0.05, "mouthRollLower": 0.55, "mouthUpperUp": 0.30, "mouthShrugLower": 0.25},
    "dental": {"jawOpen": 0.15, "tongueOut": 0.22, "mouthLowerDown": 0.15},
    "alveolar": {"jawOpen": 0.14, "mouthLowerDown": 0.22, "mouthUpperUp": 0.10, "mouthStretch": 0.08},
    "hiss": {"jawOpen": 0.06, "mouthStretch": 0.28, "mouthLowerDown": 0.30, "mouthUpperUp": 0.15, "mouthSmile": 0.08},
    "hush": {"jawOpen": 0.10, "mouthFunnel": 0.60, "mouthPucker": 0.20},
    "back": {"jawOpen": 0.20},
    "r": {"jawOpen": 0.12, "mouthFunnel": 0.35, "mouthPucker": 0.30},
    "uw": {"jawOpen": 0.09, "mouthPucker": 0.85, "mouthFunnel": 0.25},
    "uh": {"jawOpen": 0.17, "mouthPucker": 0.45, "mouthFunnel": 0.25},
    "ao": {"jawOpen": 0.40, "mouthFunnel": 0.55, "mouthPucker": 0.20},
    "aa": {"jawOpen": 0.60, "mouthLowerDown": 0.15},
    "ae": {"jawOpen": 0.50, "mouthStretch": 0.22, "mouthSmile": 0.12, "mouthUpperUp": 0.10},
    "eh": {"jawOpen": 0.38, "mouthStretch": 0.22, "mouthSmile": 0.10},
    "ah": {"jawOpen": 0.40},
    "schwa": {"jawOpen": 0.22},
    "iy": {"jawOpen": 0.13, "mouthSmile": 0.38, "mouthStretch": 0.30, "mouthLowerDown": 0.18},
    "ih": {"jawOpen": 0.22, "mouthSmile": 0.22, "mouthStretch": 0.18},
    "er": {"jawOpen": 0.22, "mouthFunnel": 0.28, "mouthPucker": 0.15},
}
STRENGTHS = {"back": 0.3, "alveolar": 0.45, "dental": 0.7, "hiss": 0.8, "r": 0.7, "schwa": 0.7, "uw": 1.3, "hush": 1.2}
LAID_OVER = ("closed", "labiodental")

# The shapes each class of sound (`phonemes.CLASS_NAMES`) passes through: one, or two for a diphthong.
CLASS_SHAPES = {
    name: tuple(shapes.split())
    for shapes, names in {
        "rest": "sil",
        "closed": "p b m",
        "labiodental": "f v",
        "hush": "ch jh sh zh",
        "dental": "th dh",
        "alveolar": "t d n l",
        "hiss": "s z",
        "back": "k g ng hh",
        "r": "r",
        "uw": "uw w",
        "uh": "uh",
        "ao": "ao",
        "aa": "aa",
        "ae": "ae",
        "eh": "eh",
        "ah": "ah",
        "schwa": "ax",
        "iy": "iy y",
        "ih": "ih",
        "er": "er",
        "aa uw": "aw",
        "aa ih": "ay",
        "ao ih": "oy",
        "eh iy": "ey",
        "ao uw": "ow",
    }.items()
    for name in names.split()
}
VISEMES = tuple(SHAPES)
VISEME_OF_CLASS = np.array([VISEMES.index(CLASS_SHAPES[name][0]) for name in CLASS_NAMES])  # a diphthong's first
REACH = 0.050  # seconds a shape pulls beyond the middle of its phoneme
RAMP = 0.055  # seconds in which the lips meet and part


def shapes_of(symbol: str) -> tuple[str, ...]:
    """Return the names of the mouth shapes a phoneme of espeak-ng or flite passes through: one, or two for a
    diphthong."""
    return CLASS_SHAPES[CLASS_NAMES[class_of(symbol)]]


def shape_vector(shape: str, unit_names: tuple[str, ...]) -> np.ndarray:
    """Return the weights of a mouth shape, float32 [U]."""
    vector = np.zeros(len(unit_names), np.float32)
    for unit, value in SHAPES[shape].items():
        for name in (unit, f"{unit}Left", f"{unit}Right"):
            if name in unit_names:
                vector[unit_names.index(name)] = value
    return vector


def mouth_curves(
    phonemes: list[tuple[float, float, str]],
    times: np.ndarray,
    unit_names: tuple[str, ...],
    loudness: np.ndarray,
    strength: float = 1.0,
) -> np.ndarray:
    """Return mouth weights float32 [T, U] at `times` [T] (seconds) for phonemes (start, end, symbol).

    loudness [T], about 0..1, opens the jaw wider; strength scales all movement (mumbling < 1 < declaiming).
    """
    pieces = [
        (start + k * (end - start) / len(shapes), start + (k + 1) * (end - start) / len(shapes), shape)
        for start, end, symbol in phonemes
        for shapes in [shapes_of(symbol)]
        for k, shape in enumerate(shapes)
    ]
    free = [piece for piece in pieces if piece[2] not in LAID_OVER]
    total, pull = np.zeros((len(times), len(unit_names))), np.full(len(times), 1e-3)  # at rest unless pulled
    for start, end, shape in free:
        core = max(0.3 * (end - start), (end - start) / 2 - 0.03)
        outside = np.maximum(np.abs(times - (start + end) / 2) - core, 0)
        weight = STRENGTHS.get(shape, 1.0) * np.exp(-((outside / REACH) ** 2))
        total += weight[:, None] * shape_vector(shape, unit_names)
        pull += weight
    weights = strength * total / pull[:, None]
    weights[:, unit_names.index("jawOpen")] *= 0.7 + 0.4 * np.clip(loudness, 0, 1.2)
    for shape in LAID_OVER:
        reached = _contact([piece for piece in pieces if piece[2] == shape], times)[:, None]
        weights = (1 - reached) * weights + reached * shape_vector(shape, unit_names)
    return np.clip(weights, 0, 1).astype(np.float32)


def _contact(pieces: list[tuple[float, float, str]], times: np.ndarray) -> np.ndarray:
    """How far the lips are in contact at `times`, 0..1; 1 in at least one frame of every piece that has a frame."""
    contact = np.zeros(len(times))
    for start, end, _ in pieces:
        outside = np.maximum(np.maximum(start - times, times - end), 0)
        contact = np.maximum(contact, smoothstep(1 - outside / RAMP))
        nearest = int(np.argmin(np.abs(times - (start + end) / 2)))
        if outside[nearest] < RAMP:
            contact[nearest] = 1.0
    return contact
