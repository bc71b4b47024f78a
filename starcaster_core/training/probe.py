"""Train the probe on rendered frames.

    python -m starcaster_core.training.probe --data DIR --minutes 4 --out DIR

Loss: L1 of lip opening, yaw and pitch, each in units of its typical size.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..command import add_debug, run_command
from ..data.shards import no_clips, read_clips
from ..data.truth import true_readings
from ..models.judges.probe import BATCH, READINGS, SCALES, Probe, save_probe
from .loop import LoopSettings, autocast, step_generator, train

FRAMES = 48  # of a step


def load_examples(folder: Path, split: str, every: int) -> tuple[Tensor, Tensor]:
    """Return every n-th frame of a split, uint8 [N, 3, S, S], and its true readings [N, 3]. Raises InputError without
    any."""
    frames, readings = [], []
    for clip in read_clips(folder, split):
        frames.append(torch.from_numpy(clip.frames[::every]))
        readings.append(torch.from_numpy(true_readings(clip)[::every]))
    if not frames:
        raise no_clips(folder, split)
    return torch.cat(frames).movedim(-1, 1).contiguous(), torch.cat(readings)


def degrade(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur frames [B, 3, S, S] in -1..1 and add noise, as a generated frame has them."""
    coarse = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(len(frames), 1, 1, 1, generator=generator)
    noise = torch.randn(frames.shape, generator=generator) * 0.04
    return frames * amount + coarse * (1 - amount) + noise


def augment_colour(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change the colours of frames uint8 [B, 3, S, S] -> float in -1..1. Mirroring or zooming would change the
    readings."""
    batch = len(images)
    x = images.float() / 127.5 - 1
    gain = torch.rand(batch, 3, 1, 1, generator=generator) * 0.4 + 0.8
    shift = torch.rand(batch, 1, 1, 1, generator=generator) * 0.3 - 0.15
    return (x * gain + shift).clamp(-1, 1)


def run(data: Path, out: Path, minutes: float, seed: int) -> dict:
    """Train a probe, write `out/probe.safetensors`, and return its errors on the test split."""
    images, readings = load_examples(data, "train", every=4)
    probe = Probe().to(memory_format=torch.channels_last)

    def compute_loss(step: int):
        generator = step_generator(seed, "probe", step)
        chosen = torch.randint(len(images), (FRAMES,), generator=generator)
        frames = degrade(augment_colour(images[chosen], generator), generator).contiguous(
            memory_format=torch.channels_last
        )
        with autocast():
            predicted = probe(frames)
        return ((predicted.float() - readings[chosen]) / SCALES).abs().mean(), {}

    train(probe, compute_loss, LoopSettings(minutes, learning_rate=1e-3, ema=0.99), out, "probe")
    held_out, truth = load_examples(data, "test", every=2)
    probe.eval()
    said = torch.cat([probe(part.float() / 127.5 - 1) for part in held_out.split(BATCH)]).detach()
    errors = (said - truth).abs().mean(dim=0).tolist()
    correlation = [float(np.corrcoef(said[:, k], truth[:, k])[0, 1]) for k in range(len(READINGS))]
    figures = {
        "mean_error": dict(zip(READINGS, errors)),
        "correlation": dict(zip(READINGS, correlation)),
        "frames": len(truth),
    }
    save_probe(out / "probe.safetensors", probe, {"minutes": minutes, "seed": seed, "held_out": figures})
    print(json.dumps(figures), flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    add_debug(parser)
    args = parser.parse_args()
    run(args.data, args.out, args.minutes, args.seed)


if __name__ == "__main__":
    raise SystemExit(run_command("train the probe", main))
