"""Trains the talking portrait: the stages of a recipe, one after the other, into one checkpoint.

    python -m starcaster_core train --recipe mini --minutes 25 --out DIR

With nothing else given it renders clips and trains the frozen helpers first (`prepare.py`). Every stage resumes where
it was stopped; a finished stage's weights are kept as `<stage>.safetensors`, whole models that can be sampled from.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path

import torch

from ..errors import InputError
from ..models.checkpoint import build, load_checkpoint, read_checkpoint, save_checkpoint
from ..models.extensions import Extensions
from ..models.lipreader import LipReader, load_lipreader
from ..models.starcaster import Starcaster
from ..presets import PRESETS, ExtensionsConfig
from .diffusion import DenoisingLoss, draw_batch
from .distributed import Distributed
from .gradient_checkpointing import checkpointed_blocks
from .grids import held_out, sample_grid
from .latents import ClipSet, load_clips, new_model
from .lips import LipLoss
from .loop import PRECISIONS, LoopSettings, autocast, step_generator, train, training_device
from .prepare import LEAST_SHARE, Materials, prepare
from .recipe import ABLATIONS, DECODER_ABLATIONS, Stage, ablate, choose_stages, unfrozen
from .recipes import RECIPES
from .student import ADVERSARIAL, IN_CHUNKS, StudentLoss, adapt_stage, lip_reading_stage, new_student
from .untrained import still_untrained

MINUTES = 80
EXPECTATIONS = """What to expect of `mini` on two CPU cores: a run of 2 minutes shows that everything runs, and nothing
else. The mini that ships took eight and a half hours: 241 minutes of them on single frames, 210 as a student. More:
docs/training.md."""


def begun_model(name_or_path: str, stages: tuple[Stage, ...], shared_noise: float | None = None) -> Starcaster:
    """Load a checkpoint to go on from with `stages`, with its preset's extensions.

    Noise is shared as the preset trains: a published model may share more than temporal attention learns anything from
    (docs/decisions/0004). A model that only teaches a student stays as it is. Extensions that it lacks begin untrained.
    """
    model = load_checkpoint(name_or_path, torch.float32)
    config = model.config
    preset = PRESETS.get(config.name, config).extensions
    if shared_noise is None:
        chunks = any(stage.teaches_motion or not stage.student_steps for stage in stages)
        trained = preset if chunks else config.extensions
        shared_noise = trained.shared_noise
    wanted = replace(
        config.extensions,
        shared_noise=shared_noise,
        warp_portrait=preset.warp_portrait,
        head_motion_channels=config.extensions.head_motion_channels or preset.head_motion_channels,
    )
    return with_extensions(model, wanted)


def with_extensions(model: Starcaster, extensions: ExtensionsConfig) -> Starcaster:
    """Return the model with other extensions: what it has not yet begins untrained, what it no longer has is dropped.

    `ExtensionsConfig()`, no extension, gives the paper's network.
    """
    config = replace(model.config, extensions=extensions)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        fresh = Extensions(extensions, config.unet).state_dict()
    weights = {f"unet.extensions.{name}": value for name, value in fresh.items()}
    known = {name: value for name, value in model.state_dict().items() if name in weights or EXTENSIONS not in name}
    return build(config, weights | known, config.name, untrained=model.untrained)


EXTENSIONS = "unet.extensions."  # how the names of their weights begin


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
    stage: Stage,
    budget: LoopSettings,
    latents: Path,
    reader: LipReader | None,
    args: argparse.Namespace,
) -> Starcaster:
    """budget: the stage's minutes or steps, and a step's micro-batches. latents: a folder of encoded clips; the stage's
    own are taken from the folder of its name in it, if there is one. reader: for the stages with a lip-reading loss.
    Leaves the whole trained model in `<stage>.safetensors`, and returns it."""
    own = latents / stage.name
    clips = load_clips(own if own.is_dir() else latents)  # for every stage: more may have been made meanwhile
    model = train_stage(
        model, clips, stage, budget, args.out, args.seed, reader, args.precision, args.gradient_checkpointing
    )
    processes = Distributed()
    if processes.is_main:
        made_with = {
            "recipe": args.recipe,
            "stage": asdict(stage),
            "seed": args.seed,
            **({"steps": budget.steps} if budget.steps else {"minutes": round(budget.minutes, 2)}),
            "clips": len(clips.kind),
            "lipreader": bool(reader),
            "without": list(args.without),
            "begun_from": args.init and Path(args.init).stem,  # names, no places
            "command": "python -m starcaster_core train",
        }
        save_checkpoint(args.out / f"{stage.name}.safetensors", model, made_with, dtype=torch.float32)
        print(json.dumps({"finished": stage.name}), flush=True)
    processes.barrier()
    return model


def with_clips_at_hand(stage: Stage, clips: ClipSet) -> Stage:
    """Without joint clips where there are none, saying so: sets of an earlier version and real videos have none. Any
    other kind that is missing is an error when it is drawn."""
    if "joint" not in dict(stage.kinds) or len(clips.where("train", "joint")):
        return stage
    print(json.dumps({"stage": stage.name, "no clips": "joint, so voice and camera are learned apart"}), flush=True)
    return replace(stage, kinds=tuple((kind, share) for kind, share in stage.kinds if kind != "joint"))


def train_stage(
    model: Starcaster,
    clips: ClipSet,
    stage: Stage,
    budget: LoopSettings,
    out: Path,
    seed: int,
    reader: LipReader | None = None,
    precision: str = "auto",
    gradient_checkpointing: bool = False,
) -> Starcaster:
    """Trains `model` in place on clips in memory, or a student of it that is another one, and returns what was trained;
    state, log, curves and sample grids go to `out`."""
    stage = with_clips_at_hand(stage, clips)
    if stage.student_steps:
        teacher = model.eval().requires_grad_(False)
        model = new_student(teacher, stage)
        loss = StudentLoss(model, stage, lip_loss(model, stage, reader, gradient_checkpointing))
        discriminator_parameters = list(loss.discriminator.parameters())
        budget = replace(budget, **(ADVERSARIAL | IN_CHUNKS if stage.frames > 1 else ADVERSARIAL))
    else:
        loss = DenoisingLoss(model, stage, lip_loss(model, stage, reader, gradient_checkpointing))
        discriminator_parameters = []
    parameters = choose_trainable(model, stage)
    model.untrained = still_untrained(model, stage)
    window = model.config.conditioning.speech_window
    shown = held_out(clips, tuple(kind for kind, _ in stage.kinds))

    def before_step(done: float) -> None:
        loss.progress = done

    def loss_of_draw(number: int):
        generator = step_generator(seed, stage.name, number)
        drawn = lip_reading_stage(stage, generator) if loss.lips else stage
        batch = draw_batch(clips, drawn, "train", window, generator)
        with autocast(precision):
            return loss(batch, generator)

    def show(step: int) -> None:
        path = out / "grids" / f"{stage.name}-{step:06}.png"
        sample_grid(model, clips, shown, path, use_reference=stage.reference > 0, chunks=stage.recursion)

    budget = replace(budget, learning_rate=stage.learning_rate)
    with checkpointed_blocks(model.unet, gradient_checkpointing):
        return train(
            model, loss_of_draw, budget, out, stage.name, parameters, before_step, show, discriminator_parameters
        )


def lip_loss(model: Starcaster, stage: Stage, reader: LipReader | None, frame_by_frame: bool) -> LipLoss | None:
    if reader is None or not stage.lip_weight:
        return None
    scaling_factor = model.config.autoencoder.scaling_factor
    return LipLoss(reader.to(model.device), model.vae, scaling_factor, frame_by_frame=frame_by_frame)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    parts = DECODER_ABLATIONS if args.stage == ["decoder"] else ABLATIONS
    if other := set(args.without).difference(parts):
        raise InputError(
            f"parts of what is trained to leave out ({', '.join(parts)})",
            ", ".join(sorted(other)),
            "Choose among them.",
        )
    if args.stage == ["decoder"]:
        from .decoder_stage import run_decoder_stage

        run_decoder_stage(args)
        return
    if args.stage == ["prepare"]:
        print(
            json.dumps({name: str(path) for name, path in asdict(materials_for(args, args.minutes or MINUTES)).items()})
        )
        return
    stages = ablate(RECIPES[args.recipe], args.without)
    if args.unfreeze:
        stages = unfrozen(stages)
    chosen = choose_stages(stages, args.stage)
    counted = not args.minutes and not args.steps and all(stage.steps for stage in chosen)
    minutes = args.minutes or (0 if args.steps or counted else MINUTES)
    begun = time.monotonic()
    materials = materials_for(args, minutes)
    model = begun_model(args.init, chosen, args.shared_noise) if args.init else None
    if model is None:
        model = new_model(PRESETS[args.recipe], materials.autoencoder, materials.speech, args.seed)
    if "extensions" in args.without:
        model = with_extensions(model, ExtensionsConfig())
    reader = load_lipreader(materials.lipreader) if materials.lipreader else None
    minutes = minutes_left(args.out / "minutes.json", minutes, begun)
    whole = sum(stage.share for stage in chosen)
    for stage in stages:
        finished = args.out / f"{stage.name}.safetensors"
        if finished.exists():
            config, weights, made_with = read_checkpoint(finished)
            model = build(config, weights, str(finished), untrained=made_with.get("untrained", ()))
        elif stage in chosen:
            share = stage.share / whole
            steps = stage.steps if counted else round(args.steps * share)
            budget = LoopSettings(
                minutes * share,
                steps=max(1, steps) if args.steps or counted else 0,
                micro_batches=args.micro_batches or stage.parts,
                show_minutes=args.grid_minutes,
                loss_scaling=args.precision == "float16",
            )
            stage = replace(stage, clips=stage.clips * args.batch_factor)
            if stage.student_steps:
                stage = adapt_stage(model, stage)
            model = run_stage(model.to(training_device()), stage, budget, materials.latents, reader, args)
    if args.recipe == "mini" and Distributed().is_main:
        print(EXPECTATIONS, flush=True)


def materials_for(args: argparse.Namespace, minutes: float) -> Materials:
    """With several processes everything must have been made before."""
    complete = args.latents and (args.init or (args.autoencoder and args.speech))
    if Distributed().world_size > 1 and not complete:
        raise InputError(
            "--latents, and --init or --autoencoder and --speech, for several processes",
            "less",
            "Let one process make them: `train --stage prepare`.",
        )
    return prepare(
        PRESETS[args.recipe],
        args.out,
        minutes or MINUTES,
        args.seed,
        clips=args.data,
        latents=args.latents,
        autoencoder=args.autoencoder,
        speech=args.speech,
        lipreader=args.lipreader,
        init=args.init,
        read_lips="lips" not in args.without,
        recognisers=args.recognisers,
        photos=args.photos,
    )


def minutes_left(file: Path, minutes: float, begun: float) -> float:
    """For the denoiser, decided once a run: what preparing has left of `minutes`, at least LEAST_SHARE of them."""
    if not file.exists():
        left = max(LEAST_SHARE * minutes, minutes - (time.monotonic() - begun) / 60)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({"minutes": minutes, "denoiser": left}) + "\n", encoding="utf-8")
    known = json.loads(file.read_text(encoding="utf-8"))
    return known["denoiser"] if known["minutes"] == minutes else minutes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--recipe", choices=sorted(RECIPES), default="mini")
    parser.add_argument(
        "--stage",
        nargs="+",
        default=["all"],
        help="all (default), stages by name (1-motion) or number (1), prepare: all that comes before them, or decoder: "
        "the reference decoder, which draws frames out of the photo",
    )
    parser.add_argument("--unfreeze", action="store_true", help="train the 2D weights in every stage")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        choices=(*ABLATIONS, *DECODER_ABLATIONS),
        help="leave a part of the recipe out, to see what it does; extensions: what the paper's network does not have; "
        f"{', '.join(DECODER_ABLATIONS)}: of the stage decoder",
    )
    parser.add_argument("--anew", action="store_true", help="decoder: begin with random weights, not those of --init")
    parser.add_argument("--data", type=Path, help="folder of shards; default: synthetic ones are rendered")
    parser.add_argument("--latents", type=Path, help="folder of encoded clips; default: made from --data")
    parser.add_argument("--autoencoder", type=Path, help="autoencoder.safetensors; default: trained")
    parser.add_argument("--speech", type=Path, help="phonetic.safetensors; default: trained")
    parser.add_argument("--lipreader", type=Path, help="lipreader.safetensors; default: trained where there is --data")
    parser.add_argument(
        "--photos", type=Path, help="folder of aligned photos of 512 x 512 pixels, which talk beside the clips"
    )
    parser.add_argument("--videos", type=Path, help="decoder: folder of videos of people who talk")
    parser.add_argument("--voices", type=Path, help="decoder: folder of recorded speech that the photos say")
    parser.add_argument("--scenes", type=int, default=720, help="decoder: rendered scenes")
    parser.add_argument("--pairs", type=Path, help="decoder: folder of pairs made before; default: made in OUT/pairs")
    parser.add_argument(
        "--recognisers", type=Path, nargs="+", default=[], help="folders with ArcFace's files, for sd15"
    )
    parser.add_argument("--init", help="'mini' or a checkpoint to go on from, instead of a new model")
    parser.add_argument(
        "--shared-noise",
        type=float,
        help="with --init: noise that all frames have in common; default: the preset's, for a student its teacher's",
    )
    parser.add_argument(
        "--minutes", type=float, help=f"time for everything; default: the recipe's own steps, else {MINUTES}"
    )
    parser.add_argument(
        "--steps", type=int, default=0, help="of the chosen stages together; --minutes is then for the rest"
    )
    parser.add_argument(
        "--micro-batches",
        "--parts",
        type=int,
        default=0,
        help="batches a step, shared out among the processes, their gradients added up; 0 = the recipe's, one each",
    )
    parser.add_argument(
        "--batch-factor", type=int, default=1, help="batches so many times the recipe's; a GPU has room for 8"
    )
    parser.add_argument(
        "--precision", choices=("auto", *PRECISIONS), default="auto", help="to compute in; weights stay in float32"
    )
    parser.add_argument(
        "--gradient-checkpointing", action="store_true", help="a third slower, and far less memory: for GPUs"
    )
    parser.add_argument("--grid-minutes", type=float, default=10, help="between two sample grids")
    parser.add_argument("--out", type=Path, required=True, help="folder for states, logs and checkpoints")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = as PyTorch chooses")
