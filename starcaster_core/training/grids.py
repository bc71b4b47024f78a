"""Pictures of what a model can do while it is trained: the truth above, what was sampled in few steps below."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..camera.poses import angles
from ..conventions import KINDS
from ..models.starcaster import Starcaster
from ..sampling.rollout import rollout
from ..sampling.settings import Conditions, SamplerSettings
from ..types import CameraPath, Identity, Speech
from .latents import ClipSet

STEPS, COLUMNS, CLIPS = 4, 8, 2  # sampling steps; pictures of a clip; clips: few, for a grid takes time from training


def held_out(clips: ClipSet, kinds: tuple[str, ...]) -> list[int]:
    """Choose CLIPS in all, the first of each kind, of the validation split or else of the training split."""
    chosen = []
    for kind in kinds:
        rows = clips.where("val", kind).tolist() or clips.where("train", kind).tolist()
        chosen += rows[: max(1, CLIPS // len(kinds))]
    return chosen


def conditions_of(model: Starcaster, clips: ClipSet, index: int, frames: int, portrait: int) -> Conditions:
    """Return what a user would give for the first `frames` of a clip: portrait, speech where it talks, camera where it
    moves.

    portrait: the number of the frame that is the portrait.
    """
    kind = KINDS[clips.kind[index]]
    picture = decoded(model, clips.latents[index, portrait][None])[0]
    yaw, speech, camera = 0.0, None, None
    if kind != "spatial":
        features = clips.speech[index, :frames].float()
        speech = Speech(features, frames / model.config.fps, model.config.speech_encoder)
    if kind != "temporal":
        vectors = clips.camera[index, :frames].numpy()
        camera = CameraPath(vectors[:, :16].reshape(-1, 4, 4), vectors[:, 16:].reshape(-1, 3, 3))
        yaw = float(angles(clips.camera[index, portrait, :16].reshape(4, 4).numpy())[0])
    identity = Identity(clips.embedding[index].numpy(), picture, model.config.identity_backend, yaw)
    return Conditions(identity, speech, camera, frames)


def decoded(model: Starcaster, latents: Tensor) -> np.ndarray:
    """Decode latents [T, C, h, w] to frames uint8 [T, H, W, 3]."""
    frames = model.decode_frames(latents.float().transpose(0, 1)[None])
    return (frames * 255).round().to(torch.uint8).numpy()


@torch.no_grad()
def sample_grid(
    model: Starcaster, clips: ClipSet, chosen: list[int], path: Path, use_reference: bool = True, chunks: int = 1
) -> None:
    """Write a PNG: for every chosen clip COLUMNS frames of the truth (through the autoencoder), the sampled ones below,
    of its first `chunks`. Nothing without Pillow."""
    try:
        from PIL import Image
    except ImportError:
        return
    settings = replace(SamplerSettings.of(model.config), steps=STEPS, use_reference=use_reference)
    rows = []
    for index in chosen:
        frames = min(clips.latents.shape[1], chunks * model.config.chunk_frames)
        conditions = conditions_of(model, clips, index, frames, portrait=clips.camera[index, :, 3].abs().argmin())
        latents = torch.cat([chunk.latents for chunk in rollout(model, conditions, settings)], dim=2)
        shown = torch.linspace(0, frames - 1, COLUMNS).round().long()
        truth = decoded(model, clips.latents[index, shown])
        made = decoded(model, latents[0, :, shown].transpose(0, 1))
        rows += [np.concatenate(list(truth), axis=1), np.concatenate(list(made), axis=1)]
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.concatenate(rows)).save(path)
