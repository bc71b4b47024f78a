"""Reconstruction: PSNR and SSIM against the true frames, where the camera is known and nobody speaks."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.shards import Clip
from .metric import Figure, resized, to_float

NAME, TITLE = "reconstruction", "Reconstruction"
FIGURES = {
    "psnr": Figure("PSNR", "dB", "high", "against the true frames; 60 dB at most, which is equality"),
    "ssim": Figure("SSIM", "", "high", "structural similarity to the true frames, window of 11 pixels"),
}
LEAST_ERROR = 1e-6  # mean squared; equal pictures would be infinitely alike


def is_available(instruments) -> bool:
    return True


def applies(clip: Clip) -> bool:
    return clip.info["kind"] == "spatial"


def extract(instruments, video: Tensor, clip: Clip) -> Tensor:
    return video


@torch.no_grad()
def score(instruments, video: Tensor, target: Clip) -> dict[str, float]:
    from kornia.metrics import ssim

    truth = resized(torch.from_numpy(target.frames[: len(video)]), video.shape[1])
    seen, truth = to_float(video[: len(truth)])[0], to_float(truth)[0]
    error = (seen - truth).square().mean().clamp(min=LEAST_ERROR)
    return {"psnr": float(-10 * torch.log10(error)), "ssim": float(ssim(seen, truth, window_size=11).mean())}


def negative(clip: Clip, other: Clip) -> Clip:
    """Return another clip: another person and camera path."""
    return other
