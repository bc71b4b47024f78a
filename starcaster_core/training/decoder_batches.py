"""Batches of the reference decoder's training pairs (`decoder_pairs.py`), augmented."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..head_motion import rotations
from ..models.lip_warp import LipField
from ..models.reference_decoder import geometry_of, move_regions
from .decoder_pairs import Pair, count_pairs, read_pair

POSE_NOISE = 0.7  # degrees: how wrong the pose is that the geometry follows from
NO_GEOMETRY = 0.1  # probability that the pose is not known


@dataclass(frozen=True)
class PairBatch:
    """source, target [B, 3, S, S] and drawn [B, 3, s, s] in -1..1; flow [B, 2, F, F]; visible, known [B, 1, F, F];
    source_regions, regions [B, 3, 2], of portrait and frame; geometry [B, 2, 32, 32]; way [B, 2, F, F] and gaps [B, 2],
    of the lips of portrait and frame, NaN where not known; layers [B, LAYERS, F, F], of the portrait's lips; told [B],
    whether the frame's gap is the truth's."""

    source: Tensor
    target: Tensor
    drawn: Tensor
    flow: Tensor
    visible: Tensor
    source_regions: Tensor
    regions: Tensor
    geometry: Tensor
    known: Tensor
    way: Tensor
    layers: Tensor
    gaps: Tensor
    told: Tensor


class PairFiles:
    """The pairs of a folder: a third of a batch are renders, a third photos and clips of real people, a third photos
    that talk."""

    def __init__(self, folder: Path, without_photos: bool = False):
        real = [*folder.glob("photo-*.safetensors"), *folder.glob("clip-*.safetensors")]
        talk = sorted([*folder.glob("talk-*.safetensors"), *folder.glob("say-*.safetensors")])
        groups = [sorted(folder.glob("scene-*.safetensors")), sorted(real), talk]
        self.groups = [files for files in groups[: 1 if without_photos else 3] if files]
        if not self.groups:
            raise InputError("training pairs", f"none in {folder}", "Make them: `train --stage decoder` does.")

    @property
    def all(self) -> list[Path]:
        return [file for files in self.groups for file in files]

    def draw(self, count: int, generator: torch.Generator) -> PairBatch:
        """Draw `count` pairs, augmented."""
        pairs = []
        for index in range(count):
            files = self.groups[index % len(self.groups)]
            file = files[int(torch.randint(len(files), (), generator=generator))]
            pairs.append(read_pair(file, int(torch.randint(count_pairs(file), (), generator=generator))))
        return collate(pairs, generator)


def collate(pairs: list[Pair], generator: torch.Generator | None = None) -> PairBatch:
    """Stack pairs; with a generator, mirror and recolour them and make the drawn frame and the pose a little wrong."""

    def pictures(name: str) -> Tensor:
        stacked = np.stack([getattr(pair, name) for pair in pairs])
        return torch.from_numpy(stacked).permute(0, 3, 1, 2).float() / 127.5 - 1

    def numbers(name: str) -> Tensor:
        return torch.from_numpy(np.stack([getattr(pair, name) for pair in pairs]).astype(np.float32))

    source, target, drawn = pictures("source"), pictures("target"), pictures("drawn")
    flow, visible, regions = numbers("flow"), numbers("visible")[:, None], numbers("regions")
    known, way, layers, gaps = numbers("known")[:, None], numbers("way"), numbers("layers"), numbers("gaps")
    turns = numbers("rotation")
    if generator is not None:
        wrong = POSE_NOISE * torch.randn(len(pairs), 3, generator=generator)
        turns = rotations(wrong) @ turns
    geometry = geometry_of(turns, numbers("camera"), numbers("portrait_camera"))
    if generator is not None:
        posed = torch.rand(len(pairs), generator=generator) >= NO_GEOMETRY
        geometry = geometry * posed[:, None, None, None]
        mirrored = torch.rand(len(pairs), generator=generator) < 0.5
        source, target, drawn, visible, known = (flip(x, mirrored) for x in (source, target, drawn, visible, known))
        flow, geometry, way = (flip(x, mirrored, vectors=True) for x in (flow, geometry, way))
        # The last channel counts across the mouth.
        layers = torch.cat([flip(layers[:, :-1], mirrored), flip(layers[:, -1:], mirrored, vectors=True)], dim=1)
        other = regions[:, [0, 2, 1]] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
        regions = torch.where(mirrored[:, None, None], other, regions)
        source, target, drawn = recolour((source, target, drawn), generator)
        drawn = degrade(drawn, generator)
    moved = move_regions(regions, geometry)
    told = numbers("told")[:, 0] > 0.5
    return PairBatch(source, target, drawn, flow, visible, regions, moved, geometry, known, way, layers, gaps, told)


def flip(x: Tensor, mirrored: Tensor, vectors: bool = False) -> Tensor:
    """Mirror those of a batch [B, C, h, w] that are to be; the first channel of vectors changes its sign."""
    other = x.flip(-1)
    if vectors:
        other = other * torch.tensor([-1.0, 1.0])[: x.shape[1], None, None]
    return torch.where(mirrored[:, None, None, None], other, x)


def recolour(pictures: tuple[Tensor, ...], generator: torch.Generator) -> list[Tensor]:
    """Change gains, brightness and gamma of pictures [B, 3, S, S] alike."""
    count = len(pictures[0])

    def draw(low: float, high: float, channels: int) -> Tensor:
        return torch.rand(count, channels, 1, 1, generator=generator) * (high - low) + low

    gain, gamma = draw(0.75, 1.1, 1) * draw(0.92, 1.08, 3), draw(-0.35, 0.35, 1).exp()
    grey = torch.rand(count, 1, 1, 1, generator=generator) < 0.06  # black-and-white photographs
    changed = []
    for picture in pictures:
        light = ((picture + 1) / 2).clamp(1e-4, 1).pow(gamma) * gain
        light = torch.where(grey, light.mean(dim=1, keepdim=True).expand_as(light), light)
        changed.append(light.clamp(0, 1) * 2 - 1)
    return changed


def degrade(drawn: Tensor, generator: torch.Generator) -> Tensor:
    """Make some drawn frames softer, and give most another colour and brightness than the truth."""
    count = len(drawn)
    soft = F.avg_pool2d(F.pad(drawn, (1, 1, 1, 1), mode="replicate"), 3, 1)  # quicker than kornia
    drawn = torch.where((torch.rand(count, 1, 1, 1, generator=generator) < 0.25), soft, drawn)
    gain = 1 + 0.05 * torch.randn(count, 3, 1, 1, generator=generator)
    return (drawn * gain + 0.03 * torch.randn(count, 3, 1, 1, generator=generator)).clamp(-1, 1)


def lips_of(batch: PairBatch) -> LipField:
    """Return how the portraits' mouths open; not at all where a portrait's or a frame's lips are not known."""
    known = ~batch.gaps.isnan().any(dim=1)[:, None, None, None]
    return LipField(batch.way * known, batch.gaps[:, 0].nan_to_num(), batch.layers * known)
