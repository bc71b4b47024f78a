"""Measures a checkpoint on held-out clips: does the mouth follow, does the view obey, is it still the same person.

    python -m starcaster_core evaluate --model mini --data DIR --probe P.safetensors --out figures.json

Every figure stands beside the same figure for the ground truth (through the autoencoder: the best the model could do)
and for a deliberately wrong input (another clip's speech, the mirrored camera, another person), so its range is known.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from ..data.shards import Clip, read_clips
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from ..sampling import Conditions, SamplerSettings, rollout
from ..types import CameraPath, Identity
from .probe import Probe, load_probe, true_readings

MOST_LAG = 5  # frames either way in which a mouth may be late and still be found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", default="mini", help="'mini' or a checkpoint file")
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards made by `synth`")
    parser.add_argument("--probe", type=Path, required=True, help="probe.safetensors")
    parser.add_argument("--clips", type=int, default=12, help="held-out clips of each kind")
    parser.add_argument("--steps", type=int, default=None, help="default: the model's own")
    parser.add_argument("--guidance-scale", type=float, default=None, help="default: the model's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sheet", type=Path, help="picture to write: ground truth above, generated below")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")


def run(args: argparse.Namespace) -> None:
    model, probe = load_checkpoint(args.model), load_probe(args.probe)
    settings = SamplerSettings.of(model.config, seed=args.seed, steps=args.steps, guidance_scale=args.guidance_scale)
    started = time.monotonic()
    results: dict = {"settings": asdict(settings)}
    strips = []
    for kind in ("temporal", "spatial", "joint"):
        clips = held_out(args.data, kind, args.clips)
        if not clips:
            continue
        made = [generate(model, clip, settings) for clip in clips]
        results[kind] = measure(model, probe, clips, made)
        strips += [strip(clip, frames) for clip, frames in list(zip(clips, made))[:3]]
        print(kind, json.dumps(results[kind]), flush=True)
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    if args.sheet:
        from PIL import Image

        Image.fromarray(np.concatenate(strips)).save(args.sheet)


def held_out(folders: list[Path], kind: str, count: int) -> list[Clip]:
    """The first clips of a kind whose person is in no training clip, test people first."""
    found = [
        clip for split in ("test", "val") for folder in folders for clip in read_clips(folder, split, kinds=(kind,))
    ]
    return found[:count]


def conditions_of(model: Starcaster, clip: Clip) -> Conditions:
    """What a user would give: a portrait (the clip's most frontal frame), its speech, its camera path."""
    yaw = np.abs(true_readings(clip)[:, 1])
    identity = Identity(clip.truth["embedding"], clip.frames[int(yaw.argmin())])
    speech = camera = None
    if clip.audio is not None:
        speech = model.encode_speech(torch.from_numpy(clip.audio.copy()))
    if clip.info["kind"] != "temporal":
        camera = CameraPath(clip.truth["world_from_cam"], clip.truth["intrinsics"])
    return Conditions(identity, speech, camera, len(clip.frames))


def generate(model: Starcaster, clip: Clip, settings: SamplerSettings) -> torch.Tensor:
    """Frames [T, H, W, 3] in 0..1"""
    chunks = rollout(model, conditions_of(model, clip), settings)
    return torch.cat([model.decode_frames(model.from_raw(chunk.latents)) for chunk in chunks])


@torch.no_grad()
def through_autoencoder(model: Starcaster, clip: Clip) -> torch.Tensor:
    return model.decode_frames(model.encode_frames(torch.from_numpy(clip.frames).float() / 255))


def measure(model: Starcaster, probe: Probe, clips: list[Clip], made: list[torch.Tensor]) -> dict:
    truth = [true_readings(clip) for clip in clips]
    said = [probe.read(frames) for frames in made]
    best = [probe.read(through_autoencoder(model, clip)) for clip in clips]
    figures = {"clips": len(clips), "identity": identity_figures(clips, made)}
    if clips[0].audio is not None:
        figures["lips"] = lip_figures(truth, said, best)
    if clips[0].info["kind"] != "temporal":
        figures["view"] = view_figures(truth, said, best)
    if clips[0].info["kind"] == "spatial":
        figures["psnr"] = summary([psnr(frames, clip) for frames, clip in zip(made, clips)])
    return figures


def lip_figures(truth, said, best) -> dict:
    """Correlation over time of the lip opening with the true one, the lag of the best match, the size of the motion."""
    others = truth[1:] + truth[:1]
    lags = [best_lag(s[:, 0], t[:, 0]) for s, t in zip(said, truth)]
    return {
        "correlation": summary([correlate(s[:, 0], t[:, 0]) for s, t in zip(said, truth)]),
        "correlation_of_truth": summary([correlate(b[:, 0], t[:, 0]) for b, t in zip(best, truth)]),
        "correlation_with_other_speech": summary([correlate(s[:, 0], o[:, 0]) for s, o in zip(said, others)]),
        "within_one_frame": float(np.mean([abs(lag) <= 1 for lag in lags])),
        "motion_ratio": summary([s[:, 0].std() / t[:, 0].std() for s, t in zip(said, truth)]),
    }


def view_figures(truth, said, best) -> dict:
    """Degrees between where the face is seen from and where it was to be seen from."""

    def error(readings, wanted):
        return float(np.abs(readings[:, 1:] - wanted[:, 1:]).mean())

    mirrored = [t * np.array([1, -1, 1], np.float32) for t in truth]
    return {
        "error_degrees": summary([error(s, t) for s, t in zip(said, truth)]),
        "error_of_truth": summary([error(b, t) for b, t in zip(best, truth)]),
        "error_if_mirrored": summary([error(s, m) for s, m in zip(said, mirrored)]),
        "yaw_correlation": summary([correlate(s[:, 1], t[:, 1]) for s, t in zip(said, truth)]),
    }


def identity_figures(clips: list[Clip], made: list[torch.Tensor]) -> dict:
    """dlib distance of the most frontal generated frame to the person asked for, and to the next one (a stranger)."""
    from ..errors import FaceError
    from ..identity import detect, embed, select_face
    from ..identity.pictures import enlarged

    own, strangers, missed = [], [], 0
    for index, (clip, frames) in enumerate(zip(clips, made)):
        yaw = np.abs(true_readings(clip)[:, 1])
        picture = (frames[int(yaw.argmin())].numpy() * 255).round().astype(np.uint8)
        picture = enlarged(picture, 2)
        try:
            found = embed(picture, select_face(detect(picture), picture, "largest"))
        except FaceError:
            missed += 1
            continue
        own.append(float(np.linalg.norm(found - clip.truth["embedding"])))
        other = clips[(index + 1) % len(clips)].truth["embedding"]
        strangers.append(float(np.linalg.norm(found - other)))
    return {"distance": summary(own), "distance_to_stranger": summary(strangers), "no_face_found": missed}


def psnr(frames: torch.Tensor, clip: Clip) -> float:
    error = (frames - torch.from_numpy(clip.frames).float() / 255).square().mean()
    return float(-10 * torch.log10(error))


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    if a.std() < 1e-6 or b.std() < 1e-6:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(said: np.ndarray, truth: np.ndarray) -> int:
    """How many frames `said` comes after `truth`, by the highest correlation within MOST_LAG."""

    def at(lag: int) -> float:
        if lag >= 0:
            return correlate(said[lag:], truth[: len(truth) - lag])
        return correlate(said[:lag], truth[-lag:])

    return max(range(-MOST_LAG, MOST_LAG + 1), key=at)


def summary(values: list[float]) -> dict[str, float]:
    """Mean and its standard error"""
    if not values:
        return {"mean": float("nan"), "error": float("nan")}
    error = np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {"mean": round(float(np.mean(values)), 4), "error": round(float(error), 4)}


def strip(clip: Clip, frames: torch.Tensor, columns: int = 10) -> np.ndarray:
    """Ground truth above, generated below: uint8 [2 S, columns * S, 3]"""
    rows = np.linspace(0, len(clip.frames) - 1, columns).round().astype(int)
    generated = (frames.numpy() * 255).round().astype(np.uint8)
    return np.concatenate([np.concatenate(list(pictures[rows]), axis=1) for pictures in (clip.frames, generated)])
