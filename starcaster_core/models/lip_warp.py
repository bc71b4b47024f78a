"""Warp a photo's lips to another opening.

The landmarks of the lips are moved, chin and jaw go with the lower lip, and what lies between follows linearly over the
landmarks' triangles (Delaunay). How places move is a field of the photo, computed once; a frame's flow is that field
times how much further the mouth is open. Positions and flows are in image sides, x right and y down.

One field smears the line where closed lips meet over the mouth that opens. So there are three layers besides, each of
which moves smoothly: the upper lip and the lower lip with all that is round them, each ending at its inner line, and
behind them the photo's teeth, which keep still while the lips move.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
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
SOFT = 0.003  # image sides, over which a lip's edge fades: about a pixel and a half at 512
TEETH_EDGE = 0.006  # image sides from the photo's upper lip, nearer than which teeth are dark with its shadow
HIGHER = 0.5  # of what a photo shows of the teeth: how far they go on behind a lip that rises
LAYERS = 5  # channels of `LipField.layers`


@dataclass(frozen=True)
class LipField:
    """How the mouth of a photo opens.

    way: float32 [B, 2, SIDE, SIDE], how far a place of the photo moves when the mouth opens by one. gap: [B], how far
    the photo's inner lips are apart, image sides. layers: [B, LAYERS, SIDE, SIDE], how far down a place moves as part
    of the upper lip's layer and of the lower one's; how far it lies above the upper lip's inner line and below the
    lower one's, image sides; where it lies across the mouth, -1 to 1 from corner to corner. Zeros: nothing is known,
    nothing moves.
    """

    way: Tensor
    gap: Tensor
    layers: Tensor

    @property
    def width(self) -> Tensor:
        """How far the corners are apart, [B, 1, 1, 1] in image sides; very much where the lips are not known."""
        across = self.layers[:, 4:]
        slope = (across[..., 1:] - across[..., :-1]).amax(dim=(1, 2, 3), keepdim=True)
        return 2 / (SIDE * slope).clamp(min=1e-6)

    def to(self, device: torch.device) -> LipField:
        return LipField(self.way.to(device), self.gap.to(device), self.layers.to(device))


@dataclass(frozen=True)
class LipLayers:
    """What shows at places of a frame, each [N, 1, h, w].

    upper: the upper lip's share of the lips, 0..1. inside: the share of what lies between the lips. teeth: of that, the
    share that the photo shows, too. above, below: how far into the upper and the lower lip, image sides, negative
    between the lips. across: -1 to 1 from corner to corner. width: of the mouth, [B, 1, 1, 1] in image sides.
    """

    upper: Tensor
    inside: Tensor
    teeth: Tensor
    above: Tensor
    below: Tensor
    across: Tensor
    width: Tensor

    @property
    def unknown(self) -> Tensor:
        """What no place of the photo shows, 0..1."""
        return self.inside * (1 - self.teeth)


def mouth_gap(points: np.ndarray) -> float:
    """Return how far the inner lips are apart, in the units of landmarks [478, 2 or 3]."""
    return float(np.linalg.norm(points[UPPER_MIDDLE, :2] - points[LOWER_MIDDLE, :2]))


def mouth_width(points: np.ndarray) -> float:
    """Return how far the outer corners of the mouth are apart, in the units of landmarks [478, 2 or 3]."""
    return float(np.linalg.norm(points[OUTER_UPPER[0], :2] - points[OUTER_UPPER[-1], :2]))


def lip_directions(points: np.ndarray, lips: tuple[tuple[int, ...], tuple[int, ...]] = (UPPER, LOWER)) -> np.ndarray:
    """Return how landmarks [478, 2] move when the mouth opens by one: [478, 2]. lips: which belong to the upper and to
    the lower lip."""
    x, y = points[:, 0], points[:, 1]
    right, left = points[RIGHT_CORNER], points[LEFT_CORNER]
    middle, half = (right + left) / 2, max(abs(left[0] - right[0]) / 2, 1e-6)
    across = (x - middle[0]) / half
    lens = np.clip(1 - across**2, 0, 1)  # the opening's shape
    down, up = 1 - UPPER_SHARE, UPPER_SHARE
    below = smoothstep((y - middle[1]) / max(points[CHIN, 1] - middle[1], 1e-6))
    jaw = 1 - (1 - below) * (1 - np.exp(-((across / JAW_WIDTH) ** 2)))
    ways = np.where(y > middle[1], down * jaw, 0.0)
    upper, lower = list(lips[0]), list(lips[1])
    ways[upper] = CORNER_SHARE * down * (1 - lens[upper]) - up * lens[upper]
    ways[lower] = down * (CORNER_SHARE + (1 - CORNER_SHARE) * lens[lower])
    return np.stack([np.zeros_like(ways), ways], axis=1)


def lip_lines(points: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the height of the upper and of the lower lip's inner line at places x; beyond the corners theirs."""
    lines = []
    for lip in (INNER_UPPER, (RIGHT_CORNER, *INNER_LOWER, LEFT_CORNER)):
        line = points[list(lip), :2]
        lines.append(np.interp(x, np.maximum.accumulate(line[:, 0]), line[:, 1]))
    return lines[0], np.maximum(*lines)


