"""Mouths cut out of frames: small grey squares, differentiable in the frames, at rest while the lips move."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError

SIDE = 40  # pixels of a crop; as many as a mouth with its margin has in a picture of NATIVE pixels
NATIVE = 128
CALM = 13  # frames over which a box's place is averaged: half a second at 25 fps
LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601


def steady_squares(boxes: Tensor) -> Tensor:
    """Boxes round the mouth [B, T, 4] -> squares [B, T, 4] that follow the head and not the lips.

    x0, y0, x1, y1 in any unit. A landmark box grows as the lips part: a crop cut along it would show, or hide, movement
    that is the box's and not the mouth's. So a clip has one size, its mean width, and the centre is averaged over CALM
    frames.
    """
    corners = boxes.unflatten(-1, (2, 2))
    half = (corners[..., 1, 0] - corners[..., 0, 0]).mean(dim=1)[:, None, None] / 2
    centre = corners.mean(dim=-2).transpose(1, 2)
    # At the clip's ends over the frames there are: repeating the last one would let its lips decide.
    centre = F.avg_pool1d(centre, CALM, stride=1, padding=CALM // 2, count_include_pad=False).transpose(1, 2)
    return torch.cat([centre - half, centre + half], dim=-1)


def mouth_crops(frames: Tensor, boxes: Tensor, side: int = SIDE) -> Tensor:
    """frames [B, T, 3, S, S] in 0..1, RGB, and boxes [B, T, 4] round the mouth (x0, y0, x1, y1 as shares of the frame's
    side) -> luminance [B, T, side, side] in 0..1, rows from the top.

    A larger `side` shows more around the mouth, at the same scale. Gradients reach the frames; beyond the frame, its
    edge goes on. In larger frames each pixel is the mean of several samples, so that none is passed over.
    Raises InputError for frames that are not square and for boxes that do not fit them.
    """
    batch, count, _, height, width = frames.shape
    if height != width:
        raise InputError("square frames", f"{width}x{height}", "Crop them round the face first.")
    if boxes.shape != (batch, count, 4):
        raise InputError(
            f"a box for each frame, [{batch}, {count}, 4]", f"{list(boxes.shape)}", "Give one box a frame."
        )
    squares = steady_squares(boxes.to(frames.dtype)).flatten(0, 1)
    grey = (frames * frames.new_tensor(LUMINANCE)[:, None, None]).sum(dim=2).reshape(-1, 1, height, width)

    density = max(1, round(height / NATIVE))
    samples = side * density
    centres = (2 * torch.arange(samples, device=frames.device, dtype=frames.dtype) + 1) / samples - 1  # in -1..1
    reach = (squares[:, 2:] - squares[:, :2]) * side / SIDE  # of a frame's -1..1, so twice the half side
    middle = squares[:, :2] + squares[:, 2:] - 1
    x = middle[:, None, 0:1] + centres[None, None, :] * reach[:, None, 0:1]
    y = middle[:, None, 1:2] + centres[None, :, None] * reach[:, None, 1:2]
    grid = torch.stack(torch.broadcast_tensors(x, y), dim=-1)
    crops = F.grid_sample(grey, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return F.avg_pool2d(crops, density).reshape(batch, count, side, side)
