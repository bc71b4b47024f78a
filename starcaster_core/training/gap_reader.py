"""Train the part of the reference decoder that reads how far the drawn lips are apart.

It is small and its crops are few, so they are all held in memory and it takes minutes. The landmarker teaches it
(`decoder_pairs.drawn_gap`): the reader is some twenty times as fast and does not jump between frames.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.reference_decoder import GAP, GapReader, drawn_mouths, geometry_of, move_regions
from .decoder_pairs import count_pairs

STEPS, BATCH, LEARNING_RATE, WARMUP = 2500, 64, 3e-3, 50
SHIFT = 3  # pixels of the drawn frame: how wrong the mouth's place is
KEPT = 0.1  # of the crops: kept to measure on


def read_mouths(files: list[Path]) -> tuple[Tensor, Tensor]:
    """Return the mouths of all drawn frames with a known opening: uint8 [N, 3, 40, 48] and float32 [N] in image
    sides."""
    from safetensors import safe_open

    mouths, gaps = [], []
    for path in files:
        count = count_pairs(path)
        with safe_open(path, framework="pt") as file:
            for index in range(count):
                if f"{index}.gaps" not in file.keys():
                    continue
                gap = file.get_tensor(f"{index}.gaps")[1]
                if gap.isnan():
                    continue
                rotation, camera, portrait_camera, regions, drawn = (
                    file.get_tensor(f"{index}.{name}")[None]
                    for name in ("rotation", "camera", "portrait_camera", "regions", "drawn")
                )
                regions = move_regions(regions, geometry_of(rotation, camera, portrait_camera))
                mouths.append(drawn_mouths(drawn.permute(0, 3, 1, 2), regions)[0])
                gaps.append(gap)
    if not mouths:
        return torch.zeros(0, 3, 40, 48, dtype=torch.uint8), torch.zeros(0)
    return torch.stack(mouths), torch.stack(gaps)


def augment(mouths: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, shift and recolour crops uint8 [N, 3, h, w]: float32 in about -1..1."""
    count = len(mouths)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    x = mouths.float() / 127.5 - 1
    x = torch.where(draw(count, 1, 1, 1) < 0.5, x.flip(-1), x)
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    x = torch.roll(F.pad(x, (SHIFT,) * 4, mode="replicate"), (down, right), (2, 3))
    x = x[..., SHIFT:-SHIFT, SHIFT:-SHIFT]
    return x * (0.8 + 0.4 * draw(count, 3, 1, 1)) + 0.1 * torch.randn(x.shape, generator=generator)


def fit_gap_reader(reader: GapReader, files: list[Path], seed: int = 0, steps: int = STEPS) -> float:
    """Train the reader in place, and return its mean error on crops kept from it, image sides.

    Pairs without a known opening are left out; without any other, the reader stays as it is and the error is NaN.
    """
    mouths, gaps = read_mouths(files)
    if len(mouths) < 2 / KEPT:
        return math.nan
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(mouths), generator=generator)
    kept, used = order[: round(KEPT * len(order))], order[round(KEPT * len(order)) :]
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        chosen = used[torch.randint(len(used), (BATCH,), generator=generator)]
        loss = ((reader(augment(mouths[chosen], generator)) - gaps[chosen]) / GAP).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        error = (reader(mouths[kept].float() / 127.5 - 1) - gaps[kept]).abs().mean().item()
    print(json.dumps({"gap_reader": {"mouths": len(used), "error": round(error, 4)}}), flush=True)
    return error
