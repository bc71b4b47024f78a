"""Trains the patch autoencoder: principal components first, then the convolutional residual.

    python -m starcaster_core.training.autoencoder --data DIR --minutes 10 --out DIR

Loss: L1 on pixels, L1 on their differences to the right and below (edges: eyes and lips would blur away otherwise),
twice as much around the mouth. A little noise on the latents makes the decoder forgiving of a denoiser's errors.
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
from ..models.autoencoder import PatchAutoencoder, save_autoencoder
from ..presets import MINI, AutoencoderConfig
from .loop import LoopSettings, autocast, step_generator, train

LATENT_NOISE = 0.05


def load_frames(folder: Path, split: str, per_clip: int) -> Tensor:
    """Load evenly spaced frames of every clip of a split, uint8 [N, 3, S, S]. Raises InputError without any."""
    frames = []
    for clip in read_clips(folder, split):
        rows = np.linspace(0, len(clip.frames) - 1, per_clip).round().astype(int)
        frames.append(torch.from_numpy(clip.frames[rows]))
    if not frames:
        raise no_clips(folder, split)
    return torch.cat(frames).permute(0, 3, 1, 2).contiguous()


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Augment uint8 [B, 3, S, S] -> float in -1..1: colours, contrast, brightness, mirroring, zooms of up to two."""
    batch, _, side, _ = images.shape
    x = images.float() / 127.5 - 1

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    scale = draw(0.5, 1.0, batch, 1, 1) ** (draw(0, 1, batch, 1, 1) < 0.5).float()
    centre = draw(-1, 1, batch, 2, 1) * (1 - scale)
    mirror = torch.where(draw(0, 1, batch) < 0.5, -1.0, 1.0)
    theta = torch.eye(2).expand(batch, 2, 2) * scale
    theta = torch.cat([theta * torch.stack([mirror, torch.ones(batch)], 1)[:, None], centre], dim=2)
    x = F.grid_sample(x, F.affine_grid(theta, x.shape, align_corners=False), "bilinear", "reflection", False)
    x = x * draw(0.7, 1.2, batch, 1, 1, 1) * draw(0.85, 1.15, batch, 3, 1, 1) + draw(-0.2, 0.2, batch, 1, 1, 1)
    return x.clamp(-1, 1)


def edges(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., :, 1:] - x[..., :, :-1], x[..., 1:, :] - x[..., :-1, :]


def reconstruction_loss(predicted: Tensor, target: Tensor) -> Tensor:
    loss = (predicted - target).abs().mean() + 2 * (predicted - target).square().mean()
    for mine, its in zip(edges(predicted), edges(target)):
        loss = loss + (mine - its).abs().mean()
    return loss


def psnr(predicted: Tensor, target: Tensor) -> float:
    """Return the PSNR in dB of images in -1..1."""
    error = (predicted.clamp(-1, 1) - target).square().mean()
    return float(10 * torch.log10(4 / error))


@torch.no_grad()
def evaluate(model: PatchAutoencoder, images: Tensor) -> dict[str, float]:
    """Measure the PSNR of images uint8 [N, 3, S, S], over the frame and over the lower middle (the mouth)."""
    target = images.float() / 127.5 - 1
    predicted = torch.cat([model.decode(model.encode(part)) for part in target.split(32)])
    side = target.shape[-1]
    mouth = (..., slice(int(side * 0.6), int(side * 0.85)), slice(int(side * 0.3), int(side * 0.7)))
    return {"psnr": psnr(predicted, target), "psnr_mouth": psnr(predicted[mouth], target[mouth])}


def run(data: Path, out: Path, minutes: float, seed: int, config: AutoencoderConfig = MINI.autoencoder) -> dict:
    """Trains, writes `out/autoencoder.safetensors`, returns the held-out figures."""
    torch.manual_seed(seed)
    images = load_frames(data, "train", per_clip=12)
    held_out = load_frames(data, "val", per_clip=4)[:256]
    model = PatchAutoencoder(config).to(memory_format=torch.channels_last)
    state = out / "autoencoder.state.pt"
    if not state.exists():
        sample = images[torch.randperm(len(images), generator=step_generator(seed, "pca", 0))[:1500]]
        model.set_principal_components(sample.float() / 127.5 - 1)
        linear = evaluate(model, held_out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "autoencoder.linear.json").write_text(json.dumps(linear))
        print("principal components alone:", linear, flush=True)

    def compute_loss(step: int):
        generator = step_generator(seed, "autoencoder", step)
        chosen = torch.randint(len(images), (24,), generator=generator)
        target = augment(images[chosen], generator).contiguous(memory_format=torch.channels_last)
        with autocast():
            latents = model.encode(target)
            noise = torch.randn(latents.shape, generator=generator) * LATENT_NOISE
            predicted = model.decode(latents + noise)
        return reconstruction_loss(predicted.float(), target), {}

    train(model, compute_loss, LoopSettings(minutes, learning_rate=1e-3, ema=0.995), out, "autoencoder")
    figures = {
        "linear": json.loads((out / "autoencoder.linear.json").read_text()),
        "trained": evaluate(model, held_out),
    }
    print(figures, flush=True)
    save_autoencoder(out / "autoencoder.safetensors", model, {"figures": figures, "seed": seed, "minutes": minutes})
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and weights")
    parser.add_argument("--minutes", type=float, default=10, help="time budget, all resumed runs together")
    parser.add_argument("--seed", type=int, default=0)
    add_debug(parser)
    args = parser.parse_args()
    run(args.data, args.out, args.minutes, args.seed)


if __name__ == "__main__":
    raise SystemExit(run_command("train the autoencoder", main))
