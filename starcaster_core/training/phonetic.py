"""Trains the phonetic encoder on synthetic speech.

    python -m starcaster_core.training.phonetic --minutes 30 --utterances 480 --natural 0.4 --init mini --out DIR

Frame-wise cross-entropy on the phoneme heard at each video frame's centre. Some voices and sentences are kept for
measuring. `DIR` gets phonetic.safetensors (with what made it, as JSON, in its metadata), log.csv, resume.pt and, in
natural/, what natural voices said.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..data.phonemes import CLASS_NAMES, SILENCE
from ..errors import CheckpointError
from ..models.checkpoint import BUILT_IN, load_checkpoint
from ..speech.phonetic import CONTEXT, FRAME_SAMPLES, SAMPLE_RATE, PhoneticEncoder
from .utterances import HELD_OUT, Labelled, utterances

FRAMES = 75  # of a training crop
CROP = (FRAMES + 2 * CONTEXT) * FRAME_SAMPLES
SPECTRUM = 1 << 16  # fast to transform, and half a second longer than a crop: room for reverberation


def crop(clip: Labelled, rng: np.random.Generator, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """A random stretch, played `speed` times as fast (pitch and formants move along) -> samples [CROP], classes [FRAMES].

    It may begin before or end after the utterance; there it is silent.
    """
    length = int(len(clip.samples) / speed)
    first = rng.integers(-CROP // 3, max(1, length - CROP * 2 // 3))
    position = (first + np.arange(CROP)) * speed
    samples = np.interp(position, np.arange(len(clip.samples)), clip.samples / np.float32(32767), left=0, right=0)
    centres = (first + (CONTEXT + np.arange(FRAMES) + 0.5) * FRAME_SAMPLES) * speed
    index = np.searchsorted(clip.starts, centres, side="right") - 1
    heard = (index >= 0) & (centres < len(clip.samples))
    return samples.astype(np.float32), np.where(heard, clip.classes[index], SILENCE)


def augment(samples: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What happens to real recordings, [CROP] -> [CROP]: room, microphone, telephone, hiss or hum, level."""
    from scipy import fft  # numpy's computes in float64 only

    frequency = np.fft.rfftfreq(SPECTRUM, 1 / SAMPLE_RATE)
    spectrum = fft.rfft(samples, SPECTRUM)
    if rng.random() < 0.5:
        spectrum *= fft.rfft(_room(rng), SPECTRUM)
    result = fft.irfft(spectrum * _microphone(frequency, rng))[:CROP]

    colour = rng.uniform(0, 1.2)  # 0 white, 1 pink
    noise = fft.rfft(rng.standard_normal(SPECTRUM, np.float32))
    noise = fft.irfft(noise * (np.maximum(frequency, 10) ** -colour).astype(np.float32))[:CROP]
    noise_db = rng.uniform(-65, -25) if rng.random() < 0.8 else -90
    result += noise * (10 ** (noise_db / 20) / noise.std())
    return (result * np.float32(10 ** (rng.uniform(-9, 6) / 20))).clip(-1, 1)


def _room(rng: np.random.Generator) -> np.ndarray:
    """An impulse and, after it, noise that decays by 60 dB within 0.1 to 0.6 s."""
    decay = rng.uniform(0.1, 0.6)
    seconds = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / decay)
    response *= rng.uniform(0.1, 1.0) / np.sqrt(np.square(response).sum())
    response[0] = 1.0
    return response.astype(np.float32)


