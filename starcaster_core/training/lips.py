"""The lip-reading loss: what a lip reader sees in the predicted mouth against what it sees in the true one.

One-step x0 -> decode -> mouth crop -> features, L2 (the paper's identity-aware stage adds it with weight 1). Only a
window of latents round the mouth is decoded, because decoding is most of what the loss costs, in time and in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..models.lipreader import LipReader

WINDOW = 0.5  # of the picture's side: a mouth and what the decoder looks at beside it


class LipLoss:
    """Call with latents [B, C, T, h, w] as the UNet sees them, predicted and true, and mouth boxes [B, T, 4] (x0, y0,
    x1, y1 as fractions of the picture) -> mean squared distance of the reader's features, scalar. Gradients reach
    `predicted`.

    window: fraction of the picture's side that is decoded. frame_by_frame: decode one frame at a time, and again for
    the gradient, so that no more than one frame's activations are ever in memory."""

    def __init__(
        self,
        reader: LipReader,
        vae: nn.Module,
        scaling_factor: float,
        window: float = WINDOW,
        frame_by_frame: bool = False,
    ):
        self.reader, self.vae, self.scaling_factor = reader, vae, scaling_factor
        self.window, self.frame_by_frame = window, frame_by_frame

    def __call__(self, predicted: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
        with torch.no_grad():
            meant = self.features(true, boxes)
        return (self.features(predicted, boxes) - meant).square().mean()

    def features(self, latents: Tensor, boxes: Tensor) -> Tensor:
        """Return the lip reader's features [B, T, F] of latents."""
        around, boxes = cut_windows(latents, boxes, self.window)
        batch, _, frames, _, _ = around.shape
        raw = around.transpose(1, 2).flatten(0, 1) / self.scaling_factor
        if self.frame_by_frame:
            pictures = torch.cat([checkpoint(self.vae.decode, frame, use_reentrant=False) for frame in raw.split(1)])
        else:
            pictures = self.vae.decode(raw)
        pictures = (pictures.float() / 2 + 0.5).unflatten(0, (batch, frames))
        return self.reader.features(pictures, boxes)


def cut_windows(latents: Tensor, boxes: Tensor, fraction: float) -> tuple[Tensor, Tensor]:
    """Cut the square window round each clip's mouth out of latents [B, C, T, h, w]; return it and the boxes in its
    units.

    fraction: of the side. One window a clip: the mouth is to move in it.
    """
    side = latents.shape[-1]
    width = min(side, max(1, round(fraction * side)))
    middle = (boxes[..., :2] + boxes[..., 2:]).mean(dim=1) / 2
    corners = (middle * side - width / 2).round().long().clamp(0, side - width)
    windows = [clip[..., y : y + width, x : x + width] for clip, (x, y) in zip(latents.unbind(0), corners.tolist())]
    shift = (corners / side).repeat(1, 2)[:, None]
    return torch.stack(windows), (boxes - shift) * side / width
