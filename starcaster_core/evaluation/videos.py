"""What is measured: one generated video for each clip, beside the ground truth and the videos that give figures a
range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..conventions import KINDS
from ..data.shards import Clip, read_clips
from ..data.truth import true_readings
from ..errors import InputError
from ..identity.landmarks import find_landmarks
from ..models.starcaster import Starcaster
from ..pipeline import generate_frames
from ..sampling.settings import Conditions, SamplerSettings
from ..training.latents import through_autoencoder
from ..types import CameraPath, Identity
from .metric import resized

HELD_OUT = ("test", "val")  # splits; test people first
VERSIONS = {
    "generated": "what the model made",
    "decoded": "the ground truth through the autoencoder: the best the model could do",
    "truth": "the ground truth as it was rendered: how well the instrument reads",
    "still": "the portrait standing still: a model that does nothing",
}
WRONG = "wrong"  # the generated video, scored against another clip's conditions


@dataclass(frozen=True)
class EvaluatedClip:
    """A clip and its videos, one of each of VERSIONS, uint8 [T, S, S, 3]; S: side of the model's frames."""

    clip: Clip
    videos: dict[str, Tensor]


def choose_clips(folders: list[Path], count: int, splits: tuple[str, ...] = HELD_OUT) -> list[Clip]:
    """Return the first `count` clips of each kind from some splits.

    Raises InputError for clips of real videos, and where there is no clip.
    """
    chosen = []
    for kind in KINDS:
        found = (c for split in splits for folder in folders for c in read_clips(folder, split, kinds=(kind,)))
        chosen += [clip for clip, _ in zip(found, range(count))]
    if not chosen:
        where = ", ".join(map(str, folders))
        raise InputError(f"clips of {' or '.join(splits)} people", f"none in {where}", "Make some with `synth`.")
    for clip in chosen:
        if "head_rotation" not in clip.truth:
            raise InputError("clips with exact ground truth", f"{clip.key}, a real video", "Give folders of `synth`.")
    return chosen


def generate_videos(
    model: Starcaster, clips: list[Clip], sampler: SamplerSettings, report: Callable[[str], None] = lambda line: None
) -> list[EvaluatedClip]:
    """Generate a video for each clip from its portrait, speech and camera path.

    report: called with a line of text after each clip. The seed increases by one from clip to clip, so that no two
    heads move alike. Clips of kind "spatial" are generated without head motion.
    """
    evaluated_clips = []
    for number, clip in enumerate(clips, start=1):
        side, truth = model.config.image_size, torch.from_numpy(clip.frames)
        settings = replace(sampler, seed=sampler.seed + number - 1)
        if clip.info["kind"] == "spatial":
            settings = replace(settings, head_motion=0.0)
        generated = generate_video(model, conditions_of(model, clip), settings)
        still = torch.from_numpy(portrait_of(clip))[None].expand(truth.shape)
        videos = (generated, to_uint8(through_autoencoder(model, truth)), resized(truth, side), resized(still, side))
        evaluated_clips.append(EvaluatedClip(clip, dict(zip(VERSIONS, videos))))
        report(f"{number}/{len(clips)} {clip.info['kind']} {clip.key}")
    return evaluated_clips


def portrait_of(clip: Clip) -> np.ndarray:
    """Return the most frontal frame, uint8 [S, S, 3]."""
    return clip.frames[int(np.abs(true_readings(clip)[:, 1]).argmin())]


def conditions_of(model: Starcaster, clip: Clip) -> Conditions:
    """Return what a user would give: a portrait (the most frontal frame), the clip's speech, and its camera path if it
    moves."""
    portrait, yaw = portrait_of(clip), 0.0
    speech = camera = None
    if clip.audio is not None:
        speech = model.encode_speech(torch.from_numpy(clip.audio.copy()).to(model.device))
    if clip.info["kind"] != "temporal":
        camera = CameraPath(clip.truth["world_from_cam"], clip.truth["intrinsics"])
        yaw = portrait_yaw(portrait)
    identity = Identity(clip.truth["embedding"], portrait, yaw=yaw)
    return Conditions(identity, speech, camera, len(clip.frames))


def portrait_yaw(portrait: np.ndarray) -> float:
    """Return the yaw in degrees as the Identity Loader measures it, 0 where no face is found; uint8 [S, S, 3]."""
    found = find_landmarks(portrait)
    return found.pose.yaw if found else 0.0


def generate_video(model: Starcaster, conditions: Conditions, sampler: SamplerSettings) -> Tensor:
    """Generate a video as a file would hold it, uint8 [T, S, S, 3]."""
    return torch.cat([to_uint8(frames) for frames in generate_frames(model, conditions, sampler)])


def to_uint8(frames: Tensor) -> Tensor:
    """Round frames in 0..1 to 256 levels, any shape."""
    return (frames * 255).round().byte()


def frame_strip(evaluated: EvaluatedClip, columns: int = 10) -> np.ndarray:
    """Return evenly spaced frames side by side, ground truth above, generated below: uint8 [2 S, columns * S, 3]."""
    rows = np.linspace(0, len(evaluated.clip.frames) - 1, columns).round().astype(int)
    pictures = (evaluated.videos[name][rows].numpy() for name in ("truth", "generated"))
    return np.concatenate([np.concatenate(list(row), axis=1) for row in pictures])
