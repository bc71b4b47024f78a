"""The lip-reading loss: what a lip reader sees in the predicted mouth against what it sees in the true one.

One-step x0 -> decode -> mouth crop -> features, L2 (the paper's identity-aware stage adds it with weight 1). Only a window
of latents round the mouth is decoded, because decoding is most of what the loss costs, in time and in memory.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..models.lipreader import LipReader

WINDOW = 0.5  # of the picture's side: a mouth and what the decoder looks at beside it


class LipLoss:
    """Call with latents [B, C, T, h, w] as the UNet sees them, predicted and true, and mouth boxes [B, T, 4] (x0, y0, x1,
    y1 as shares of the picture) -> mean squared distance of the reader's features, scalar. Gradients reach `predicted`."""

    def __init__(self, reader: LipReader, vae: nn.Module, scaling_factor: float, window: float = WINDOW):
        self.reader, self.vae, self.scaling_factor, self.window = reader, vae, scaling_factor, window

    def __call__(self, predicted: Tensor, true: Tensor, boxes: Tensor) -> Tensor:
        meant = self.features(true, boxes).detach()
        return (self.features(predicted, boxes) - meant).square().mean()

    def features(self, latents: Tensor, boxes: Tensor) -> Tensor:
        """[B, T, F]"""
        around, boxes = cut_windows(latents, boxes, self.window)
        batch, _, frames, _, _ = around.shape
        pictures = self.vae.decode(around.transpose(1, 2).flatten(0, 1) / self.scaling_factor)
        pictures = (pictures.float() / 2 + 0.5).unflatten(0, (batch, frames))
        return self.reader.features(pictures, boxes)


def cut_windows(latents: Tensor, boxes: Tensor, share: float) -> tuple[Tensor, Tensor]:
    """The square window of latents [B, C, T, h, w] round each clip's mouth, `share` of the side, and the boxes as shares
    of it. One window a clip: the mouth is to move in it."""
    side = latents.shape[-1]
    width = min(side, max(1, round(share * side)))
    middle = (boxes[..., :2] + boxes[..., 2:]).mean(dim=1) / 2
    corners = (middle * side - width / 2).round().long().clamp(0, side - width)
    windows = [clip[..., y : y + width, x : x + width] for clip, (x, y) in zip(latents.unbind(0), corners.tolist())]
    shift = (corners / side).repeat(1, 2)[:, None]
    return torch.stack(windows), (boxes - shift) * side / width
