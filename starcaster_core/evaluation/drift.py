"""Drift of a long video: identity, colours and sharpness over a minute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..conventions import SAMPLE_RATE
from ..data.shards import Clip
from ..errors import InputError
from ..models.mouth import LUMINANCE
from ..models.starcaster import Starcaster
from ..sampling.settings import Conditions, SamplerSettings
from ..training.latents import through_autoencoder
from ..types import Identity
from . import identity
from .metric import Figure
from .statistics import slope
from .videos import generate_video, portrait_of, to_uint8

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
class LongVideo:
    """clip: whom it shows. video: uint8 [T, S, S, 3] at `fps`. truth: the clip through the autoencoder, uint8 [t, S, S,
    3]."""

    clip: Clip
    video: Tensor
    truth: Tensor
    fps: float


def generate_long_video(model: Starcaster, clips: list[Clip], seconds: float, sampler: SamplerSettings) -> LongVideo:
    """Generate the person of the first talking clip, who says what all clips say, repeated to `seconds`; no camera is
    given.

    Raises InputError where no clip talks.
    """
    speaking = [clip for clip in clips if clip.info["kind"] == "temporal"] or [c for c in clips if c.audio is not None]
    if not speaking:
        raise InputError("a clip with speech for a long video", "silent ones", "Give clips of kind temporal.")
    clip, sound = speaking[0], np.concatenate([clip.audio for clip in speaking])
    sound = np.resize(sound, round(seconds * SAMPLE_RATE))
    speech = model.encode_speech(torch.from_numpy(sound).to(model.device))
    conditions = Conditions(Identity(clip.truth["embedding"], portrait_of(clip)), speech)
    truth = to_uint8(through_autoencoder(model, torch.from_numpy(clip.frames)))
    return LongVideo(clip, generate_video(model, conditions, sampler), truth, model.config.fps)


def measure(long: LongVideo, instruments) -> dict:
    """Measure one frame a second.

    Returns "times" in seconds; "series": figure -> {"values", "slope" a minute and its "error", "truth": mean of the
    true clip, "truth_deviation": its standard deviation}; "stranger": mean dlib distance of the person to the others of
    the gallery.
    """
    video = long.video
    at = np.arange(0, len(video), round(long.fps))
    minutes = at / long.fps / 60
    values = picture_series(video[at])
    usual = picture_series(long.truth[:: max(1, len(long.truth) // 8)])
    result = {"seconds": len(video) / long.fps, "times": (at / long.fps).tolist(), "series": {}}
    if instruments.faces:
        values["identity"], usual["identity"] = (
            distances(frames, long.clip) for frames in (video[at], long.truth[identity.frontal_frames(long.clip)])
        )
        strangers = [v for who, v in (instruments.gallery or {}).items() if who != long.clip.info["identity"]]
        if strangers:
            apart = np.linalg.norm(np.stack(strangers) - long.clip.truth["embedding"], axis=1)
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
    """Measure colours and sharpness of frames uint8 [N, S, S, 3], [N] each."""
    pixels = frames.float()
    means, deviations = pixels.mean(dim=(1, 2)), pixels.flatten(1, 2).std(dim=1)
    series = {"sharpness": sharpness(pixels).numpy()}
    for channel, name in enumerate(("red", "green", "blue")):
        series |= {name: means[:, channel].numpy(), f"{name}_std": deviations[:, channel].numpy()}
    return series


def sharpness(pixels: Tensor) -> Tensor:
    """Return the root mean square of the luminance's Laplacian, [N], of pixels [N, S, S, 3] in 0..255."""
    grey = (pixels * pixels.new_tensor(LUMINANCE)).sum(dim=-1)[:, None]
    return F.conv2d(grey, LAPLACIAN[None, None]).square().mean(dim=(1, 2, 3)).sqrt()


def distances(frames: Tensor, clip: Clip) -> np.ndarray:
    """Return the dlib distance of each frame to the clip's person, [N]; NaN where no face is found."""
    found = [identity.embed_picture(frame) for frame in frames.numpy()]
    wanted = clip.truth["embedding"]
    return np.array([np.nan if vector is None else np.linalg.norm(vector - wanted) for vector in found])
