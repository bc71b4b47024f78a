"""Mouth crops for training: cut out of every clip once, kept in memory as bytes, augmented anew at every step.

Generated frames are softer and less exact than rendered ones, so a clip is also kept as the autoencoder gives it back.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..conventions import KINDS, SPLITS
from ..data.shards import Clip, find_shards, readable_clips
from ..data.truth import lip_opening
from ..data.visemes import SHAPES, shapes_of
from ..errors import InputError
from ..models.mouth import SIDE, mouth_crops, steady_squares
from .loop import autocast

VISEMES = tuple(SHAPES)
REST = VISEMES.index("rest")
SPEAKING = tuple(kind for kind in KINDS if kind != "spatial")  # kinds of clips that have sound
HELD_OUT = SPLITS[1:]

WIDE = 56  # pixels of what is kept: room to shift and scale a crop of SIDE
ROOM = WIDE / SIDE
SCALES, SHIFT, SHAKE = (0.88, 1.14), 0.10, 0.015  # of a crop; shares of its side
LATENT_NOISE = 0.3  # at most, before decoding: the errors of a denoiser


@dataclass
class Mouths:
    """N clips of T frames in memory.

    crops uint8 [N, T, WIDE, WIDE], luminance; decoded: the same, each clip as an autoencoder gives it back (or crops
    again). visemes int64 [N, T] into VISEMES. opening float32 [N, T], lips apart as a share of the side of a crop of
    SIDE. sound float32 [N, samples], 16 kHz mono.
    """

    crops: Tensor
    decoded: Tensor
    visemes: Tensor
    opening: Tensor
    sound: Tensor

    def __len__(self) -> int:
        return len(self.crops)


def checkpoint_autoencoder(model: str | None) -> nn.Module | None:
    """Load the autoencoder of 'mini' or of a checkpoint file, in float32; None for None."""
    from ..models.checkpoint import load_checkpoint

    return load_checkpoint(model, torch.float32).vae if model else None


@torch.no_grad()
def load_mouths(
    folders: list[Path],
    splits: tuple[str, ...],
    vae: nn.Module | None = None,
    seed: int = 0,
    left_out: dict[str, str] | None = None,
) -> Mouths:
    """The speaking clips of some splits, of synthetic sets whose clips are equally long. left_out: takes why others
    cannot be used, by shard or clip. Raises InputError where there is none."""
    left_out = {} if left_out is None else left_out
    rows: dict[str, list[Tensor]] = {field.name: [] for field in fields(Mouths)}
    generator = torch.Generator().manual_seed(seed)
    for folder in folders:
        for split in splits:
            for clip in readable_clips(find_shards(folder), left_out, split, SPEAKING):
                if reason := unusable(clip, rows["crops"]):
                    left_out[f"{folder}: {clip.key}"] = reason
                    continue
                for name, value in mouths_of(clip, vae, generator).items():
                    rows[name].append(value)
    if not rows["crops"]:
        raise InputError(
            "clips of synthetic people speaking", f"none in {', '.join(map(str, folders))}", "Run `synth`."
        )
    return Mouths(**{name: torch.stack(values) for name, values in rows.items()})


def unusable(clip: Clip, before: list[Tensor]) -> str:
    """Say why a clip cannot be read lips from; "" where it can. before: the crops of the clips so far."""
    if clip.audio is None:
        return "no sound"
    if "upper_lip_bottom" not in clip.info["landmark_names"]:
        return "no landmarks of the lips: a clip of a real video"
    if before and len(clip.frames) != len(before[0]):
        return f"{len(clip.frames)} frames instead of {len(before[0])}"
    return ""


def mouths_of(clip: Clip, vae: nn.Module | None, generator: torch.Generator) -> dict[str, Tensor]:
    """Return the fields of Mouths for one clip, without their first axis."""
    frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 255
    boxes = torch.from_numpy(clip.truth["mouth_box"]).float()[None] / clip.frames.shape[1]
    squares = steady_squares(boxes)[0]
    opening = torch.from_numpy(lip_opening(clip)).float() / (squares[:, 2] - squares[:, 0])

    def cut(pictures: Tensor) -> Tensor:
        crops = mouth_crops(pictures[None], boxes, WIDE)[0]
        return (crops * 255).round().clamp(0, 255).byte()

    return {
        "crops": cut(frames),
        "decoded": cut(decoded(frames, squares, vae, generator) if vae else frames),
        "visemes": torch.from_numpy(viseme_track(clip)),
        "opening": opening,
        "sound": torch.from_numpy(clip.audio.copy()),
    }


def decoded(frames: Tensor, squares: Tensor, vae: nn.Module, generator: torch.Generator) -> Tensor:
    """Encode and decode what is around the squares [T, 4] of frames [T, 3, S, S] in 0..1, with random noise on the
    latents.

    The rest stays as it was, which saves most of the time.
    """
    side, grid = frames.shape[-1], 16  # a multiple of every autoencoder's patch
    half = (squares[:, 2:] - squares[:, :2]).max() * ROOM / 2
    middle = (squares[:, 2:] + squares[:, :2]) / 2
    left, top = ((middle.min(dim=0).values - half) * side / grid).floor().clamp(min=0).long() * grid
    right, bottom = ((middle.max(dim=0).values + half) * side / grid).ceil().clamp(max=side // grid).long() * grid
    around = (..., slice(top, bottom), slice(left, right))
    with autocast():
        latents = vae.encode((frames[around] * 2 - 1).contiguous(memory_format=torch.channels_last)).float()
        amount = LATENT_NOISE * torch.rand((), generator=generator)
        pictures = vae.decode(latents + amount * torch.randn(latents.shape, generator=generator)).float() / 2 + 0.5
    result = frames.clone()
    result[around] = pictures
    return result


def viseme_track(clip: Clip) -> np.ndarray:
    """Return the mouth shape of the sound at each frame's centre, int64 [T]; of a diphthong's two, that of its half."""
    centres = (np.arange(len(clip.frames)) + 0.5) / clip.info["fps"]
    track = np.full(len(centres), REST, np.int64)
    for start, end, symbol in clip.info["phonemes"]:
        shapes = shapes_of(symbol)
        edges = np.linspace(start, end, len(shapes) + 1)
        for shape, first, last in zip(shapes, edges, edges[1:]):
            track[(centres >= first) & (centres < last)] = VISEMES.index(shape)
    return track


def centre_crops(wide: Tensor) -> Tensor:
    """Cut the middle out of uint8 [..., WIDE, WIDE]: float [..., SIDE, SIDE] in 0..1, as `mouth_crops` gives it."""
    margin = (WIDE - SIDE) // 2
    return wide[..., margin : margin + SIDE, margin : margin + SIDE].float() / 255


def draw_crops(
    mouths: Mouths, chosen: Tensor, starts: Tensor, frames: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw stretches of clips, chosen [B] from starts [B], half of them decoded, all of them augmented.

    -> crops [B, frames, SIDE, SIDE] in 0..1, and how many times a crop's side is its usual one, [B].
    """
    at = starts[:, None] + torch.arange(frames)
    soft = torch.rand(len(chosen), 1, 1, 1, generator=generator) < 0.5
    wide = torch.where(soft, mouths.decoded[chosen[:, None], at], mouths.crops[chosen[:, None], at])
    return augment(wide, generator)


