"""What a GPU makes of the paper's scale: frames a second, share of the GPU's ceiling, memory, and the ratio to
diffusers.

python -m starcaster_core bench-gpu --out benchmarks/results/gpu.json

Weights are random, which changes no time. One variant after another; one that fails is recorded with its error, and
what does not fit into the time budget is recorded as left out. `--preset tiny --device cpu` rehearses every line but
CUDA's.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from .. import __version__
from ..camera import CameraMove, preset_path
from ..errors import InputError
from ..models.checkpoint import random_model
from ..models.offload import BlockOffload
from ..models.starcaster import Starcaster
from ..pipeline import generate_frames
from ..presets import PRESETS
from ..sampling.cost import product_speed
from ..sampling.execution import Execution, Network, release_blocks
from ..sampling.rollout import cache_branches, cache_subject, denoise
from ..sampling.settings import Conditions, SamplerSettings
from ..types import Identity, Speech
from .account import count_flops, estimate_memory
from .measure import describe_machine, plain_tokens

PAPER_FPS = 1.1  # 5 s of video in 2.2 minutes, 25 steps with guidance, A100
GOALS = {"fps_25_steps": 5 * PAPER_FPS, "fps_4_steps": 40.0, "share_of_ceiling": 0.45}
WAYS = {
    "25 steps, guidance 3": SamplerSettings(steps=25, guidance_scale=3.0),
    "8 steps": SamplerSettings(steps=8, guidance_scale=1.0),
    "4 steps": SamplerSettings(steps=4, guidance_scale=1.0),
}
LENGTHS = (1, 4, 16)  # chunks


@dataclass(frozen=True)
class Variant:
    """A way to run the model. side_by_side: the bank's keys are copied behind each frame's own; float8 is for good."""

    execution: Execution = field(default_factory=Execution)
    side_by_side: bool = False
    offload: bool = False
    float8: bool = False
    ways: tuple[str, ...] = tuple(WAYS)


VARIANTS = {
    "eager": Variant(),
    "eager, one branch a call": Variant(Execution(batch_guidance=False), ways=("25 steps, guidance 3",)),
    "eager, keys side by side": Variant(side_by_side=True, ways=("4 steps",)),
    "CUDA graphs": Variant(Execution(cuda_graphs=True)),
    "compiled": Variant(Execution(compile=True)),
    "compiled, CUDA graphs": Variant(Execution(compile=True, cuda_graphs=True)),
    "float8 and offload": Variant(Execution(batch_guidance=False), offload=True, float8=True),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--preset", choices=sorted(PRESETS), default="sd15", help="random weights of this shape")
    parser.add_argument("--device", default="cuda", help="cuda, or cpu to rehearse")
    parser.add_argument("--precision", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--budget", type=float, default=500.0, help="seconds; what does not fit is left out")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"), help="the JSON to write")


def run(args: argparse.Namespace) -> None:
    if args.device.startswith("cuda") and not torch.cuda.is_available():
        raise InputError(
            "a CUDA device", "a PyTorch that sees none", "Rehearse with --preset tiny --device cpu --precision float32."
        )
    bench = Bench(args.preset, torch.device(args.device), getattr(torch, args.precision), args.budget)
    result = {
        "version": __version__,
        "command": f"python -m starcaster_core bench-gpu --preset {args.preset} --device {args.device} "
        f"--precision {args.precision}",
        **bench.run(),
    }
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=2))
    print(table(result))


class Bench:
    def __init__(self, preset: str, device: torch.device, dtype: torch.dtype, budget: float):
        self.device, self.deadline, self.started = device, time.monotonic() + budget, time.monotonic()
        self.config = PRESETS[preset]
        self.dtype = dtype
        with torch.device(device):
            model = random_model(self.config)
        self.model = model.to(device).set_precision(dtype).eval().requires_grad_(False)
        self.conditions = random_conditions(self.model, LENGTHS[-1] * self.config.chunk_frames)
        self.flops = count_flops(self.config)

    @torch.no_grad()
    def run(self) -> dict:
        self.ceiling = measure_ceiling(self.device, self.dtype)
        result = {
            "machine": describe_device(self.device),
            "model": self.config.name,
            "precision": str(self.dtype).removeprefix("torch."),
            "tflop_a_call": {name: round(count / 1e12, 4) for name, count in self.flops.items()},
            "ceiling_tflops": round(self.ceiling / 1e12, 3),
            "estimated_memory_gib": {
                name: in_gib(estimate_memory(self.config, self.dtype, **kind))
                for name, kind in {
                    "whole": {"batched": True},
                    "float8 and offload": {"float8": True, "offload": True},
                }.items()
            },
            "parts": self.attempt(self.measure_parts),
            "variants": {},
        }
        plain = self.attempt(self.measure_plain)  # before the weights become float8
        for name, variant in VARIANTS.items():
            if variant.float8 and "length" not in result:
                result["length"] = self.attempt(self.measure_lengths)
            result["variants"][name] = self.attempt(lambda v=variant: self.measure_variant(v))
            print(f"{name}: {result['variants'][name]}", flush=True)
        result["plain_diffusers"] = plain | self.ratio(plain, result["variants"])
        result["goals"] = compare_with_goals(result)
        result["seconds"] = round(time.monotonic() - self.started, 1)
        return result

    def attempt(self, work: Callable[[], dict]) -> dict:
        """Return what `work` returns, or why there is nothing."""
        if time.monotonic() > self.deadline:
            return {"left_out": "the time budget was used up"}
        try:
            return work()
        except Exception as error:  # noqa: BLE001  the other variants are to be measured all the same
            return {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
        finally:
            release_blocks(self.model.unet)
            self.model.unet.unmerge_adapters()
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def measure_variant(self, variant: Variant) -> dict:
        if variant.execution.cuda_graphs and self.device.type != "cuda":
            raise InputError("a CUDA device", str(self.device), "CUDA graphs cannot be rehearsed.")
        if variant.float8:
            self.model.store_in_float8()
        self.reset_peak()
        figures = {}
        with ExitStack() as stack:
            if variant.offload:
                self.model.unet.to("cpu")
                stack.enter_context(BlockOffload(self.model.unet, self.device))
                stack.callback(self.model.unet.to, self.device)
                self.reset_peak()
            self.model.unet.merge_adapters()
            network = Network(self.model, variant.execution)
            self.subject = cache_subject(self.model, self.conditions, SamplerSettings())
            branches, preparing = self.timed(self.prepare)
            branches, preparing = self.timed(self.prepare)
            for branch in branches:
                for block in branch.condition.blocks:
                    block.splits_bank = block.splits_bank and not variant.side_by_side
            for name in variant.ways:
                figures[name] = self.measure_way(network, branches, preparing, WAYS[name])
        return figures | {"peak_memory_gib": self.peak()}

    def measure_way(self, network: Network, branches, preparing: float, settings: SamplerSettings) -> dict:
        guided = settings.guidance_scale != 1
        asked = branches if guided else [type(branches[-1])(branches[-1].condition, 1.0)]

        def sample(steps: int):
            short = SamplerSettings(steps=steps, guidance_scale=settings.guidance_scale)
            return denoise(network, asked, short, 0, report=lambda *_: None, stop=lambda: False)

        _, warming = self.timed(lambda: sample(2))
        if time.monotonic() + settings.steps / 2 * warming > self.deadline + 30:
            return {"left_out": f"a step took {warming / 2:.1f} s, too long for the time budget"}
        latents, sampling = self.timed(lambda: sample(settings.steps))
        _, decoding = self.timed(lambda: self.model.decode_frames(latents))
        work = settings.steps * (self.flops["full"] + (self.flops["null"] if guided else 0))
        return {
            "fps": round(self.config.chunk_frames / (preparing + sampling + decoding), 3),
            "seconds_a_chunk": {
                "prepare": round(preparing, 4),
                "denoise": round(sampling, 4),
                "decode": round(decoding, 4),
            },
            "unet_tflops": round(work / sampling / 1e12, 3),
            "share_of_ceiling": round(work / sampling / self.ceiling, 3),
        }

    def prepare(self):
        """Compute what is needed once a chunk before the first step."""
        config, side, subject = self.config, self.config.latent_size, self.subject
        seen = torch.zeros(1, config.unet.in_channels, config.context_frames, side, side)
        context = self.model.cache_frames(seen, subject.identity)
        return cache_branches(self.model, self.conditions, SamplerSettings(), subject, context, 0)

    def measure_parts(self) -> dict:
        """Measure the milliseconds of the parts around the denoising, each warmed up once."""
        from ..video import write_video

        config, model = self.config, self.model
        frames = torch.rand(config.chunk_frames, config.image_size, config.image_size, 3)
        latents = torch.randn(1, config.unet.in_channels, config.chunk_frames, config.latent_size, config.latent_size)
        identity = model.cache_identity(self.conditions.identity)
        count = config.context_frames
        with tempfile.TemporaryDirectory() as folder:
            parts = {
                "identity": lambda: model.cache_identity(self.conditions.identity),
                "audio": lambda: model.cache_audio(self.conditions.speech, 0, config.chunk_frames),
                "camera": lambda: model.cache_camera(self.conditions.camera, 0, config.chunk_frames),
                "encode_portrait": lambda: model.encode_frames(frames[:1]),
                "read_context": lambda: model.cache_frames(latents[:, :, :count].to(self.device), identity),
                "decode_chunk": lambda: model.decode_frames(latents.to(self.device)),
                "write_chunk": lambda: write_video(Path(folder) / "video.mp4", iter([frames.numpy()]), config.fps),
            }
            return {name: round(1000 * min(self.timed(work)[1] for _ in range(2)), 2) for name, work in parts.items()}

    def measure_plain(self) -> dict:
        """Measure the seconds of a guided step, and of encoding the context frames, which happens once a chunk."""
        from .plain import PlainComposition  # and with it diffusers, which `--help` has no need of

        config, side = self.config, self.config.latent_size
        self.reset_peak()
        plain = PlainComposition(self.model)
        plain.configure(merge_adapters=True, skip_untrained=True)
        context = torch.zeros(1, config.unet.in_channels, config.context_frames, side, side)
        tokens, portrait = plain_tokens(self.model, self.conditions)
        plain.read(portrait, tokens["identity"])
        context = self.model.like_weights(context)
        latents = self.model.like_weights(torch.randn(1, config.unet.in_channels, config.chunk_frames, side, side))
        timestep = torch.tensor(500, device=self.device)
        reading = min(self.timed(lambda: plain.look_back(context, tokens["identity"]))[1] for _ in range(2))
        step = min(
            self.timed(lambda: plain.predict(latents, timestep, **tokens, guidance_scale=3.0))[1] for _ in range(3)
        )
        return {
            "seconds_a_guided_step": round(step, 5),
            "seconds_reading": round(reading, 5),
            "seconds_a_chunk_of_25_steps": round(reading + 25 * step, 4),
            "peak_memory_gib": self.peak(),
        }

    @staticmethod
    def ratio(plain: dict, variants: dict) -> dict:
        """Return how many times as long the plain composition takes for a chunk of 25 guided steps."""
        whole = plain.get("seconds_a_chunk_of_25_steps")
        ours = {}
        for name, figures in variants.items():
            parts = figures.get("25 steps, guidance 3", {}).get("seconds_a_chunk")
            if parts and whole:
                ours[name] = round(whole / (parts["prepare"] + parts["denoise"]), 2)
        return {"ratio": ours}

    def measure_lengths(self) -> dict:
        """Measure seconds of computing a second of video, and peak memory, for longer and longer videos of 4 steps.

        Rollout and decoding are those of the command line.
        """
        figures = {}
        for chunks in LENGTHS:
            frames = chunks * self.config.chunk_frames
            conditions = Conditions(self.conditions.identity, self.conditions.speech, self.conditions.camera, frames)
            self.reset_peak()

            def video(conditions=conditions):
                for _ in generate_frames(self.model, conditions, WAYS["4 steps"]):
                    pass

            seconds = self.timed(video)[1]
            figures[str(chunks)] = {
                "per_video_second": round(seconds / (frames / self.config.fps), 4),
                "peak_memory_gib": self.peak(),
            }
            if time.monotonic() + 4 * seconds > self.deadline:
                break
        return figures

    def timed(self, work: Callable):
        """Return what `work` returns, and the seconds until the device is done with it."""
        self.wait()
        started = time.perf_counter()
        result = work()
        self.wait()
        return result, time.perf_counter() - started

    def wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def reset_peak(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)

    def peak(self) -> float | None:
        """Return the GiB that PyTorch had handed out at most; None where it does not count."""
        return round(torch.cuda.max_memory_allocated(self.device) / 2**30, 3) if self.device.type == "cuda" else None


def random_conditions(model: Starcaster, frames: int) -> Conditions:
    """Return random conditions: an identity, silence, and an orbiting camera of `frames` frames."""
    config, rng = model.config, np.random.default_rng(0)
    portrait = rng.integers(0, 256, (config.image_size, config.image_size, 3), dtype=np.uint8)
    embedding = rng.normal(size=config.conditioning.identity_dim).astype(np.float32)
    features = torch.randn(frames, config.conditioning.speech_dim, generator=torch.Generator().manual_seed(0))
    return Conditions(
        Identity(embedding, portrait, backend=config.identity_backend),
        Speech(features, frames / config.fps, config.speech_encoder),
        preset_path(CameraMove("orbit"), frames, config.fps),
        frames,
    )


def measure_ceiling(device: torch.device, dtype: torch.dtype) -> float:
    """Measure the FLOP/s of the largest square matrix product there is time for, the best of several."""
    side = 8192 if device.type == "cuda" else 512
    return product_speed(torch.randn(side, side, device=device).to(dtype), tries=8, products=4)


def describe_device(device: torch.device) -> dict:
    if device.type != "cuda":
        return describe_machine()
    properties = torch.cuda.get_device_properties(device)
    return describe_machine() | {
        "gpu": properties.name,
        "gpu_memory_gib": round(properties.total_memory / 2**30, 1),
        "cuda": torch.version.cuda,
    }


def in_gib(parts: dict[str, int]) -> dict[str, float]:
    return {name: round(size / 2**30, 3) for name, size in parts.items()}


def compare_with_goals(result: dict) -> dict:
    """Return the best variant's figures beside the goals."""

    def best(way: str, figure: str) -> float | None:
        return max((v[way][figure] for v in result["variants"].values() if figure in v.get(way, {})), default=None)

    reached = {
        "fps_25_steps": best("25 steps, guidance 3", "fps"),
        "fps_4_steps": best("4 steps", "fps"),
        "share_of_ceiling": best("25 steps, guidance 3", "share_of_ceiling"),
    }
    return {
        name: {"wanted": wanted, "reached": reached[name], "met": reached[name] is not None and reached[name] >= wanted}
        for name, wanted in GOALS.items()
    }


def table(result: dict) -> str:
    """Tabulate the variants, one a row."""
    machine = result["machine"]
    head = ["variant", *(f"fps, {way}" for way in WAYS), "TFLOP/s", "of ceiling", "x plain", "GiB"]
    ratios = result["plain_diffusers"].get("ratio", {})
    rows = [head]
    for name, figures in result["variants"].items():
        ways = [figures.get(way, {}) for way in WAYS]
        speed = next((way for way in ways if "unet_tflops" in way), {})
        trouble = figures.get("error") or figures.get("left_out")
        cells = [way.get("fps", "-") for way in ways] if not trouble else [trouble[:60], "", ""]
        more = [speed.get("unet_tflops", "-"), speed.get("share_of_ceiling", "-"), ratios.get(name, "-")]
        rows.append([name, *cells, *more, figures.get("peak_memory_gib") or "-"])
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(head))]
    lines = ["  ".join(str(cell).ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
    where = machine.get("gpu", machine["cpu"])
    title = f"{result['model']}, {result['precision']}, {where}: ceiling {result['ceiling_tflops']} TFLOP/s"
    return "\n".join(["", title, *lines])
