"""Does a frame depend on its neighbours, and does a chunk go on from the one before? On held-out rendered clips.

    python benchmarks/temporal.py --latents LATENTS --models mini other.safetensors --out temporal.json

All are given the clip's own head motion. Differences of neighbouring frames are mean absolute grey levels, 0..255.

| figure | what |
|---|---|
| psnr | of the frames against the clip's, both decoded by the autoencoder, dB |
| motion | difference of neighbouring frames, ratio to the clip's |
| motion_error | how far that change of a frame is from the clip's own change, pixel by pixel |
| seam | motion_error where a chunk begins, ratio to that elsewhere |
| seam_without_context | the same without looking back |
| noise, speech | change of a chunk's other frames where one frame's noise or speech is another, ratio to the change of
that frame itself; of speech, in frames that do not hear it |
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.sampling import rollout as sampling
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.training.diffusion import draw_reference
from starcaster_core.training.grids import conditions_of
from starcaster_core.training.latents import ClipSet, load_clips

CHUNKS = 3


def clip_conditions(model: Starcaster, clips: ClipSet, index: int, frames: int) -> Conditions:
    """Return a clip's conditions with its own head motion, turns being those from the portrait."""
    portrait = draw_reference(clips.camera[index][None], torch.Generator().manual_seed(index)).item()
    conditions = conditions_of(model, clips, index, frames, portrait)
    motion = clips.head_motion[index, :frames].clone()
    motion[:, :3] -= clips.head_motion[index, portrait, :3]
    return replace(conditions, head_motion=motion)


@torch.no_grad()
def sample(model: Starcaster, conditions: Conditions, **settings) -> Tensor:
    """Return frames [T, H, W, 3], 0..255."""
    chunks = list(sampling.rollout(model, conditions, SamplerSettings.of(model.config, seed=1, **settings)))
    return 255 * torch.cat([model.decode_frames(chunk.latents) for chunk in chunks])


def changes(frames: Tensor) -> Tensor:
    """Return each frame's change from the one before [T - 1, H, W, 3]."""
    return frames[1:] - frames[:-1]


def motion_error(frames: Tensor, truth: Tensor) -> np.ndarray:
    """Return how far each change is from the clip's own [T - 1], grey levels."""
    return (changes(frames) - changes(truth)).abs().mean(dim=(1, 2, 3)).numpy()


def seam(errors: np.ndarray, length: int) -> float:
    """Return the mean error where a chunk of so many frames begins, in means of the others."""
    begins = np.arange(1, len(errors) + 1) % length == 0
    return float(errors[begins].mean() / errors[~begins].mean())


def spread(first: Tensor, second: Tensor, frame: int, radius: int) -> float:
    """Return how much two renders differ in frames farther than `radius` from `frame`, in differences of that frame.

    Frames [T, H, W, 3] of one chunk.
    """
    difference = (first - second).abs().mean(dim=(1, 2, 3))
    far = (torch.arange(len(difference)) - frame).abs() > radius
    return (difference[far].mean() / difference[frame].clamp(min=1e-6)).item()


def with_other_noise(model: Starcaster, conditions: Conditions, frame: int) -> Tensor:
    """Return a chunk's frames where the noise of one frame's own is another."""
    draw, fresh = sampling.draw_noise, torch.Generator().manual_seed(7)

    def other(shape, fraction, own, shared):
        state = shared.get_state()
        noise = draw(shape, fraction, own, shared)
        shared.set_state(state)  # what all frames share stays
        noise[:, :, frame] = draw(shape, fraction, fresh, shared)[:, :, frame]
        return noise

    sampling.draw_noise = other
    try:
        return sample(model, conditions)
    finally:
        sampling.draw_noise = draw


def with_other_speech(model: Starcaster, conditions: Conditions, frame: int) -> Tensor:
    """Return a chunk's frames where a frame's speech is that of the chunk's other half."""
    speech = conditions.speech
    features = speech.features.clone()
    features[frame] = features[(frame + len(features) // 2) % len(features)]
    return sample(model, replace(conditions, speech=replace(speech, features=features)))


@torch.no_grad()
def measure(model: Starcaster, clips: ClipSet, index: int) -> dict[str, float]:
    """Measure one clip."""
    length = model.config.chunk_frames
    frames = min(CHUNKS * length, clips.latents.shape[1])
    conditions = clip_conditions(model, clips, index, frames)
    truth = 255 * model.decode_frames(clips.latents[index, :frames].float().movedim(0, 1)[None])
    made = sample(model, conditions)
    errors = motion_error(made, truth)
    row = {
        "psnr": float(10 * np.log10(255**2 / (made - truth).square().mean().item())),
        "motion": (changes(made).abs().mean() / changes(truth).abs().mean()).item(),
        "motion_error": float(errors.mean()),
        "seam": seam(errors, length),
        "seam_without_context": seam(motion_error(sample(model, conditions, context_frames=0), truth), length),
    }
    chunk, middle = replace(conditions, frames=length), length // 2
    first = made[:length]
    row["noise"] = spread(first, with_other_noise(model, chunk, middle), middle, 0)
    if conditions.speech is not None:
        heard = model.config.conditioning.speech_window
        row["speech"] = spread(first, with_other_speech(model, chunk, middle), middle, heard)
    return row


def mean_and_interval(values: list[float]) -> list[float]:
    """Return the mean and the ends of its 95 % interval."""
    mean, half = np.mean(values), 1.96 * np.std(values, ddof=1) / np.sqrt(len(values))
    return [round(float(x), 3) for x in (mean, mean - half, mean + half)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--latents", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["mini"])
    parser.add_argument("--clips", type=int, default=24)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    clips, results = load_clips(args.latents), {}
    chosen = [
        i for kind in ("temporal", "joint", "spatial") for i in clips.where("val", kind).tolist()[: args.clips // 3]
    ]
    for name in args.models:
        model = load_checkpoint(name)
        rows = [measure(model, clips, index) for index in chosen]
        keys = ("psnr", "motion", "motion_error", "seam", "seam_without_context", "noise", "speech")
        results[Path(name).stem] = {key: mean_and_interval([row[key] for row in rows if key in row]) for key in keys}
        print(json.dumps({Path(name).stem: results[Path(name).stem]}), flush=True)
    args.out.write_text(json.dumps({"clips": len(chosen)} | results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
