"""Is it the very picture? Where speech is off and the camera known, the truth is the only right answer."""

from __future__ import annotations

import torch
from torch import Tensor

from ..data.shards import Clip
from .family import Figure, floats, resized

NAME, TITLE = "reconstruction", "Reconstruction"
FIGURES = {
    "psnr": Figure("PSNR", "dB", "high", "against the true frames; 60 dB at most, which is equality"),
    "ssim": Figure("SSIM", "", "high", "structural similarity to the true frames, window of 11 pixels"),
}
LEAST_ERROR = 1e-6  # mean squared; equal pictures would be infinitely alike


def ready(instruments) -> bool:
    return True


def applies(clip: Clip) -> bool:
    return clip.info["kind"] == "spatial"


def read(instruments, video: Tensor, clip: Clip) -> Tensor:
    return video


@torch.no_grad()
def judge(instruments, video: Tensor, asked: Clip) -> dict[str, float]:
    from kornia.metrics import ssim

    truth = resized(torch.from_numpy(asked.frames[: len(video)]), video.shape[1])
    seen, truth = floats(video[: len(truth)])[0], floats(truth)[0]
    error = (seen - truth).square().mean().clamp(min=LEAST_ERROR)
    return {"psnr": float(-10 * torch.log10(error)), "ssim": float(ssim(seen, truth, window_size=11).mean())}


def wrong(clip: Clip, other: Clip) -> Clip:
    """Another person from elsewhere"""
    return other
