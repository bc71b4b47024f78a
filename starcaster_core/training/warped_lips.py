"""Photos whose lips are moved to another opening, layer by layer (`models/lip_warp.py`): what training takes for the
truth."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..models.extensions.portrait_warp import pixel_centres
from ..models.lip_warp import LipField, LipLayers, compose, lay_over, layer_flows, lip_flow, lip_layers

AGREES = 0.004  # image sides: how near a layer's flow is to that of one surface where the latter is the truth
SEAM = 0.008  # image sides round the lips' inner lines, where it is not


@dataclass(frozen=True)
class WarpedLips:
    """frames [T, 3, S, S]; layers: what shows in them; flow [T, 2, SIDE, SIDE]: as of one surface; visible [T, 1, SIDE,
    SIDE]: 1 where the photo shows what the frame shows and lies where the flow says."""

    frames: Tensor
    layers: LipLayers
    flow: Tensor
    visible: Tensor


def warp_lips(photo: Tensor, field: LipField, gaps: Tensor, before: Tensor) -> WarpedLips:
    """Move a photo's lips.

    photo [1, 3, S, S], any range; field: its own, B = 1. gaps [T]: how far the lips are to be apart, image sides.
    before: the backward flow [1 or T, 2, SIDE, SIDE] from the frames to the photo with its lips moved. What shows
    nowhere in the photo (`layers.unknown`) is left to the caller.
    """
    side, count = photo.shape[-1], len(gaps)
    before = before.expand(count, -1, -1, -1)
    flows = [compose(before, lips) for lips in layer_flows(field, gaps)]
    upper, lower, still = (places_of(flow, side) for flow in (*flows, before))
    teeth, layers = lip_layers(field, upper, lower, still)
    frames = lay_over(layers, *(sample(photo, at) for at in (upper, lower, teeth)))
    flow = compose(before, lip_flow(field.way.expand(count, -1, -1, -1), field.gap, gaps))
    factor = side // flow.shape[-1]
    share, inside = (F.avg_pool2d(x, factor) for x in (layers.upper, layers.inside))
    off = (torch.lerp(flows[1], flows[0], share) - flow).norm(dim=1, keepdim=True)
    return WarpedLips(frames, layers, flow, ((off < AGREES) & (inside < 0.1)).float())


def moved_places(field: LipField, gap: Tensor) -> tuple[Tensor, Tensor]:
    """Return how far the places of a photo move when its lips are moved, [1, 2, SIDE, SIDE], and where they belong to
    either lip's layer for sure, [1, 1, SIDE, SIDE]."""
    upper, lower, above, below, _ = field.layers.split(1, dim=1)
    down = (gap - field.gap) * torch.where(above > below, upper, lower)
    return torch.cat([torch.zeros_like(down), down], dim=1), (torch.maximum(above, below) > SEAM).float()


def places_of(flow: Tensor, side: int) -> Tensor:
    """Return where the pixels of frames lie, [N, side, side, 2] in image sides, by backward flows [N, 2, F, F]."""
    large = F.interpolate(flow, (side, side), mode="bilinear", align_corners=False)
    return pixel_centres(side, flow.device) + large.movedim(1, -1)


def sample(pictures: Tensor, places: Tensor) -> Tensor:
    """Sample pictures [1 or N, 3, S, S] at places [N, h, w, 2], bicubically: [N, 3, h, w]."""
    pictures = pictures.expand(len(places), -1, -1, -1)
    return F.grid_sample(pictures, 2 * places - 1, mode="bicubic", padding_mode="reflection", align_corners=False)
