"""The `generate` command: from files to a file, by `pipeline.py`.

python -m starcaster_core generate --portrait P.png --speech S.wav --camera orbit --seconds 4 --out o.mp4
"""

from __future__ import annotations

import argparse
import gc
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .camera import PRESETS, CameraMove
from .errors import InputError, shown
from .frame_sizes import FRAMES, FULL, LARGEST, SMALLEST
from .preflight import check_disk, check_memory
from .presets import SCHEDULERS, ModelConfig
from .sampling.redo import next_seed, read_redo
from .sampling.settings import ON_FAULT, SamplerSettings
from .signals import ending_at_once
from .types import Identity

if TYPE_CHECKING:
    from .pipeline import Voice

FileName = str | os.PathLike
SUFFIXES = (".mp4", ".webm", ".mov", ".gif")
LONGEST_SECONDS = 86_400


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults, move = SamplerSettings(), CameraMove()
    who = parser.add_argument_group("who, what, from where")
    who.add_argument("--portrait", type=Path, nargs="+", metavar="IMAGE", help="one or several photos of one person")
    who.add_argument("--identity", type=Path, metavar="FILE", help="a saved identity file instead of photos")
    who.add_argument(
        "--save-identity", type=Path, metavar="FILE", help="keep the identity for next time, beside those saved before"
    )
    who.add_argument("--face", default="single", help="which face of a photo: single, largest, leftmost, rightmost")
    who.add_argument("--speech", type=Path, metavar="AUDIO", help="a voice, any format; without one the mouth is free")
    who.add_argument("--camera", default=None, metavar="PATH", help=f"{', '.join(PRESETS)}, or a JSON keyframe file")
    who.add_argument("--yaw", type=float, default=move.yaw, help="reach of the camera move to the sides, degrees")
    who.add_argument("--pitch", type=float, default=move.pitch, help="reach up and down, degrees")
    who.add_argument("--period", type=float, default=move.period, help="seconds of one swing, 0 = the whole video")
    who.add_argument("--seconds", type=float, default=None, help="length; default: as long as the speech, else 4")
    how = parser.add_argument_group("how")
    how.add_argument("--model", default="mini", help="'mini', or a STARCaster .safetensors file")
    how.add_argument("--audio-encoder", type=Path, metavar="FILE", help="wav2vec2-base, for a model that brings none")
    how.add_argument(
        "--face-models", type=Path, nargs="+", default=[], metavar="DIR", help="where SCRFD and ArcFace lie, for sd15"
    )
    how.add_argument("--device", default="auto", help="auto, cpu, cuda, mps")
    how.add_argument("--float8", action="store_true", help="store the large weights in eight bits")
    how.add_argument("--offload", action="store_true", help="keep the network in main memory, a block on the device")
    how.add_argument(
        "--compile", action="store_true", help="let torch.compile fuse the blocks: minutes once, then faster"
    )
    how.add_argument("--cuda-graphs", action="store_true", help="record the network once and replay it")
    how.add_argument("--seed", type=int, default=defaults.seed, help="0 .. 2^64 - 1")
    how.add_argument("--steps", type=int, default=None, help="denoising steps; default: the model's own")
    how.add_argument("--scheduler", choices=SCHEDULERS, default=None, help="default: the model's own")
    how.add_argument("--guidance-scale", type=float, default=None, help="default: the model's own")
    how.add_argument(
        "--head-motion",
        type=float,
        default=defaults.head_motion,
        help="0 keeps the head still, 1 is usual, 2 twice as lively",
    )
    how.add_argument(
        "--guidance-end",
        type=float,
        default=None,
        help="fraction of the steps that are guided; default: the model's own",
    )
    how.add_argument("--lambda-audio", type=float, default=defaults.lambda_audio)
    how.add_argument("--lambda-camera", type=float, default=defaults.lambda_camera)
    how.add_argument("--identity-only", action="store_true", help="use the person's identity, not the photo's look")
    how.add_argument(
        "--frame", choices=FRAMES, default="face", help="show the face alone (default), or the whole picture"
    )
    how.add_argument("--size", type=int, default=None, help="side of the face's frames, pixels; default: 512")
    how.add_argument(
        "--no-journal", action="store_true", help="do not keep finished chunks, with which a stopped render goes on"
    )
    how.add_argument("--keep-journal", action="store_true", help="keep them when the video is whole, for --redo")
    how.add_argument(
        "--redo",
        nargs="+",
        metavar="CHUNK",
        help="of a kept journal, make these chunks again: 3, 5-7, 1.2s-3s, 3:42 for the third with seed 42, or "
        "3:audio_scale=2 with another scale",
    )
    how.add_argument("--redo-seed", type=int, default=None, help="of those of them without one; default: --seed plus 1")
    how.add_argument(
        "--on-fault",
        choices=ON_FAULT,
        default=ON_FAULT[0],
        help="where a chunk is NaN, frozen or black, or loses its face: stop (default), retry with other noise, warn",
    )
    parser.add_argument("--out", type=Path, required=True, help=f"the video to write: {', '.join(SUFFIXES)}")


