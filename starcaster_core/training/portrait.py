"""Trains the talking portrait: the stages of a recipe, one after the other, into one checkpoint.

    python -m starcaster_core train --latents DIR --autoencoder A.safetensors --speech P.safetensors \\
        --minutes 80 --out DIR

Every stage resumes where it was stopped; a finished stage's weights are kept as `<stage>.safetensors`, whole models that
can be sampled from.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..models.checkpoint import build, load_checkpoint, read_checkpoint, save_checkpoint
from ..models.lipreader import LipReader, load_lipreader
from ..models.starcaster import Starcaster
from ..presets import PRESETS
from .diffusion import DenoisingLoss, draw_batch
from .grids import held_out, sample_grid
from .latents import ClipSet, load_clips, load_helpers
from .lips import LipLoss
from .loop import LoopSettings, autocast, step_generator, train, training_device
from .recipe import ABLATIONS, Stage, ablate, choose_stages
from .recipes import RECIPES
from .team import Team


def new_model(preset: str, vae_file: Path, speech_file: Path, seed: int) -> Starcaster:
    """Untrained, but for the frozen autoencoder and speech encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Starcaster(PRESETS[preset])
    model.vae, model.speech_encoder = load_helpers(vae_file, speech_file, model.config)
    return model.to(memory_format=torch.channels_last)


def begun_model(name_or_path: str, shared_noise: float | None = None) -> Starcaster:
    """A checkpoint to go on from, noised as its preset trains: what is published may sample with more noise in common
    than temporal attention learns anything from (docs/decisions/0005)."""
    model = load_checkpoint(name_or_path, torch.float32)
    config = model.config
    if shared_noise is None:
        shared_noise = PRESETS.get(config.name, config).noise.shared_noise
    model.config = replace(config, noise=replace(config.noise, shared_noise=shared_noise))
    return model


def choose_trainable(model: Starcaster, stage: Stage) -> list[torch.nn.Parameter]:
    """Freezes all but what the stage trains; the autoencoder and the speech encoder are always frozen."""
    model.requires_grad_(False)
    for name, parameter in model.named_parameters():
        if name.startswith(("vae.", "speech_encoder.")):
            continue
        parameter.requires_grad_(not stage.trainable or any(part in name for part in stage.trainable))
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def run_stage(
    model: Starcaster,
    clips: ClipSet,
    stage: Stage,
    budget: LoopSettings,
    out: Path,
    seed: int,
    reader: LipReader | None = None,
) -> None:
    """budget: the stage's minutes or steps, and a step's parts; its learning rate is the stage's. reader: for the
    lip-reading loss of the stages that have one."""
    parameters = choose_trainable(model, stage)
    lips = None
    if reader is not None and stage.lip_weight:
        lips = LipLoss(reader.to(model.device), model.vae, model.config.autoencoder.scaling_factor)
    loss = DenoisingLoss(model, stage, lips)
    window = model.config.conditioning.speech_window
    shown = held_out(clips, tuple(kind for kind, _ in stage.kinds))

    def before_step(done: float) -> None:
        loss.progress = done

    def loss_of_draw(number: int):
        generator = step_generator(seed, stage.name, number)
        batch = draw_batch(clips, stage, "train", window, generator)
        with autocast():
            return loss(batch, generator)

    def show(step: int) -> None:
        sample_grid(model, clips, shown, out / "grids" / f"{stage.name}-{step:06}.png", stage.reference > 0)

    budget = replace(budget, learning_rate=stage.learning_rate)
    train(model, loss_of_draw, budget, out, stage.name, parameters, before_step, show)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    team = Team()
    reader = load_lipreader(args.lipreader) if args.lipreader else None
    stages = ablate(RECIPES[args.recipe], args.without)
    chosen = choose_stages(stages, args.stage)
    whole = sum(stage.share for stage in chosen)
    if args.init:
        model = begun_model(args.init, args.shared_noise)
    else:
        model = new_model(args.recipe, args.autoencoder, args.speech, args.seed)
    for stage in stages:
        finished = args.out / f"{stage.name}.safetensors"
        if finished.exists():
            config, weights, _ = read_checkpoint(finished)
            model = build(config, weights, str(finished))
        elif stage in chosen:
            clips = load_clips(args.latents)  # again for every stage: more clips may have been made meanwhile
            stage, share = replace(stage, clips=stage.clips * args.batch_factor), stage.share / whole
            steps = max(1, round(args.steps * share)) if args.steps else 0
            budget = LoopSettings(args.minutes * share, steps=steps, parts=args.parts)
            run_stage(model.to(training_device()), clips, stage, budget, args.out, args.seed, reader)
            made_with = {
                "stage": asdict(stage),
                "seed": args.seed,
                **({"steps": steps} if steps else {"minutes": args.minutes * share}),
                "clips": len(clips.kind),
                "lipreader": bool(reader),
                "without": list(args.without),
                "begun_from": args.init and Path(args.init).stem,  # names, no places
                "command": "python -m starcaster_core train",
            }
            if team.is_main:
                save_checkpoint(finished, model, made_with, dtype=torch.float32)
            team.wait()
            print(json.dumps({"finished": stage.name}), flush=True)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="mini")
    parser.add_argument(
        "--stage", nargs="+", default=["all"], help="all (default), or stages by name (1-motion) or number (1)"
    )
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=ABLATIONS,
        help="leave a part of the recipe out, to see what it does",
    )
    parser.add_argument(
        "--latents", type=Path, required=True, help="folder written by starcaster_core.training.latents"
    )
    parser.add_argument("--autoencoder", type=Path, help="autoencoder.safetensors, without --init")
    parser.add_argument("--speech", type=Path, help="phonetic.safetensors, without --init")
    parser.add_argument("--lipreader", type=Path, help="lipreader.safetensors: add the lip-reading loss")
    parser.add_argument("--init", help="'mini' or a checkpoint to go on from, instead of a new model")
    parser.add_argument(
        "--shared-noise", type=float, help="with --init: noise that all frames have in common; default: the preset's"
    )
    parser.add_argument("--minutes", type=float, default=80, help="time for all chosen stages together")
    parser.add_argument(
        "--steps", type=int, default=0, help="steps of the chosen stages together, instead of --minutes"
    )
    parser.add_argument(
        "--parts", type=int, default=0, help="batches a step, shared out among the processes; 0 = one each"
    )
    parser.add_argument(
        "--batch-factor", type=int, default=1, help="batches so many times the recipe's; a GPU has room for 8"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for states, logs and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = as PyTorch chooses")
