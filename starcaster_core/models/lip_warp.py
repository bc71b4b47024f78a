"""Warp a photo's lips to another opening.

The landmarks of the lips are moved, chin and jaw go with the lower lip, and what lies between follows linearly over the
landmarks' triangles (Delaunay). How places move is a field of the photo, computed once; a frame's flow is that field
times how much further the mouth is open. Positions and flows are in image sides, x right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..conventions import smoothstep
from .extensions.portrait_warp import warp

# MediaPipe's numbers, each row from the subject's right corner to the left one; corners belong to the upper lip.
OUTER_UPPER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291)
OUTER_LOWER = (146, 91, 181, 84, 17, 314, 405, 321, 375)
INNER_UPPER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
INNER_LOWER = (95, 88, 178, 87, 14, 317, 402, 318, 324)
UPPER = (*OUTER_UPPER, 76, 184, 74, 73, 72, 11, 302, 303, 304, 408, 306)
UPPER += (62, 183, 42, 41, 38, 12, 268, 271, 272, 407, 292, *INNER_UPPER)
LOWER = (*OUTER_LOWER, 77, 90, 180, 85, 16, 315, 404, 320, 307, 96, 89, 179, 86, 15, 316, 403, 319, 325, *INNER_LOWER)
OUTLINE = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377, 152, 148, 176, 149)
OUTLINE += (150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)
RIGHT_CORNER, LEFT_CORNER = 78, 308  # where the inner lips meet
UPPER_MIDDLE, LOWER_MIDDLE, CHIN = 13, 14, 152
SURFACE = 468  # points of the face; the irises after them lie over the eyes' outlines

SIDE = 128  # of fields and flows
UPPER_SHARE = 0.25  # of a change of the opening: the upper lip's; the jaw does the rest
CORNER_SHARE = 0.35  # of the lower lip's way: how far the corners go along
JAW_WIDTH = 1.2  # half mouths from the middle, over which skin between lip and chin goes along
AROUND = 1.3  # of the face's outline: where everything rests
CLOSED = 0.002  # image sides: lips that meet. Nearer, the triangles could turn over
STEPS = 12  # of the inversion


@dataclass(frozen=True)
class LipField:
    """way: float32 [B, 2, SIDE, SIDE], how far a place of the photo moves when the mouth opens by one. gap: [B], how
    far the photo's inner lips are apart, image sides."""

    way: Tensor
    gap: Tensor

    def to(self, device: torch.device) -> LipField:
        return LipField(self.way.to(device), self.gap.to(device))


def mouth_gap(points: np.ndarray) -> float:
    """Return how far the inner lips are apart, in the units of landmarks [478, 2 or 3]."""
    return float(np.linalg.norm(points[UPPER_MIDDLE, :2] - points[LOWER_MIDDLE, :2]))


def mouth_width(points: np.ndarray) -> float:
    """Return how far the outer corners of the mouth are apart, in the units of landmarks [478, 2 or 3]."""
    return float(np.linalg.norm(points[OUTER_UPPER[0], :2] - points[OUTER_UPPER[-1], :2]))


def lip_directions(points: np.ndarray) -> np.ndarray:
    """Return how landmarks [478, 2] move when the mouth opens by one: [478, 2]."""
    x, y = points[:, 0], points[:, 1]
    right, left = points[RIGHT_CORNER], points[LEFT_CORNER]
    middle, half = (right + left) / 2, max(abs(left[0] - right[0]) / 2, 1e-6)
    across = (x - middle[0]) / half
    lens = np.clip(1 - across**2, 0, 1)  # the opening's shape
    down, up = 1 - UPPER_SHARE, UPPER_SHARE
    below = smoothstep((y - middle[1]) / max(points[CHIN, 1] - middle[1], 1e-6))
    jaw = 1 - (1 - below) * (1 - np.exp(-((across / JAW_WIDTH) ** 2)))
    ways = np.where(y > middle[1], down * jaw, 0.0)
    upper, lower = list(UPPER), list(LOWER)
    ways[upper] = CORNER_SHARE * down * (1 - lens[upper]) - up * lens[upper]
    ways[lower] = down * (CORNER_SHARE + (1 - CORNER_SHARE) * lens[lower])
    return np.stack([np.zeros_like(ways), ways], axis=1)


def lip_field(points: np.ndarray) -> LipField:
    """Return the field, B = 1, of a photo's landmarks [478, 2 or 3], image sides."""
    from scipy.interpolate import LinearNDInterpolator

    points = np.asarray(points, np.float64)[:, :2]
    middle = points[list(OUTLINE)].mean(0)
    around = middle + AROUND * (points[list(OUTLINE)] - middle)
    beyond = [(x, y) for x in (-0.5, 0.5, 1.5) for y in (-0.5, 0.5, 1.5) if (x, y) != (0.5, 0.5)]
    places = np.concatenate([points[:SURFACE], around, np.array(beyond)])
    ways = np.concatenate([lip_directions(points)[:SURFACE], np.zeros((len(around) + len(beyond), 2))])
    ticks = (np.arange(SIDE) + 0.5) / SIDE
    field = LinearNDInterpolator(places, ways, fill_value=0.0)(np.stack(np.meshgrid(ticks, ticks), axis=-1))
    return LipField(torch.from_numpy(field).float().permute(2, 0, 1)[None], torch.tensor([mouth_gap(points)]))


def lip_flow(way: Tensor, own_gap: Tensor, gap: Tensor) -> Tensor:
    """Return the backward flow [N, 2, SIDE, SIDE] into photos that makes mouths `gap` [N] open.

    way [N, 2, SIDE, SIDE] and own_gap [1 or N]: the photos' LipField.

    A place p of the frame lies at q of the photo with q + change * way(q) = p, found by damped iteration.
    """
    change = (gap.clamp(min=CLOSED) - own_gap.clamp(min=CLOSED))[:, None, None, None]
    flow = torch.zeros_like(way)
    for _ in range(STEPS):
        flow = 0.5 * flow - 0.5 * change * warp(way, flow)
    return flow


def compose(first: Tensor, then: Tensor) -> Tensor:
    """Return the backward flow p -> first(p) + then(p + first(p)) of flows [N, 2, F, F]."""
    return first + warp(then, first)
