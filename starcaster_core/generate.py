"""From files to a file: the whole path in one function, as the node graph does it.

python -m starcaster_core generate --portrait P.png --speech S.wav --camera orbit --seconds 4 --out o.mp4
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np

from .camera import PRESETS, CameraMove, keyframe_path, preset_path
from .errors import InputError
from .presets import ModelConfig
from .sampling import Chunk, Conditions, Execution, SamplerSettings, rollout
from .sampling.schedules import SCHEDULERS
from .types import CameraPath, Identity
from .video import Background, VideoInfo, VideoWriter

SUFFIXES = (".mp4", ".webm", ".mov", ".gif")
DECODED_AT_ONCE = 4  # frames; between them a cancelled video ends


def add_arguments(parser: argparse.ArgumentParser) -> None:
    defaults, move = SamplerSettings(), CameraMove()
    who = parser.add_argument_group("who, what, from where")
    who.add_argument("--portrait", type=Path, nargs="+", metavar="IMAGE", help="one or several photos of one person")
    who.add_argument("--identity", type=Path, metavar="FILE", help="a saved identity file instead of photos")
    who.add_argument("--save-identity", type=Path, metavar="FILE", help="keep the identity for next time")
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
        "--guidance-end", type=float, default=None, help="share of the steps that are guided; default: the model's own"
    )
    how.add_argument("--lambda-audio", type=float, default=defaults.lambda_audio)
    how.add_argument("--lambda-camera", type=float, default=defaults.lambda_camera)
    how.add_argument("--identity-only", action="store_true", help="use the person's identity, not the photo's look")
    parser.add_argument("--out", type=Path, required=True, help=f"the video to write: {', '.join(SUFFIXES)}")


def run(args: argparse.Namespace) -> None:
    from .identity import portrait_warnings
    from .models.checkpoint import load_checkpoint
    from .models.offload import BlockOffload
    from .speech import audio_warnings, load_audio, mono16k

    if args.out.suffix.lower() not in SUFFIXES:
        raise InputError(f"an output file ending in {', '.join(SUFFIXES)}", str(args.out), "Change --out.")
    if args.seconds is not None and not 0 < args.seconds < math.inf:
        raise InputError("--seconds above 0", str(args.seconds), "Leave it out to follow the speech.")
    started = time.monotonic()
    device = choose_device(args.device)
    model = load_checkpoint(args.model, choose_dtype(device), float8=args.float8)
    if args.audio_encoder:
        from .models.public.wav2vec2 import load_wav2vec2

        model.speech_encoder = load_wav2vec2(args.audio_encoder)
    for name, part in model.named_children():
        if name != "unet" or not args.offload:
            part.to(device)
    identity = read_identity(args, model.config)
    for warning in portrait_warnings(identity):
        print(f"warning: {warning}", file=sys.stderr)

    speech = sound = None
    if args.speech:
        waveform, rate = load_audio(args.speech)
        samples = mono16k(waveform, rate, args.seconds)
        for warning in audio_warnings(samples):
            print(f"warning: {warning}", file=sys.stderr)
        speech, sound = model.encode_speech(samples.to(device)), (waveform, rate)
    frames = speech.frames if speech else max(1, round((args.seconds or 4.0) * model.config.fps))
    camera = read_camera(args, frames, model.config.fps)
    for warning in model.warnings(speech, camera):
        print(f"warning: {warning}", file=sys.stderr)

    settings = SamplerSettings.of(
        model.config,
        seed=args.seed,
        steps=args.steps,
        scheduler=args.scheduler,
        guidance_scale=args.guidance_scale,
        guidance_end=args.guidance_end,
        head_motion=args.head_motion,
        lambda_audio=args.lambda_audio,
        lambda_camera=args.lambda_camera,
        use_reference=not args.identity_only,
    )
    args.out.parent.mkdir(parents=True, exist_ok=True)
    execution = Execution(compile=args.compile, cuda_graphs=args.cuda_graphs)
    with BlockOffload(model.unet, device) if args.offload else nullcontext():
        conditions = Conditions(identity, speech, camera, frames)
        chunks = rollout(model, conditions, settings, progress=show_progress, execution=execution)
        info = film(model, chunks, args.out, sound)
    print(f"\n{args.out}: {info.frames} frames, {info.seconds:.2f} s, made in {time.monotonic() - started:.1f} s")


def film(model, chunks: Iterator[Chunk], path: Path, sound=None) -> VideoInfo:
    """Writes the video of the chunks; while one is sampled, a thread decodes and encodes the one before.

    sound: waveform [C, N] and its samples a second.
    """
    decode = Decoder(model)
    with VideoWriter(path, model.config.fps, sound) as writer:
        with Background(lambda item: writer.writing(decode(*item))) as studio:
            for chunk in chunks:
                for part in chunk.latents.split(DECODED_AT_ONCE, dim=2):
                    studio.put(decode.hand_over(part))
    return writer.info


class Decoder:
    """A model's decoder for use in a second thread, on CUDA in a stream of its own beside the sampling."""

    def __init__(self, model):
        import torch

        self.model, self.cuda = model, torch.cuda
        self.stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def hand_over(self, latents):
        """In the sampling thread: raw latents [1, C, T, h, w] and the moment they will be ready"""
        return latents, None if self.stream is None else self.cuda.current_stream(self.model.device).record_event()

    def __call__(self, latents, ready) -> np.ndarray:
        """In the other thread: frames float32 [T, H, W, 3] in 0..1"""
        if self.stream is None:
            return self.model.decode_frames(self.model.from_raw(latents)).numpy()
        with self.cuda.stream(self.stream):
            self.stream.wait_event(ready)
            latents.record_stream(self.stream)
            return self.model.decode_frames(self.model.from_raw(latents)).numpy()


def read_identity(args: argparse.Namespace, config: ModelConfig) -> Identity:
    from .identity import load_identity, load_recogniser, make_identity, read_picture, save_identity

    if bool(args.portrait) == bool(args.identity):
        raise InputError("a --portrait or an --identity", "both" if args.portrait else "neither", "Give one of them.")
    if args.identity:
        return load_identity(args.identity)
    recogniser = load_recogniser(config.identity_backend, args.face_models)
    photos = [read_picture(path) for path in args.portrait]
    identity = make_identity(photos, config.image_size, which=args.face, recogniser=recogniser)
    if args.save_identity:
        save_identity(args.save_identity, identity)
    return identity


def read_camera(args: argparse.Namespace, frames: int, fps: float) -> CameraPath | None:
    if args.camera is None:
        return None
    if args.camera in PRESETS:
        path = preset_path(CameraMove(args.camera, yaw=args.yaw, pitch=args.pitch, period=args.period), frames, fps)
    elif Path(args.camera).is_file():
        path = keyframe_path(Path(args.camera).read_text(encoding="utf-8"), frames, fps)
    else:
        raise InputError(f"{', '.join(PRESETS)} or a keyframe file", repr(args.camera), "Check --camera.")
    for warning in path.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    return path


def choose_device(name: str):
    import torch

    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def choose_dtype(device):
    """Half precision on CUDA; elsewhere None, which leaves it to `load_checkpoint`."""
    import torch

    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def show_progress(report) -> None:
    """One line that rewrites itself, on a terminal; a line a chunk elsewhere."""
    if sys.stderr.isatty():
        print(f"\rchunk {report.chunk + 1}/{report.chunks}  {report.done:4.0%}", end="", file=sys.stderr, flush=True)
    elif report.step == report.steps:
        print(f"chunk {report.chunk + 1}/{report.chunks} done", file=sys.stderr, flush=True)
