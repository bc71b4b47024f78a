"""What the lip-reading loss costs in memory: the whole picture or a window round the mouth, all frames at once or one
by one, computed again for the gradient.

    python benchmarks/lip_memory.py --model mini --frames 16 --json benchmarks/results/lip-memory.json

Two measures. `kept`: bytes of the tensors that the forward pass keeps for the backward pass, each storage once, counted
by autograd itself; they are the same on every device. `peak`: how much the process (on a GPU: PyTorch's allocator) grew
over what it held before, at most, during one forward and backward pass in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch

from starcaster_core.models.autoencoder import build_autoencoder
from starcaster_core.models.lipreader import LipReader, LipReaderConfig
from starcaster_core.presets import PRESETS
from starcaster_core.training.lips import WINDOW, LipLoss

WAYS = {
    "whole picture, all frames": (1.0, False),
    "whole picture, frame by frame": (1.0, True),
    "window, all frames": (WINDOW, False),
    "window, frame by frame": (WINDOW, True),
}
MOUTH = (0.36, 0.62, 0.62, 0.80)  # where it is in a portrait


def measure(preset: str, frames: int, window: float, frame_by_frame: bool) -> dict:
    """Measure one forward and backward pass of the loss with random weights: megabytes and seconds."""
    config = PRESETS[preset]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    vae = build_autoencoder(config.autoencoder).requires_grad_(False).to(device, memory_format=torch.channels_last)
    reader = LipReader(LipReaderConfig(visemes=("rest", "aa"))).requires_grad_(False).to(device)
    loss = LipLoss(reader, vae, config.autoencoder.scaling_factor, window, frame_by_frame)
    shape = (1, config.unet.in_channels, frames, config.latent_size, config.latent_size)
    true, boxes = torch.randn(shape, device=device), torch.tensor(MOUTH, device=device).expand(1, frames, 4)
    predicted = (true + 0.1 * torch.randn(shape, device=device)).requires_grad_()
    loss(predicted[:, :, :1], true[:, :, :1], boxes[:, :1]).backward()  # what is allocated once
    predicted.grad = None

    before, started = held_bytes(device), time.monotonic()
    kept = Kept((vae, reader))
    with kept:
        cost = loss(predicted, true, boxes)
    cost.backward()
    return {
        "kept_mb": kept.megabytes,
        "peak_mb": round((peak_bytes(device) - before) / 2**20, 1),
        "seconds": round(time.monotonic() - started, 2),
    }


def count(preset: str, frames: int, window: float, frame_by_frame: bool) -> dict:
    """Count what the decoder alone keeps, without computing anything: for autoencoders too large for this machine.

    Frame by frame it is that of one frame, for the moment in which it is computed again.
    """
    config = PRESETS[preset]
    with torch.device("meta"):
        vae = build_autoencoder(config.autoencoder).requires_grad_(False)
        side = round(window * config.latent_size)
        shape = (1 if frame_by_frame else frames, config.autoencoder.latent_channels, side, side)
        latents = torch.randn(shape, requires_grad=True)
    kept = Kept((vae,))
    with kept:
        vae.decode(latents)
    return {"kept_mb": kept.megabytes}


class Kept(torch.autograd.graph.saved_tensors_hooks):
    """Within it: the bytes that autograd keeps, each storage once, those of the networks' weights not counted"""

    def __init__(self, networks):
        self.weights = {weight.untyped_storage()._cdata for network in networks for weight in network.parameters()}
        self.sizes: dict[int, int] = {}
        super().__init__(self.note, lambda tensor: tensor)

    def note(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.weights:
            self.sizes[storage._cdata] = storage.nbytes()
        return tensor

    @property
    def megabytes(self) -> float:
        return round(sum(self.sizes.values()) / 2**20, 1)


def held_bytes(device: torch.device) -> int:
    """Return the bytes held now, and count peaks anew where that is possible."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return torch.cuda.memory_allocated()
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes(device: torch.device) -> int:
    """Return the most bytes so far."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=sorted(PRESETS), default="mini", help="whose autoencoder")
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--count", action="store_true", help="only count what the decoder keeps; computes nothing")
    parser.add_argument("--json", type=Path, help="add the result to this file, under the settings' name")
    parser.add_argument("--way", choices=WAYS, help="this one alone, in this process")
    args = parser.parse_args()
    if args.way:
        print(json.dumps((count if args.count else measure)(args.model, args.frames, *WAYS[args.way])))
        return
    results = {}
    for way in WAYS:  # a peak is one for a process
        command = [sys.executable, __file__, "--model", args.model, "--frames", str(args.frames), "--way", way]
        command += ["--count"] if args.count else []
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        results[way] = json.loads(done.stdout)
        print(way, results[way], flush=True)
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        what = "the decoder's, counted" if args.count else "the loss, measured"
        known[f"{args.model}, {args.frames} frames of {PRESETS[args.model].image_size}: {what}"] = results
        args.json.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
