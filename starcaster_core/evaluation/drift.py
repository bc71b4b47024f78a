"""Does a long video stay what it was? The face, the colours and the sharpness of one clip over a minute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.shards import SAMPLE_RATE, Clip
from ..errors import InputError
from ..models.mouth import LUMINANCE
from ..models.starcaster import Starcaster
from ..sampling.settings import Conditions, SamplerSettings
from ..types import Identity
from . import identity
from .family import Figure
from .footage import as_bytes, generate, portrait_of, through_autoencoder
from .statistics import slope

FIGURES = {
    "identity": Figure("dlib distance", "", "low", "of one frame a second to the person"),
    "red": Figure("red", "levels", "one", "mean of the channel, 0..255"),
    "green": Figure("green", "levels", "one", "the same"),
    "blue": Figure("blue", "levels", "one", "the same"),
    "red_std": Figure("red, contrast", "levels", "one", "standard deviation of the channel within a frame"),
    "green_std": Figure("green, contrast", "levels", "one", "the same"),
    "blue_std": Figure("blue, contrast", "levels", "one", "the same"),
    "sharpness": Figure("sharpness", "levels", "one", "root mean square of the luminance's Laplacian, 0..255"),
}
LAPLACIAN = torch.tensor([[0.0, 1, 0], [1, -4, 1], [0, 1, 0]])


@dataclass(frozen=True)
class LongTake:
    """clip: whom it shows; video uint8 [T, S, S, 3] at `fps`; truth: the clip through the autoencoder, as long as it
    is"""

    clip: Clip
    video: Tensor
    truth: Tensor
    fps: float


def film_long(model: Starcaster, clips: list[Clip], seconds: float, sampler: SamplerSettings) -> LongTake:
    """The person of the first talking clip says what all of them say, over and over, for `seconds`; the camera is free.

    Raises InputError where no clip talks.
    """
    speaking = [clip for clip in clips if clip.info["kind"] == "temporal"] or [c for c in clips if c.audio is not None]
    if not speaking:
        raise InputError("a clip with speech for a long video", "silent ones", "Give clips of kind temporal.")
    clip, sound = speaking[0], np.concatenate([clip.audio for clip in speaking])
    sound = np.resize(sound, round(seconds * SAMPLE_RATE))
    speech = model.encode_speech(torch.from_numpy(sound).to(model.device))
    conditions = Conditions(Identity(clip.truth["embedding"], portrait_of(clip)), speech)
    truth = as_bytes(through_autoencoder(model, torch.from_numpy(clip.frames)))
    return LongTake(clip, generate(model, conditions, sampler), truth, model.config.fps)


def measure(take: LongTake, instruments) -> dict:
    """times [seconds]; series: figure -> {"values", "slope" a minute and its "error", "truth": the true clip's mean,
    "truth_deviation": what is usual from second to second}; "stranger": dlib distance of the true faces to others."""
    video = take.video
    at = np.arange(0, len(video), round(take.fps))
    minutes = at / take.fps / 60
    values = picture_series(video[at])
    usual = picture_series(take.truth[:: max(1, len(take.truth) // 8)])
    result = {"seconds": len(video) / take.fps, "times": (at / take.fps).tolist(), "series": {}}
    if instruments.faces:
        values["identity"], usual["identity"] = (
            distances(frames, take.clip) for frames in (video[at], take.truth[identity.frontal_frames(take.clip)])
        )
        strangers = [v for who, v in (instruments.gallery or {}).items() if who != take.clip.info["identity"]]
        if strangers:
            apart = np.linalg.norm(np.stack(strangers) - take.clip.truth["embedding"], axis=1)
            result["stranger"] = float(apart.mean())
    for name in FIGURES:
        if name in values:
            known = usual[name][np.isfinite(usual[name])]
            result["series"][name] = {
                "values": [float(v) if np.isfinite(v) else None for v in values[name]],
                **slope(minutes, values[name]),
                "truth": float(known.mean()) if len(known) else None,
                "truth_deviation": float(known.std()) if len(known) else None,
            }
    return result


def picture_series(frames: Tensor) -> dict[str, np.ndarray]:
    """uint8 [N, S, S, 3] -> colours and sharpness of each frame, [N]"""
    pixels = frames.float()
    means, deviations = pixels.mean(dim=(1, 2)), pixels.flatten(1, 2).std(dim=1)
    series = {"sharpness": sharpness(pixels).numpy()}
    for channel, name in enumerate(("red", "green", "blue")):
        series |= {name: means[:, channel].numpy(), f"{name}_std": deviations[:, channel].numpy()}
    return series


def sharpness(pixels: Tensor) -> Tensor:
    """[N, S, S, 3] in 0..255 -> [N]"""
    grey = (pixels * pixels.new_tensor(LUMINANCE)).sum(dim=-1)[:, None]
    return F.conv2d(grey, LAPLACIAN[None, None]).square().mean(dim=(1, 2, 3)).sqrt()


def distances(frames: Tensor, clip: Clip) -> np.ndarray:
    """dlib distance of each frame to the clip's person, NaN where no face is found"""
    found = [identity.embed_picture(frame) for frame in frames.numpy()]
    wanted = clip.truth["embedding"]
    return np.array([np.nan if vector is None else np.linalg.norm(vector - wanted) for vector in found])
