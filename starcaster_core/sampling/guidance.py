"""Classifier-free guidance over nested conditions: nobody -> this person -> seen from here -> saying this.

    out = null + s_id (identity - null) + s_cam (camera - identity) + s_audio (full - camera)

With one scale for all, the inner terms cancel and two network calls are left: null and full. A stream that is not
connected has no step of its own, and a scale of 1 everywhere needs the full condition alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class GuidanceScales:
    """identity: also the scale of every stream whose own scale is None."""

    identity: float = 3.0
    camera: float | None = None
    audio: float | None = None


@dataclass
class Branch:
    """One condition the network is asked under, and the weight of its answer."""

    condition: Any
    weight: float


def nest(ladder: list[tuple[float, Callable[[], Any]]]) -> list[Branch]:
    """From the innermost condition outwards to branches with weights.

    ladder: [(ignored, null), (s_id, identity), (s_cam, camera), (s_audio, full)], each condition built on demand, so
    that one whose weight comes out as zero is never built. The weight of rung k is s_k - s_(k+1), of null 1 - s_1.
    """
    scales = [1.0] + [scale for scale, _ in ladder[1:]] + [0.0]
    weights = [scales[k] - scales[k + 1] for k in range(len(ladder))]
    return [Branch(build(), weight) for weight, (_, build) in zip(weights, ladder) if weight != 0]


def unguided(branches: list[Branch]) -> list[Branch]:
    """The outermost condition that counts (a stream at scale 0 does not), alone and unscaled."""
    return [Branch(branches[-1].condition, 1.0)]
