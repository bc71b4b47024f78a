"""What is measured: every clip filmed once by the model, beside the truth and the videos that give figures a range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.shards import Clip, read_clips
from ..errors import InputError
from ..identity.faces import detect
from ..identity.pose import portrait_yaw
from ..models.starcaster import Starcaster
from ..sampling.rollout import rollout
from ..sampling.settings import Conditions, SamplerSettings
from ..types import CameraPath, Identity
from .family import resized
from .probe import true_readings

KINDS = ("temporal", "spatial", "joint")
HELD_OUT = ("test", "val")  # test people first
VERSIONS = {
    "generated": "what the model made",
    "decoded": "the ground truth through the autoencoder: the best the model could do",
    "truth": "the ground truth as it was rendered: how well the instrument reads",
    "still": "the portrait standing still: a model that does nothing",
}
WRONG = "wrong"  # and the generated video held against what was not asked for


@dataclass(frozen=True)
class Take:
    """A clip and its videos, VERSIONS -> uint8 [T, S, S, 3], S the side of the model's pictures"""

    clip: Clip
    videos: dict[str, Tensor]


def choose_clips(folders: list[Path], count: int, splits: tuple[str, ...] = HELD_OUT) -> list[Clip]:
    """The first `count` clips of each kind out of some splits. Raises InputError for real videos and where none is."""
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


def film(
    model: Starcaster, clips: list[Clip], sampler: SamplerSettings, report: Callable[[str], None] = lambda line: None
) -> list[Take]:
    """Each clip generated once, from what a user would give; the slow part. `report` is told of every clip. Seeds go up
    from the sampler's, so that no two heads move alike; in a frozen instant they keep still."""
    takes = []
    for number, clip in enumerate(clips, start=1):
        side, truth = model.config.image_size, torch.from_numpy(clip.frames)
        own = replace(sampler, seed=sampler.seed + number - 1)
        if clip.info["kind"] == "spatial":
            own = replace(own, head_motion=0.0)
        generated = generate(model, conditions_of(model, clip), own)
        still = torch.from_numpy(portrait_of(clip))[None].expand(truth.shape)
        videos = (generated, as_bytes(through_autoencoder(model, truth)), resized(truth, side), resized(still, side))
        takes.append(Take(clip, dict(zip(VERSIONS, videos))))
        report(f"{number}/{len(clips)} {clip.info['kind']} {clip.key}")
    return takes


def portrait_of(clip: Clip) -> np.ndarray:
    """The most frontal frame, uint8 [S, S, 3]"""
    return clip.frames[int(np.abs(true_readings(clip)[:, 1]).argmin())]


def conditions_of(model: Starcaster, clip: Clip) -> Conditions:
    """What a user would give: a portrait (the clip's most frontal frame), its speech, its camera path."""
    portrait, yaw = portrait_of(clip), 0.0
    speech = camera = None
    if clip.audio is not None:
        speech = model.encode_speech(torch.from_numpy(clip.audio.copy()).to(model.device))
    if clip.info["kind"] != "temporal":
        camera = CameraPath(clip.truth["world_from_cam"], clip.truth["intrinsics"])
        yaw = seen_yaw(portrait)
    identity = Identity(clip.truth["embedding"], portrait, yaw=yaw)
    return Conditions(identity, speech, camera, len(clip.frames))


def seen_yaw(portrait: np.ndarray) -> float:
    """As the Identity Loader estimates it; 0 where no face is found"""
    faces = detect(portrait)
    return portrait_yaw(portrait, faces[0]) if faces else 0.0


def generate(model: Starcaster, conditions: Conditions, sampler: SamplerSettings) -> Tensor:
    """uint8 [T, S, S, 3], as a video file would hold it"""
    chunks = rollout(model, conditions, sampler)
    return torch.cat([as_bytes(model.decode_frames(chunk.latents)) for chunk in chunks])


@torch.no_grad()
def through_autoencoder(model: Starcaster, frames: Tensor) -> Tensor:
    """uint8 [T, H, W, 3] -> [T, S, S, 3] in 0..1"""
    parts = (model.encode_frames(part.float() / 255) for part in frames.split(model.config.chunk_frames))
    return torch.cat([model.decode_frames(latents) for latents in parts])


def as_bytes(frames: Tensor) -> Tensor:
    return (frames * 255).round().byte()


def strip(take: Take, columns: int = 10) -> np.ndarray:
    """Ground truth above, generated below: uint8 [2 S, columns * S, 3]"""
    rows = np.linspace(0, len(take.clip.frames) - 1, columns).round().astype(int)
    pictures = (take.videos[name][rows].numpy() for name in ("truth", "generated"))
    return np.concatenate([np.concatenate(list(row), axis=1) for row in pictures])