def augment(wide: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Augment uint8 [B, T, WIDE, WIDE] -> crops [B, T, SIDE, SIDE] in 0..1, and their scales [B].

    A clip's crop is shifted, scaled, mirrored, blurred and given another exposure, the same in all of its frames; each
    frame is shaken a little and has noise of its own.
    """
    from kornia.filters import box_blur

    batch, count = wide.shape[:2]

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    scales = draw(*SCALES, batch)
    mirror = torch.where(draw(0, 1, batch) < 0.5, -1.0, 1.0)
    shifts = draw(-SHIFT, SHIFT, batch, 1, 2) + draw(-SHAKE, SHAKE, batch, count, 2)
    theta = torch.zeros(batch, count, 2, 3)
    theta[..., 0, 0], theta[..., 1, 1] = (mirror * scales)[:, None] / ROOM, scales[:, None] / ROOM
    theta[..., 2] = 2 * shifts / ROOM
    grid = F.affine_grid(theta.flatten(0, 1), [batch * count, 1, SIDE, SIDE], align_corners=False)
    x = F.grid_sample(wide.reshape(-1, 1, WIDE, WIDE).float() / 255, grid, padding_mode="border", align_corners=False)
    x = x.reshape(batch, count, SIDE, SIDE)

    x = torch.lerp(x, box_blur(x, 5, "replicate"), draw(0, 0.9, batch, 1, 1, 1) * (draw(0, 1, batch, 1, 1, 1) < 0.7))
    x = x.clamp(min=1e-3) ** draw(0.7, 1.4, batch, 1, 1, 1)
    x = x * draw(0.7, 1.25, batch, 1, 1, 1) + draw(-0.12, 0.12, batch, 1, 1, 1)
    noise = torch.randn(x.shape, generator=generator) * draw(0, 0.04, batch, 1, 1, 1)
    return (x + noise).clamp(0, 1), scales