def run(args: argparse.Namespace) -> None:
    """Generate the video that the arguments describe. Raises InputError and its kinds for what cannot be used."""
    check_settings(args)
    check_files(args)
    with ending_at_once():
        import_networks()
    from .identity_only import with_drawn_portrait
    from .models.checkpoint import read_config
    from .pipeline import JOURNAL, frame_decoder, load_model, prepare, read_voice, save_video
    from .sampling.execution import Execution

    started = time.monotonic()
    config = read_config(args.model)
    identity = choose_identity(args, config)
    voice = None if args.speech is None else read_voice(args.speech, args.seconds)
    check_needs(args, config, identity, voice)
    model = load_model(
        args.model, args.device, float8=args.float8, offload=args.offload, audio_encoder=args.audio_encoder
    )
    conditions = prepare(model, identity, voice, choose_camera(args), args.seconds)
    settings = SamplerSettings.of(model.config, **chosen_settings(args))
    conditions, settings = with_drawn_portrait(model, conditions, settings)
    decode = frame_decoder(model, conditions, settings, args.frame, args.size)
    for warning in (*conditions.warnings, *decode.warnings):
        print(f"warning: {shown(warning)}", file=sys.stderr)
    execution = Execution(compile=args.compile, cuda_graphs=args.cuda_graphs)
    info = save_video(
        args.out,
        model,
        conditions,
        settings,
        offload=args.offload,
        decode=decode,
        progress=Progress(),
        execution=execution,
        journal=None if args.no_journal else args.out.parent / JOURNAL,
        keep_journal=args.keep_journal or bool(args.redo),
        redo=chunks_to_redo(args, model.config, settings, conditions.frames),
        on_fault=args.on_fault,
        say=say,
    )
    print(
        f"\n{shown(args.out)}: {info.frames} frames, {info.seconds:.2f} s, made in {time.monotonic() - started:.1f} s"
    )


def chosen_settings(args: argparse.Namespace) -> dict:
    """Return the sampler's settings that the arguments name; None stands for the model's own."""
    return {
        "seed": args.seed,
        "steps": args.steps,
        "scheduler": args.scheduler,
        "guidance_scale": args.guidance_scale,
        "guidance_end": args.guidance_end,
        "head_motion": args.head_motion,
        "lambda_audio": args.lambda_audio,
        "lambda_camera": args.lambda_camera,
        "use_reference": not args.identity_only,
    }


def check_settings(args: argparse.Namespace) -> None:
    """Raise InputError for what can be seen to be impossible before anything is loaded."""
    from .pipeline import read_camera

    if args.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"an output file ending in {', '.join(SUFFIXES)}", str(args.out), "Change --out.")
    if args.seconds is not None and not 0 < args.seconds <= LONGEST_SECONDS:
        raise InputError(
            f"--seconds above 0 and up to {LONGEST_SECONDS}", str(args.seconds), "Leave it out to follow the speech."
        )
    if bool(args.portrait) == bool(args.identity):
        raise InputError("a --portrait or an --identity", "both" if args.portrait else "neither", "Give one of them.")
    if args.size is not None and not SMALLEST <= args.size <= LARGEST:
        raise InputError(f"a size from {SMALLEST} to {LARGEST} pixels", str(args.size), "Choose one in between.")
    SamplerSettings(**{name: value for name, value in chosen_settings(args).items() if value is not None})
    if (camera := choose_camera(args)) is not None:
        read_camera(camera, frames=2)


def check_files(args: argparse.Namespace) -> None:
    """Raise InputError where an input is missing, or an output cannot be written, is being written by another process,
    is an input, or is the other output."""
    from .locks import OutputName
    from .video import check_output

    inputs = {"--portrait": args.portrait or (), "--identity": [args.identity], "--speech": [args.speech]}
    for option, paths in inputs.items():
        for path in paths:
            if path is not None and not os.path.exists(path):
                raise InputError(f"a file for {option}", f"{path}, where there is none", "Check the path.")
    given = [*(args.portrait or ()), args.identity, args.speech, args.audio_encoder, args.model, args.camera]
    outputs = {"--out": args.out, "--save-identity": args.save_identity}
    for option, path in outputs.items():
        if path is None:
            continue
        check_output(path)
        if any(is_same_file(path, other) for other in given if other):
            raise InputError(f"{option} to be a new file", f"{path}, which is an input", "Choose another name.")
    if args.save_identity and is_same_file(args.out, args.save_identity):
        raise InputError("two files, --out and --save-identity", "one name for both", "Choose another name for one.")
    if args.out.parent.is_dir():
        OutputName(args.out).release()  # known before the model is loaded; `save_video` reserves it


