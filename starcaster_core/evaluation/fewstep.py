"""Compare few-step sampling with a model's own sampling in many steps, on held-out clips, from the same noise.

    python -m starcaster_core.evaluation.fewstep --teacher FILE --student FILE --latents DIR --out figures.json

Compared are decoded frames in grey levels (0..255): mean squared error to the teacher in 25 steps, to the teacher in
its own number, and to the clip as the autoencoder gives it back; over the frame and over the mouth's box. `motion` is
the mean absolute difference of neighbouring frames. All variants take turns clip by clip, so that their times can be
compared.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..command import add_debug, run_command
from ..conventions import KINDS
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from ..pipeline import generate_latents
from ..sampling.settings import Conditions, SamplerSettings
from ..training.diffusion import draw_reference
from ..training.grids import conditions_of
from ..training.latents import ClipSet, load_clips

MANY, OWN, TRUTH = "teacher, 25 steps", "teacher, its own steps", "truth"


def sampling_variants(teacher: Starcaster, students: dict[str, Starcaster], seed: int) -> dict:
    """Return name -> (model, settings): the teacher in 25 steps, in its own, in 4 with and without guidance, and the
    students."""
    own = SamplerSettings.of(teacher.config, seed=seed)

    def few(**changes) -> SamplerSettings:
        return SamplerSettings.of(teacher.config, seed=seed, **changes)

    return {
        MANY: (teacher, few(steps=25)),
        OWN: (teacher, own),
        "teacher, 4 steps": (teacher, few(steps=4)),
        "teacher, 4 steps, no guidance": (teacher, few(steps=4, guidance_scale=1.0)),
        "teacher, 4 steps, no guidance, ddim": (teacher, few(steps=4, guidance_scale=1.0, scheduler="ddim")),
        **{name: (model, SamplerSettings.of(model.config, seed=seed)) for name, model in students.items()},
    }


@torch.no_grad()
def sample(model: Starcaster, conditions: Conditions, settings: SamplerSettings) -> tuple[Tensor, float]:
    """Generate frames [T, H, W, 3] in 0..255, and measure the processor seconds of the sampling without decoding."""
    started = time.process_time()
    chunks = list(generate_latents(model, conditions, settings))
    seconds = time.process_time() - started
    return torch.cat([model.decode_frames(chunk.latents) for chunk in chunks]) * 255, seconds


def compare(frames: Tensor, other: Tensor, boxes: Tensor) -> dict[str, float]:
    """Return the mean squared error of frames [T, H, W, 3], everywhere and in the mouth's box [T, 4] (fractions of the
    side)."""
    error = (frames - other).square().mean(dim=-1)
    corners = (boxes * error.shape[-1]).round().long().tolist()
    mouth = [error[t, y0 : y1 + 1, x0 : x1 + 1].mean() for t, (x0, y0, x1, y1) in enumerate(corners)]
    return {"frame": error.mean().item(), "mouth": torch.stack(mouth).mean().item()}


@torch.no_grad()
def measure(teacher: Starcaster, variants: dict, clips: ClipSet, chosen: list[int], frames: int) -> dict:
    """Measure all variants: name -> figures, means over the clips. "seconds": of sampling, for one second of video."""
    rows: dict[str, list[dict]] = {name: [] for name in variants}
    for index in chosen:
        face = draw_reference(clips.camera[index][None], torch.Generator().manual_seed(index)).item()
        conditions = conditions_of(teacher, clips, index, frames, portrait=face)
        boxes = clips.mouth[index, :frames]
        truth = teacher.decode_frames(clips.latents[index, :frames].float().movedim(0, 1)[None]) * 255
        made = {name: sample(model, conditions, settings) for name, (model, settings) in variants.items()}
        for name, (video, seconds) in made.items():
            figures = {"seconds": seconds / frames * teacher.config.fps, "motion": mean_frame_difference(video)}
            for goal, other in ((MANY, made[MANY][0]), (OWN, made[OWN][0]), (TRUTH, truth)):
                for where, error in compare(video, other, boxes).items():
                    figures[f"to {goal}: {where}"] = error
            rows[name].append(figures)
    return {name: average(figures) for name, figures in rows.items()}


def mean_frame_difference(video: Tensor) -> float:
    """Return the mean absolute difference of neighbouring frames [T, H, W, 3]."""
    return (video[1:] - video[:-1]).abs().mean().item()


def average(rows: list[dict[str, float]]) -> dict[str, float]:
    """Return the means of figures over clips."""
    return {key: round(float(np.mean([row[key] for row in rows])), 3) for key in rows[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", required=True, help="the checkpoint that the students were made from")
    parser.add_argument("--student", nargs="*", default=[], help="checkpoints of students (`train --stage 4-student`)")
    parser.add_argument(
        "--latents", type=Path, required=True, help="folder written by starcaster_core.training.latents"
    )
    parser.add_argument("--clips", type=int, default=12, help="held-out clips (test and val)")
    parser.add_argument("--frames", type=int, default=32, help="of every clip; 32 are two chunks")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args()
    teacher, clips = load_checkpoint(args.teacher), load_clips(args.latents)
    students = {Path(name).stem: load_checkpoint(name) for name in args.student}
    variants = sampling_variants(teacher, students, args.seed)
    chosen = [index for split in ("test", "val") for kind in KINDS for index in clips.where(split, kind).tolist()]
    figures = measure(teacher, variants, clips, chosen[: args.clips], args.frames)
    settings = {name: asdict(settings) for name, (_, settings) in variants.items()}
    args.out.write_text(json.dumps({"settings": settings, "figures": figures}, indent=2) + "\n", encoding="utf-8")
    for name, row in figures.items():
        print(f"{name}: {json.dumps(row)}", flush=True)


if __name__ == "__main__":
    raise SystemExit(run_command("measure few-step students", main))
