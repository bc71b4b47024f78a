"""Does a network that looked back at its own frames in training hold a video better than one that looked back at the
clip's?

    python benchmarks/self_forcing.py --init MODEL --latents LATENTS --probe PROBE.safetensors --steps 400 --out OUT

Trains students of MODEL that differ in nothing else: the paper's network (without what this project adds to it),
chunks of talking clips, two in a row. No portrait is shown, so that hair, clothes, background and light are known
from the last frames alone, and what is lost of them is lost for good. Then all go on from two frames of each held-out
clip for `--seconds`, and are held against the clip. A third, `longer`, sees up to eight frames of the chunk before in
training, as the paper has it, and two, like the others, when it goes on. `--way self` and the like train one of them
only, so that processes can share the work. OUT gets the figures as JSON and frames as a picture.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from itertools import islice
from pathlib import Path

import torch
from einops import rearrange
from PIL import Image
from torch import Tensor

from starcaster_core.evaluation.drift import sharpness
from starcaster_core.evaluation.statistics import Ratio, summary
from starcaster_core.models.checkpoint import load_checkpoint, save_checkpoint
from starcaster_core.models.judges.probe import load_probe
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.presets import ExtensionsConfig
from starcaster_core.sampling.schedules import seeded_generator
from starcaster_core.training.diffusion import Batch
from starcaster_core.training.latents import ClipSet, load_clips
from starcaster_core.training.loop import LoopSettings, autocast
from starcaster_core.training.portrait import begun_model, train_stage, with_extensions
from starcaster_core.training.recipe import Stage
from starcaster_core.training.recipes import RECIPES
from starcaster_core.training.student import StudentLoss

# Probability that a chunk looks back at what was made of the one before; fewest and most frames of it
WAYS = {"self": (1.0, (2, 2)), "teacher": (0.0, (2, 2)), "longer": (1.0, (2, 8))}
CLIPS = 2  # a step
SHOWN = 4  # clips in the picture
FIGURES = ("colour", "picture", "sharpness", "pose")


def stage_of(way: str) -> Stage:
    self_forcing, context_frames = WAYS[way]
    student = next(stage for stage in RECIPES["mini"] if stage.student_steps)
    return replace(
        student,
        name=f"{way}-forcing",
        clips=CLIPS,
        kinds=(("temporal", 1.0),),
        reference=0.0,
        context=1.0,
        context_frames=context_frames,
        self_forcing=self_forcing,
        lip_weight=0.0,
    )


def trained(args: argparse.Namespace, way: str, clips: ClipSet) -> Starcaster:
    file = args.out / f"{way}.safetensors"
    if not file.exists():
        stage = stage_of(way)
        budget = LoopSettings(minutes=0, steps=args.steps, show_minutes=1e9)
        model = with_extensions(begun_model(args.init, (stage,)), ExtensionsConfig())
        model = train_stage(model, clips, stage, budget, args.out, args.seed)
        save_checkpoint(file, model, {"way": way, "steps": args.steps, "seed": args.seed}, dtype=torch.float32)
    return load_checkpoint(file, torch.float32)


def long_batch(clips: ClipSet, index: int, frames: int, window: int) -> Batch:
    """Repeat a clip, to be continued from its own last frames."""
    total = clips.latents.shape[1]

    def cut(rows, before: int = 0, after: int = 0) -> Tensor:
        at = torch.arange(-before, frames + after) % total
        return rows[torch.tensor([index])[:, None], at[None]].float()

    latents = rearrange(cut(clips.latents), "b t c h w -> b c t h w")
    return Batch(
        latents=latents,
        context=latents[:, :, total - 2 : total],
        reference=latents[:, :, :1],
        portrait_camera=None,
        speech=cut(clips.speech, window, window),
        camera=None,
        mouth=cut(clips.mouth),
        eyes=cut(clips.eyes),
        head_motion=cut(clips.head_motion),
        embedding=clips.embedding[index : index + 1],
    )


@torch.no_grad()
def continued(model: Starcaster, clips: ClipSet, index: int, seconds: float) -> Tensor:
    """Continue a clip from its own last frames: frames [T, S, S, 3] in 0..255."""
    length = model.config.chunk_frames
    chunks = 1 + round(seconds * model.config.fps / length)  # the last is never looked back at, nor finished
    stage = replace(stage_of("self"), recursion=chunks, drop_identity=0.0, drop_audio=0.0, drop_camera=0.0)
    batch = long_batch(clips, index, chunks * length, model.config.conditioning.speech_window)
    loss = StudentLoss(model, stage)
    with autocast():
        rolling = loss.rollout(batch, seeded_generator(0, index, "go on"))
        made = [guess.final for _, guess in islice(rolling, chunks - 1)]
        return torch.cat([model.decode_frames(chunk) for chunk in made]) * 255


def figures(video: Tensor, truth: Tensor, probe) -> dict[str, float | Ratio]:
    """Measure a stretch of video against the clip.

    colour: error of the mean colour, grey levels. picture: error of the mean picture, grey levels. sharpness: ratio to
    the clip's.
    pose: standard deviation of yaw and pitch, ratio to the clip's.
    """
    mean, wanted = video.mean(dim=0), truth.mean(dim=0)
    moved, moves = (probe.read(frames / 255)[:, 1:].std(axis=0).sum() for frames in (video, truth))
    return {
        "colour": (mean.mean(dim=(0, 1)) - wanted.mean(dim=(0, 1))).abs().mean().item(),
        "picture": (mean - wanted).square().mean().sqrt().item(),
        "sharpness": (sharpness(video).mean() / sharpness(truth).mean()).item(),
        "pose": Ratio(float(moved), float(moves)),
    }


def compare(models: dict[str, Starcaster], clips: ClipSet, probe, args: argparse.Namespace) -> dict:
    held = torch.cat([clips.where(split, "temporal") for split in ("val", "test")]).tolist()
    stretches = {"first": slice(0, args.stretch), "last": slice(-args.stretch, None)}
    measured: dict[str, dict[str, list[dict]]] = {way: {at: [] for at in stretches} for way in models}
    rows, one = [], next(iter(models.values()))
    for index in held:
        whole = long_batch(clips, index, clips.latents.shape[1], window=0)
        truth = one.decode_frames(whole.latents) * 255
        for way, model in models.items():
            video = continued(model, clips, index, args.seconds)
            for at, stretch in stretches.items():
                measured[way][at].append(figures(video[stretch], truth, probe))
            if len(rows) < SHOWN * len(models):
                shown = video[torch.linspace(0, len(video) - 1, 8).long()]
                rows.append(torch.cat([truth[-1], *shown], dim=1))
        print(json.dumps({"clip": index}), flush=True)
    Image.fromarray(torch.cat(rows).clamp(0, 255).round().byte().numpy()).save(args.out / "frames.png")
    means = {
        way: {at: {name: summary([clip[name] for clip in found]) for name in FIGURES} for at, found in by.items()}
        for way, by in measured.items()
    }
    others = [way for way in models if way != "self" and "self" in models]
    return means | {f"self_minus_{way}": differences(measured["self"], measured[way]) for way in others}


def differences(one: dict, other: dict) -> dict:
    """Clip by clip, so that what is hard for both does not hide what sets them apart"""

    def value(figure: float | Ratio) -> float:
        return figure.numerator / figure.denominator if isinstance(figure, Ratio) else figure

    def apart(at: str, name: str) -> list[float]:
        return [value(mine[name]) - value(its[name]) for mine, its in zip(one[at], other[at])]

    return {at: {name: summary(apart(at, name)) for name in FIGURES} for at in one}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--init", required=True, help="a checkpoint whose temporal attention is trained")
    parser.add_argument("--latents", type=Path, required=True, help="encoded clips, held-out ones among them")
    parser.add_argument("--probe", required=True, help="probe.safetensors, which reads head poses")
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--stretch", type=int, default=48, help="frames at either end that are measured")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(args.threads or torch.get_num_threads())
    clips = load_clips(args.latents)
    models = {way: trained(args, way, clips) for way in args.way}
    result = {"settings": {"steps": args.steps, "seconds": args.seconds, "seed": args.seed}}
    result |= compare(models, clips, load_probe(args.probe), args)
    (args.out / "self-forcing.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