def _microphone(frequency: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A smooth random response within +-14 dB; at times only a telephone's band, or nothing above some frequency."""
    knots = np.geomspace(60, 8000, 8)
    decibels = np.interp(np.log(np.maximum(frequency, 1)), np.log(knots), rng.uniform(-14, 14, 8) * rng.random())
    kind = rng.random()
    if kind < 0.15:
        decibels = decibels - 60 * ((frequency < 300) | (frequency > 3400))
    elif kind < 0.45:
        decibels = decibels - 60 * (frequency > rng.uniform(3000, 7500))
    return (10 ** (decibels / 20)).astype(np.float32)


def batch(clips: list[Labelled], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """samples [size, CROP] and classes [size, FRAMES], augmented."""
    rows = [crop(clips[i], rng, rng.uniform(0.85, 1.18)) for i in rng.integers(len(clips), size=size)]
    samples = np.stack([augment(samples, rng) for samples, _ in rows])
    return torch.from_numpy(samples), torch.from_numpy(np.stack([classes for _, classes in rows]))


def calibrate(encoder: PhoneticEncoder, samples: Tensor) -> None:
    """Set the mean and deviation the encoder normalises its bands with."""
    log_mel = encoder.log_mel(samples)
    encoder.mel_mean.copy_(log_mel.mean((0, 2))[:, None])
    encoder.mel_std.copy_(log_mel.std((0, 2))[:, None])


@torch.no_grad()
def accuracy(encoder: PhoneticEncoder, clips: list[Labelled], noisy: bool = False) -> dict[str, float]:
    """Share of frames whose phoneme is right, of all frames and of those that are not silence; and chance for both.

    Chance is always saying the commonest class.
    """
    rng = np.random.default_rng(7)
    said, truth = [], []
    for clip in clips:
        samples, classes = crop(clip, rng)
        samples = augment(samples, rng) if noisy else samples
        said.append(encoder(torch.from_numpy(samples)[None])[1][0].argmax(-1).numpy())
        truth.append(classes)
    said, truth = np.concatenate(said), np.concatenate(truth)
    voiced = truth != SILENCE
    return {
        "frames": len(truth),
        "all": float((said == truth).mean()),
        "all_chance": float(np.bincount(truth).max() / len(truth)),
        "speech": float((said == truth)[voiced].mean()),
        "speech_chance": float(np.bincount(truth[voiced]).max() / voiced.sum()),
    }


def train(
    minutes: float,
    out: Path,
    seed: int = 0,
    count: int = 1600,
    batch_size: int = 24,
    bfloat16: bool = False,
    natural: float = 0.0,
    init: str | None = None,
):
    """Train for `minutes` of stepping in all, resuming what `out` holds; returns the held-out accuracy.

    natural: share of the utterances in natural voices. init: "mini" or a file, whose encoder goes on learning, more
    carefully; None begins anew.
    """
    out.mkdir(parents=True, exist_ok=True)
    cache = out / "natural"
    clips = utterances(count, seed, False, natural, cache)
    held_out = utterances(count // 10, seed, True, natural, cache)
    print(f"{len(clips)} utterances, {sum(len(c.samples) for c in clips) / SAMPLE_RATE / 60:.0f} minutes", flush=True)

    if init is None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            encoder = PhoneticEncoder()
        calibrate(encoder, batch(clips, 64, np.random.default_rng(seed))[0])
    else:
        encoder = load_encoder(init)
    learning_rate = 2e-3 if init is None else 1e-3
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=learning_rate, weight_decay=0.02)
    step, elapsed = _resume(out, encoder, optimizer)

    mark = time.monotonic()
    while elapsed < 60 * minutes:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * _schedule(step, elapsed / (60 * minutes))
        samples, classes = batch(clips, batch_size, np.random.default_rng([seed, 1, step]))
        loss = update(encoder, optimizer, samples, classes, bfloat16)
        step += 1
        now = time.monotonic()
        elapsed, mark = elapsed + now - mark, now
        if step % 50 == 0:
            _log(out, {"step": step, "seconds": round(elapsed), "loss": round(loss, 4)})
        if step % 400 == 0:
            _save(out, encoder, optimizer, step, elapsed)
            print(step, round(elapsed), accuracy(encoder, held_out[:80]), flush=True)
            mark = time.monotonic()

    _save(out, encoder, optimizer, step, elapsed)
    result = {"clean": accuracy(encoder, held_out), "degraded": accuracy(encoder, held_out, noisy=True)}
    metadata = {
        "command": f"python -m starcaster_core.training.phonetic --minutes {minutes:g} --seed {seed} --utterances {count}"
        + f" --natural {natural:g}" * bool(natural)
        + f" --init {Path(init or '').name}" * bool(init)
        + " --bfloat16" * bfloat16,
        "seed": seed,
        "steps": step,
        "minutes": round(elapsed / 60, 1),
        "utterances": count,
        "natural": natural,
        "held_out": result,
        "held_out_voices": HELD_OUT,
        "classes": CLASS_NAMES,
    }
    save_file(encoder.state_dict(), out / "phonetic.safetensors", {"phonetic": json.dumps(metadata)})
    return result


def load_encoder(model: str | os.PathLike) -> PhoneticEncoder:
    """The speech encoder of "mini", or that of a file this module wrote, ready to be trained. Raises CheckpointError."""
    if model in BUILT_IN:
        return load_checkpoint(model, torch.float32).speech_encoder.train().requires_grad_(True)
    encoder = PhoneticEncoder()
    try:
        encoder.load_state_dict(load_file(model))
    except (OSError, RuntimeError, SafetensorError) as error:
        got = f"{model} ({str(error).splitlines()[0]})"
        raise CheckpointError("a speech encoder", got, "Give 'mini' or a phonetic.safetensors.") from None
    return encoder


def update(
    encoder: nn.Module, optimizer: torch.optim.Optimizer, samples: Tensor, classes: Tensor, bfloat16: bool = False
) -> float:
    """One step on samples [B, CROP] and classes [B, FRAMES] -> the loss before it, label-smoothed cross-entropy."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = encoder(samples)[1]
    loss = nn.functional.cross_entropy(logits.float().flatten(0, 1), classes.flatten(), label_smoothing=0.05)
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def _schedule(step: int, progress: float) -> float:
    """Warm up over 100 steps, then a cosine to zero over the time given."""
    return min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


def _log(out: Path, row: dict) -> None:
    path = out / "log.csv"
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, row)
        if new:
            writer.writeheader()
        writer.writerow(row)


def _save(out: Path, encoder: nn.Module, optimizer: torch.optim.Optimizer, step: int, elapsed: float) -> None:
    state = {"encoder": encoder.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "elapsed": elapsed}
    torch.save(state, out / "resume.tmp")
    os.replace(out / "resume.tmp", out / "resume.pt")


def _resume(out: Path, encoder: nn.Module, optimizer: torch.optim.Optimizer) -> tuple[int, float]:
    if not (out / "resume.pt").exists():
        return 0, 0.0
    state = torch.load(out / "resume.pt", weights_only=True)
    encoder.load_state_dict(state["encoder"])
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["elapsed"]


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the phonetic encoder on synthetic speech.")
    parser.add_argument("--minutes", type=float, default=10, help="of training, data making not counted")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--utterances", type=int, default=1600)
    parser.add_argument("--natural", type=float, default=0.0, help="share of the utterances in natural voices, 0..1")
    parser.add_argument("--init", help="'mini' or a phonetic.safetensors to go on from, instead of beginning anew")
    parser.add_argument("--bfloat16", action="store_true", help="faster on CPUs that multiply it in hardware only")
    args = parser.parse_args()
    how = {"bfloat16": args.bfloat16, "natural": args.natural, "init": args.init}
    print(json.dumps(train(args.minutes, args.out, args.seed, args.utterances, **how), indent=2))


if __name__ == "__main__":
    main()
