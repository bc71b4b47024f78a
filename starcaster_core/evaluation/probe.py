"""An instrument that reads a frame: how far the lips are apart, and from where the face is seen.

    python -m starcaster_core.evaluation.probe --data DIR --minutes 4 --out DIR

A small convolutional network trained on rendered frames, whose lips and cameras are known exactly. It is used for
measuring only, never for training the portrait model.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.overview import lip_opening
from ..data.shards import Clip, read_clips
from ..errors import CheckpointError
from ..training.loop import LoopSettings, autocast, step_generator, train

READINGS = ("opening", "yaw", "pitch")
SCALES = torch.tensor([0.02, 30.0, 15.0])  # typical sizes: share of the frame's side, degrees, degrees
SIDE = 128


def halve(channels_in: int, channels_out: int) -> nn.Sequential:
    """Half the size, twice looked at. Batch statistics make it learn in minutes."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, 2, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.SiLU(),
        nn.Conv2d(channels_out, channels_out, 3, 1, 1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.SiLU(),
    )


class Probe(nn.Module):
    """frames [B, 3, 128, 128] in -1..1 -> readings [B, 3]: lip opening (share of the side), yaw, pitch (degrees)"""

    def __init__(self):
        super().__init__()
        widths = (3, 24, 48, 96, 128, 128)
        self.layers = nn.Sequential(*(halve(a, b) for a, b in zip(widths, widths[1:])))
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(128 * 16, 256), nn.SiLU(), nn.Linear(256, len(READINGS)))

    def forward(self, frames: Tensor) -> Tensor:
        return self.head(self.layers(frames)) * SCALES.to(frames)

    @torch.no_grad()
    def read(self, frames: Tensor) -> np.ndarray:
        """frames [T, H, W, 3] in 0..1 -> float32 [T, 3]"""
        return torch.cat([self(part) for part in self.prepared(frames).split(64)]).float().numpy()

    @torch.no_grad()
    def features(self, frames: Tensor) -> np.ndarray:
        """What the last layer reads from, frames as for `read` -> float32 [T, 256]"""
        parts = self.prepared(frames).split(64)
        return torch.cat([self.head[:-1](self.layers(part)) for part in parts]).float().numpy()

    @staticmethod
    def prepared(frames: Tensor) -> Tensor:
        return F.interpolate(frames.movedim(-1, 1).float(), (SIDE, SIDE), mode="area") * 2 - 1


def true_readings(clip: Clip) -> np.ndarray:
    """What the probe should say of a clip's frames, float32 [T, 3]: from landmarks, camera and head pose."""
    # Where the camera stands in the head's own frame: a turned head and a moved camera look the same.
    centre = np.einsum("tij,ti->tj", clip.truth["head_rotation"], clip.truth["world_from_cam"][:, :3, 3])
    yaw = np.degrees(np.arctan2(centre[:, 0], centre[:, 2]))
    pitch = np.degrees(np.arcsin(centre[:, 1] / np.linalg.norm(centre, axis=1)))
    return np.stack([lip_opening(clip), yaw, pitch], axis=1).astype(np.float32)


def load_examples(folder: Path, split: str, every: int) -> tuple[Tensor, Tensor]:
    """-> frames uint8 [N, 3, S, S], readings [N, 3]"""
    frames, readings = [], []
    for clip in read_clips(folder, split):
        frames.append(torch.from_numpy(clip.frames[::every]))
        readings.append(torch.from_numpy(true_readings(clip)[::every]))
    return torch.cat(frames).movedim(-1, 1).contiguous(), torch.cat(readings)


def spoil(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Blur and noise such as generated frames have, [B, 3, S, S] in -1..1."""
    coarse = F.avg_pool2d(F.pad(frames, (1, 1, 1, 1), mode="replicate"), 3, 1)
    amount = torch.rand(len(frames), 1, 1, 1, generator=generator)
    noise = torch.randn(frames.shape, generator=generator) * 0.04
    return frames * amount + coarse * (1 - amount) + noise


def run(data: Path, out: Path, minutes: float, seed: int) -> dict:
    """Trains, writes `out/probe.safetensors`, returns held-out errors."""
    from safetensors.torch import save_file

    images, readings = load_examples(data, "train", every=4)
    probe = Probe().to(memory_format=torch.channels_last)

    def loss_of_step(step: int):
        generator = step_generator(seed, "probe", step)
        chosen = torch.randint(len(images), (48,), generator=generator)
        frames = spoil(recolour(images[chosen], generator), generator).contiguous(memory_format=torch.channels_last)
        with autocast():
            predicted = probe(frames)
        return ((predicted.float() - readings[chosen]) / SCALES).abs().mean(), {}

    train(probe, loss_of_step, LoopSettings(minutes, learning_rate=1e-3, ema=0.99), out, "probe")
    held_out, truth = load_examples(data, "test", every=2)
    probe.eval()
    said = torch.cat([probe(part.float() / 127.5 - 1) for part in held_out.split(64)]).detach()
    errors = (said - truth).abs().mean(dim=0).tolist()
    correlation = [float(np.corrcoef(said[:, k], truth[:, k])[0, 1]) for k in range(len(READINGS))]
    figures = {
        "mean_error": dict(zip(READINGS, errors)),
        "correlation": dict(zip(READINGS, correlation)),
        "frames": len(truth),
    }
    weights = {key: value.contiguous() for key, value in probe.state_dict().items()}
    facts = {"minutes": minutes, "seed": seed, "held_out": figures}
    save_file(weights, out / "probe.safetensors", {"facts": json.dumps(facts)})
    print(json.dumps(figures), flush=True)
    return figures


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """The autoencoder's augmentation would mirror and zoom, which changes what is to be read; only its colours here."""
    batch = len(images)
    x = images.float() / 127.5 - 1
    gain = torch.rand(batch, 3, 1, 1, generator=generator) * 0.4 + 0.8
    shift = torch.rand(batch, 1, 1, 1, generator=generator) * 0.3 - 0.15
    return (x * gain + shift).clamp(-1, 1)


def load_probe(path: str | Path) -> Probe:
    """Ready for use. Raises CheckpointError for a file that is not a whole probe."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    probe = Probe()
    try:
        probe.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise CheckpointError(
            "a probe file", f"{Path(path).name} ({reason})", "Train one: docs/evaluation.md."
        ) from None
    return probe.eval().requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    run(args.data, args.out, args.minutes, args.seed)


if __name__ == "__main__":
    main()