def check_needs(args: argparse.Namespace, config: ModelConfig, identity: Identity, voice: Voice | None) -> None:
    """Raise InputError where the device, the disk or the memory does not do, or chunks to make again do not exist; say
    how long it will take, if that is minutes."""
    from .models.checkpoint import RANDOM, cpu_precision, find_checkpoint
    from .pipeline import DEFAULT_SECONDS, choose_device, choose_dtype
    from .sampling.cost import expectation, expected_seconds

    device = choose_device(args.device)
    seconds = args.seconds or (DEFAULT_SECONDS if voice is None else voice.seconds)
    frames = max(1, round(seconds * config.fps))
    settings = SamplerSettings.of(config, **chosen_settings(args))
    again = chunks_to_redo(args, config, settings, frames)
    width = height = args.size or (config.image_size if config.reference_decoder is None else FULL)
    if args.frame == "picture" and identity.photo is not None and config.reference_decoder is not None:
        height, width = identity.photo.shape[:2]
    check_disk(args.out, frames, width, height)
    if args.model not in RANDOM:
        size = find_checkpoint(args.model).stat().st_size
        check_memory(size, "the model's weights", "Close other programs, or use a smaller model.")
        if device.type == "cuda" and not args.offload:
            import torch

            size, free = size / (2 if args.float8 else 1), torch.cuda.mem_get_info(device)[0]
            check_memory(size, "the weights on the GPU", "Use --offload or --float8, or close other programs.", free)
    expected = len(again) * config.chunk_frames or frames
    dtype = choose_dtype(device) or cpu_precision()
    if sentence := expectation(expected_seconds(config, settings, expected, max(width, height), device, dtype)):
        say(sentence)


def is_same_file(one: FileName, other: FileName) -> bool:
    """Return whether two paths lead to one file, links followed."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there, or is no path at all
        return os.path.abspath(one) == os.path.abspath(other)


def import_networks() -> None:
    """Import PyTorch and the networks with the garbage collector at rest.

    They make a million objects and no garbage. The collector would go through all of them many times meanwhile, and
    once more at the end of the program.
    """
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        from .models import checkpoint  # noqa: F401
        from .sampling import rollout  # noqa: F401
    finally:
        gc.freeze()
        gc.enable()


def choose_identity(args: argparse.Namespace, config: ModelConfig) -> Identity:
    """Read the photos or the saved identity that was asked for, and save it where wanted."""
    from .identity import load_identity, save_new_identity
    from .pipeline import read_identity

    if args.identity:
        identity = load_identity(args.identity)
    else:
        identity = read_identity(config, args.portrait, args.face, args.face_models)
    if args.save_identity:
        saved = save_new_identity(args.save_identity, identity)
        if saved != args.save_identity:
            print(f"warning: {shown(args.save_identity)} exists, so it was saved as {shown(saved)}.", file=sys.stderr)
    return identity


def choose_camera(args: argparse.Namespace) -> CameraMove | str | None:
    """Return the preset with the reach that was asked for, or the keyframe file."""
    if args.camera in PRESETS:
        return CameraMove(args.camera, yaw=args.yaw, pitch=args.pitch, period=args.period)
    return args.camera


def chunks_to_redo(
    args: argparse.Namespace, config: ModelConfig, settings: SamplerSettings, frames: int
) -> dict[int, SamplerSettings]:
    """Return how the chunks to make again are sampled, by index. Raises InputError for chunks that there are not."""
    if args.redo and args.no_journal:
        raise InputError("--redo with a journal", "--no-journal", "Leave it out.")
    seed = next_seed(args.seed) if args.redo_seed is None else args.redo_seed
    SamplerSettings(seed=seed)  # checks it
    return read_redo(" ".join(args.redo or ()), config, frames, settings, seed)


def say(sentence: str) -> None:
    """Print a sentence on a line of its own."""
    print(f"\n{sentence}" if sys.stderr.isatty() else sentence, file=sys.stderr, flush=True)


class Progress:
    """Shows how far the work is; once two chunks are made, how many minutes are left, if more than one."""

    def __init__(self):
        self.ended: list[float] = []  # when the first two chunks of this run were done, by the clock

    def __call__(self, report) -> None:
        show_progress(report)
        if report.step < report.steps or len(self.ended) == 2:
            return
        self.ended.append(time.monotonic())
        if len(self.ended) == 2:  # the first one had the machine warm up
            minutes = (self.ended[1] - self.ended[0]) * (report.chunks - report.chunk - 1) / 60
            if minutes > 1:
                say(f"About {minutes:.0f} minutes are left.")


def show_progress(report) -> None:
    """One line that rewrites itself, on a terminal; a line a chunk elsewhere."""
    if sys.stderr.isatty():
        print(f"\rchunk {report.chunk + 1}/{report.chunks}  {report.done:4.0%}", end="", file=sys.stderr, flush=True)
    elif report.step == report.steps:
        print(f"chunk {report.chunk + 1}/{report.chunks} done", file=sys.stderr, flush=True)
