"""Seconds of computing per second of video: the whole path, its parts, the command, and the ratio to the plain
composition.

python -m starcaster_core bench --out benchmarks/results/cpu.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from .. import __version__
from ..camera import CameraMove, preset_path
from ..head_motion import random_head_motion
from ..models.checkpoint import load_checkpoint
from ..models.extensions import FramePose, warped_latents
from ..models.starcaster import Starcaster
from ..sampling.execution import Network
from ..sampling.rollout import cache_branches, cache_subject, denoise, rollout
from ..sampling.settings import Conditions, SamplerSettings

ASSETS = Path(__file__).resolve().parent.parent / "assets"
# As the paper samples, at a third of its steps, which changes no ratio: every step guided.
GUIDED = SamplerSettings(steps=8, guidance_scale=3.0)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="'mini', 'tiny' or a checkpoint file")
    parser.add_argument("--chunks", type=int, default=2, help="chunks of video in the whole run")
    parser.add_argument("--repeats", type=int, default=3, help="chunks timed for the ratio, each way")
    parser.add_argument(
        "--command-seconds", type=float, nargs="*", default=[1.0, 8.0], help="lengths for which `generate` is timed"
    )
    parser.add_argument("--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="for both sides")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/cpu.json"), help="the JSON to write")


def run(args: argparse.Namespace) -> None:
    dtype = None if args.precision == "auto" else getattr(torch, args.precision)
    model = load_checkpoint(args.model, dtype)
    result = {
        "version": __version__,
        "command": f"python -m starcaster_core bench --model {args.model} --precision {args.precision}",
        "machine": describe_machine(),
        "model": model.config.name,
        "precision": str(model.dtype).removeprefix("torch."),
        "path": measure_path(model, args.chunks),
        "generate_command": measure_command(args.model, args.command_seconds),
        "plain_diffusers": compare_with_plain(model, SamplerSettings.of(model.config), args.repeats),
        "plain_diffusers_guided": compare_with_plain(model, GUIDED, args.repeats),
        "peak_memory_mb": peak_memory_mb(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))


def timed(work: Callable):
    """Return what `work` returns, and the seconds it took."""
    started = time.perf_counter()
    return work(), time.perf_counter() - started


def stopped(work: Callable) -> tuple[float, float]:
    """Return the seconds by the clock, and those of processor time in all threads."""
    started = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started[0], time.process_time() - started[1]


def sample_conditions(model: Starcaster, frames: int) -> tuple[Conditions, dict[str, float]]:
    """Return the shipped portrait and voice along an orbit, and the seconds that identity and speech took."""
    from ..identity import make_identity, read_picture
    from ..speech import load_audio, mono16k

    picture = read_picture(ASSETS / "portrait.png")
    make_identity([picture], model.config.image_size)  # the detector's files are read once
    identity, looking = timed(lambda: make_identity([picture], model.config.image_size))
    samples = mono16k(*load_audio(ASSETS / "voice.flac"), frames / model.config.fps)
    speech, listening = timed(lambda: model.encode_speech(samples))
    camera = preset_path(CameraMove("orbit"), frames, model.config.fps)
    return Conditions(identity, speech, camera, frames), {"identity": looking, "speech": listening}


def measure_path(model: Starcaster, chunks: int) -> dict:
    """Time the path from files to a video file; "per_video_second": seconds divided by the length of the video."""
    from ..video import write_video

    frames = chunks * model.config.chunk_frames
    conditions, parts = sample_conditions(model, frames)
    settings = SamplerSettings.of(model.config)
    next(rollout(model, conditions, SamplerSettings(steps=1)))  # warm up
    latents, parts["denoise"] = timed(lambda: [chunk.latents for chunk in rollout(model, conditions, settings)])
    with torch.no_grad():
        pictures, parts["decode"] = timed(lambda: [model.decode_frames(x) for x in latents])
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "video.mp4"
        _, parts["encode"] = timed(lambda: write_video(file, iter(pictures), model.config.fps))
    seconds = frames / model.config.fps
    total = sum(parts.values())
    return {
        "frames": frames,
        "steps": settings.steps,
        "guidance_scale": settings.guidance_scale,
        "guidance_end": settings.guidance_end,
        "seconds": {name: round(value, 4) for name, value in parts.items()},
        "per_video_second": {name: round(value / seconds, 3) for name, value in {**parts, "total": total}.items()},
    }


def measure_command(model: str, lengths: Sequence[float]) -> list[dict[str, float]]:
    """Time `generate` from the start of Python to the file, by the clock and in processor time, for each length in
    seconds."""
    package = Path(__file__).resolve().parents[1]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(package.parent), os.environ.get("PYTHONPATH", "")])}
    figures = []
    with tempfile.TemporaryDirectory() as folder:
        files = ["--portrait", str(ASSETS / "portrait.png"), "--speech", str(ASSETS / "voice.flac")]
        for length in lengths:
            out = Path(folder) / "video.mp4"
            command = [sys.executable, "-m", package.name, "generate", "--model", model, *files]
            command += ["--seconds", f"{length:g}", "--out", str(out)]
            before = os.times()
            done, seconds = timed(lambda c=command: subprocess.run(c, env=environment, capture_output=True, text=True))
            after = os.times()
            if done.returncode:
                raise RuntimeError(f"`generate` ended with {done.returncode}: {done.stderr[-300:]}")
            cpu = after.children_user - before.children_user + after.children_system - before.children_system
            figures.append({"seconds_of_video": length, "seconds": round(seconds, 2), "cpu_seconds": round(cpu, 2)})
    return figures


@torch.no_grad()
def compare_with_plain(model: Starcaster, settings: SamplerSettings, repeats: int) -> dict:
    """Time one chunk in the middle of a video, ours and plain in turn.

    Ours is the sampler's loop with what it computes once a chunk; the null branch runs only where guidance is wanted.
    Plain encodes the context frames, where the model has any, and makes the predictions, guided at every step if at
    all. Both have encoded the reference before, once for the whole video.
    The figures are those of equal work: both merge LoRA, and neither runs motion modules that change nothing. Beside
    them, if they differ: "all_motion_modules_run", both merge LoRA and run all modules, as those of a trained model;
    and "unmerged_adapters_and_idle_motion" of plain alone, which is how such compositions are usually run.
    """
    from .plain import PlainComposition  # and with it diffusers, which `--help` has no need of

    length = model.config.chunk_frames
    conditions, _ = sample_conditions(model, length)
    generator = torch.Generator().manual_seed(0)
    side, channels = model.config.latent_size, model.config.unet.in_channels
    latents = torch.randn(1, channels, length, side, side, generator=generator)
    count = model.config.context_frames
    context = torch.randn(1, channels, count, side, side, generator=generator) if count else None
    timestep = torch.tensor(500)
    model.unet.merge_adapters()
    network = Network(model)

    subject = cache_subject(model, conditions, settings)

    def prepare():
        seen = None if context is None else model.cache_frames(context, subject.identity)
        return cache_branches(model, conditions, settings, subject, seen, 0)

    plain = PlainComposition(model)
    tokens, portrait = plain_tokens(model, conditions)
    plain.read(portrait, tokens["identity"])

    def ours():
        denoise(network, prepare(), settings, 0, report=lambda *_: None, stop=lambda: False)

    silent = [module for module in model.unet.motion_modules() if module.silent]

    def ours_in_motion():
        for module in silent:
            module.silent = False
        ours()
        for module in silent:
            module.silent = True

    def theirs(merge_adapters: bool = True, skip_untrained: bool = True):
        plain.configure(merge_adapters, skip_untrained)
        if context is not None:
            plain.look_back(model.like_weights(context), tokens["identity"])
        if model.config.extensions.warp_portrait:
            pose = FramePose(tokens["head_motion"].float(), model.camera_vectors(conditions.camera, 0, length))
            plain.show_warped(model.like_weights(warped_latents(model, subject.reference, pose)))
        for _ in range(settings.steps):
            plain.predict(model.like_weights(latents), timestep, **tokens, guidance_scale=settings.guidance_scale)

    def usual():
        theirs(merge_adapters=False, skip_untrained=False)

    def theirs_in_motion():
        theirs(skip_untrained=False)

    variants = [ours, theirs, usual] + [ours_in_motion, theirs_in_motion] * bool(silent)
    rounds = [[stopped(variant) for variant in variants] for _ in range(1 + repeats)][1:]  # the first warms up
    model.unet.unmerge_adapters()
    mine, equal, usually, *moving = zip(*rounds)
    guided = settings.guided_steps if settings.guidance_scale != 1 else 0
    figures = {"steps": settings.steps, "guided_steps": guided, **ratio_of(mine, equal)}
    if moving:
        figures["all_motion_modules_run"] = ratio_of(*moving)
    return figures | {"unmerged_adapters_and_idle_motion": ratio_of(mine, usually)}


def ratio_of(ours: Sequence[tuple[float, float]], plain: Sequence[tuple[float, float]]) -> dict:
    """Return medians and ratios of timings of `stopped`, run by run in turn."""
    walls, loads = ([its[i] / mine[i] for mine, its in zip(ours, plain)] for i in range(2))
    return {
        "ours_seconds_a_chunk": round(statistics.median(wall for wall, _ in ours), 4),
        "plain_seconds_a_chunk": round(statistics.median(wall for wall, _ in plain), 4),
        "ratio": round(statistics.median(walls), 2),
        "ratio_lowest": round(min(walls), 2),
        # Of processor time, which other programs on the machine disturb less than the clock's
        "ours_cpu_seconds_a_chunk": round(statistics.median(load for _, load in ours), 4),
        "plain_cpu_seconds_a_chunk": round(statistics.median(load for _, load in plain), 4),
        "ratio_of_cpu_seconds": round(statistics.median(loads), 2),
        "ratio_of_cpu_seconds_lowest": round(min(loads), 2),
    }


@torch.no_grad()
def plain_tokens(model: Starcaster, conditions: Conditions) -> tuple[dict, torch.Tensor]:
    """Return conditions as tokens for `PlainComposition.predict`, and the portrait's latents for `read`."""
    window = model.config.conditioning.speech_window
    frames = model.config.chunk_frames
    rows = torch.arange(-window, frames + window).clamp(0, conditions.speech.frames - 1)
    embedding = torch.from_numpy(conditions.identity.embedding).float()[None]
    vectors = torch.from_numpy(conditions.camera.vectors()[:frames])[None]
    portrait = torch.from_numpy(conditions.identity.portrait)[None].float() / 255
    motion = random_head_motion(0, 0, frames, model.config.fps, loudness=conditions.speech.loudness)
    tokens = {
        "identity": model.identity_tokens(model.like_weights(embedding)),
        "nobody": model.identity_tokens.unconditional(1),
        "audio": model.speech_tokens(model.like_weights(conditions.speech.features[rows][None])),
        "camera": model.camera_tokens(model.like_weights(vectors)),
        "head_motion": model.like_weights(motion[None]),
    }
    return tokens, model.like_weights(model.encode_frames(portrait))


def describe_machine() -> dict:
    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass  # not Linux
    return {"cpu": name, "threads": torch.get_num_threads(), "torch": torch.__version__, "system": platform.system()}


def peak_memory_mb() -> float | None:
    """Return the largest resident size of this process so far; None where the system does not say."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(size / (2**20 if platform.system() == "Darwin" else 2**10), 1)