def lip_field(points: np.ndarray) -> LipField:
    """Return the field, B = 1, of a photo's landmarks [478, 2 or 3], image sides."""
    points = np.asarray(points, np.float64)[:, :2]
    middle = points[list(OUTLINE)].mean(0)
    around = middle + AROUND * (points[list(OUTLINE)] - middle)
    beyond = [(x, y) for x in (-0.5, 0.5, 1.5) for y in (-0.5, 0.5, 1.5) if (x, y) != (0.5, 0.5)]
    places = np.concatenate([points[:SURFACE], around, np.array(beyond)])
    # The lips as they are, and either layer, in which both lips move as one: smooth across the line where they meet.
    both = UPPER + LOWER
    ways = np.stack([lip_directions(points, lips)[:SURFACE, 1] for lips in ((UPPER, LOWER), (both, ()), ((), both))], 1)
    ways = np.concatenate([ways, np.zeros((len(around) + len(beyond), 3))])
    ticks = (np.arange(SIDE) + 0.5) / SIDE
    x, y = np.meshgrid(ticks, ticks)
    way, upper, lower = np.moveaxis(interpolate(places, ways, np.stack([x, y], axis=-1)), -1, 0)
    upper_line, lower_line = lip_lines(points, x)
    right, left = points[RIGHT_CORNER, 0], points[LEFT_CORNER, 0]
    across = (2 * x - right - left) / max(left - right, 1e-6)
    layers = np.stack([upper, lower, upper_line - y, y - lower_line, across.clip(-1, 1)])
    field = torch.from_numpy(np.stack([np.zeros_like(way), way])).float()[None]
    return LipField(field, torch.tensor([mouth_gap(points)]), torch.from_numpy(layers).float()[None])


def interpolate(places: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Interpolate values [N, C] at places [N, 2] linearly over their Delaunay triangles: [..., C] at `wanted` [..., 2],
    zeros outside."""
    from scipy.spatial import Delaunay  # scipy.interpolate does the same and takes twice as long to import

    triangles = Delaunay(places)
    index = triangles.find_simplex(wanted)
    to_weights, origin = np.split(triangles.transform[index], [2], axis=-2)
    weights = np.einsum("...ij,...j->...i", to_weights, wanted - origin[..., 0, :])
    weights = np.concatenate([weights, 1 - weights.sum(-1, keepdims=True)], axis=-1)
    found = np.einsum("...i,...ic->...c", weights, values[triangles.simplices[index]])
    return np.where(index[..., None] < 0, 0.0, found)


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


def layer_flows(field: LipField, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Return the backward flows [N, 2, SIDE, SIDE] of the upper and of the lower lip's layer, as `lip_flow`.

    Layers move smoothly: half the resolution is enough, and takes a quarter of the time.
    """
    flows = []
    for way in F.avg_pool2d(field.layers[:, :2], 2).split(1, dim=1):
        both = torch.cat([torch.zeros_like(way), way], dim=1).expand(len(gap), -1, -1, -1)
        flow = lip_flow(both, field.gap, gap)
        flows.append(F.interpolate(flow, (SIDE, SIDE), mode="bilinear", align_corners=False))
    return flows[0], flows[1]


def lip_layers(field: LipField, upper: Tensor, lower: Tensor, still: Tensor) -> tuple[Tensor, LipLayers]:
    """Return where the teeth lie in the photo, [N, h, w, 2], and what shows in a frame.

    upper, lower, still [N, h, w, 2]: where the frame's places lie in the photo as part of the upper lip's layer, of the
    lower one's, and of what moves with neither. Where the upper lip has risen, the teeth's upper edge goes on, up to
    HIGHER of what the photo shows of them.
    """
    above, (below, across) = sample_layers(field, 2, 3, upper), sample_layers(field, 3, 5, lower).split(1, dim=1)
    behind, under = sample_layers(field, 2, 4, still).split(1, dim=1)  # the photo's upper lip; its lower one
    edge = (behind - above).clamp(0, TEETH_EDGE)  # none where it has not risen
    teeth = torch.stack([still[..., 0], still[..., 1] + (behind + edge).clamp(min=0)[:, 0]], dim=-1)
    depth = -sample_layers(field, 3, 4, teeth)  # above the photo's lower lip
    fallen = (-depth - below).clamp(0, SOFT)  # none where the lower lip has not fallen
    higher = behind + HIGHER * (behind + under)  # the sum is how far the photo's lips are apart there, negative
    layers = LipLayers(
        upper=(0.5 + (above - below) / (2 * SOFT)).clamp(0, 1),
        inside=(-torch.maximum(above, below) / SOFT).clamp(0, 1),
        teeth=(1 + (depth - 2 * fallen) / SOFT).clamp(0, 1) * (1 - higher / SOFT).clamp(0, 1),
        above=above,
        below=below,
        across=across,
        width=field.width,
    )
    return teeth, layers


def sample_layers(field: LipField, first: int, last: int, places: Tensor) -> Tensor:
    """Return channels first .. last - 1 of a field's layers at places [N, h, w, 2]: [N, last - first, h, w]."""
    layers = field.layers[:, first:last].expand(len(places), -1, -1, -1)
    return F.grid_sample(layers, 2 * places - 1, padding_mode="border", align_corners=False)


def lay_over(layers: LipLayers, upper: Tensor, lower: Tensor, teeth: Tensor) -> Tensor:
    """Lay pictures [N, C, h, w] of the layers over each other."""
    return torch.lerp(torch.lerp(lower, upper, layers.upper), teeth, layers.inside)
