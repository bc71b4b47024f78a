"""Train the phonetic encoder on synthetic speech.

    python -m starcaster_core.training.phonetic --minutes 30 --utterances 480 --natural 0.4 --init mini --out DIR

Loss: cross-entropy on the phoneme heard at the centre of each video frame. Some voices and sentences are held out for
evaluation. DIR gets phonetic.safetensors, with facts about its training in the metadata, the state and the log of the
training loop, and in natural/ the utterances of natural voices.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ..command import add_debug, run_command
from ..data.phonemes import CLASS_NAMES, SILENCE
from ..models.checkpoint import BUILT_IN, load_checkpoint
from ..models.phonetic import CONTEXT, PhoneticEncoder, load_phonetic, save_phonetic
from ..speech.spectrum import FRAME_SAMPLES, SAMPLE_RATE
from .loop import LoopSettings, read_progress, train
from .utterances import HELD_OUT, LabelledUtterance, utterances

FRAMES = 75  # of a training crop
CROP = (FRAMES + 2 * CONTEXT) * FRAME_SAMPLES
SPECTRUM = 1 << 16  # fast to transform, and half a second longer than a crop: room for reverberation


def crop(clip: LabelledUtterance, rng: np.random.Generator, speed: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """Draw a random crop, `speed` times as fast with pitch and formants -> samples [CROP], classes [FRAMES].

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
    """Augment samples [CROP] with reverberation, a microphone's response, noise and another level."""
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
    """Draw an impulse response: an impulse, then noise that decays by 60 dB within 0.1 to 0.6 s."""
    decay = rng.uniform(0.1, 0.6)
    seconds = np.arange(int(decay * SAMPLE_RATE)) / SAMPLE_RATE
    response = rng.standard_normal(len(seconds)) * 10 ** (-3 * seconds / decay)
    response *= rng.uniform(0.1, 1.0) / np.sqrt(np.square(response).sum())
    response[0] = 1.0
    return response.astype(np.float32)


def _microphone(frequency: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a smooth frequency response within +-14 dB, sometimes limited to a telephone's or a low-pass band."""
    knots = np.geomspace(60, 8000, 8)
    decibels = np.interp(np.log(np.maximum(frequency, 1)), np.log(knots), rng.uniform(-14, 14, 8) * rng.random())
    kind = rng.random()
    if kind < 0.15:
        decibels = decibels - 60 * ((frequency < 300) | (frequency > 3400))
    elif kind < 0.45:
        decibels = decibels - 60 * (frequency > rng.uniform(3000, 7500))
    return (10 ** (decibels / 20)).astype(np.float32)


def batch(clips: list[LabelledUtterance], size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw an augmented batch: samples [size, CROP] and classes [size, FRAMES]."""
    rows = [crop(clips[i], rng, rng.uniform(0.85, 1.18)) for i in rng.integers(len(clips), size=size)]
    samples = np.stack([augment(samples, rng) for samples, _ in rows])
    return torch.from_numpy(samples), torch.from_numpy(np.stack([classes for _, classes in rows]))


def calibrate(encoder: PhoneticEncoder, samples: Tensor) -> None:
    """Set the mean and deviation by which the encoder normalises its bands, from samples [B, N]."""
    log_mel = encoder.log_mel(samples)
    encoder.mel_mean.copy_(log_mel.mean((0, 2))[:, None])
    encoder.mel_std.copy_(log_mel.std((0, 2))[:, None])


@torch.no_grad()
def accuracy(encoder: PhoneticEncoder, clips: list[LabelledUtterance], noisy: bool = False) -> dict[str, float]:
    """Return the fraction of frames whose phoneme is right, of all and of speech, beside always saying the commonest.

    noisy: augment the sound. "speech": frames that are not silent.
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


def run(
    minutes: float,
    out: Path,
    seed: int = 0,
    count: int = 1600,
    batch_size: int = 24,
    bfloat16: bool = False,
    natural: float = 0.0,
    init: str | None = None,
) -> dict[str, dict[str, float]]:
    """Train for `minutes` in all, resuming what `out` holds, write the encoder, and return the held-out accuracy.

    count: utterances. natural: fraction of them in natural voices. init: "mini" or a file whose encoder is trained on,
    at half the learning rate; None starts from random weights.
    """
    cache = out / "natural"
    clips = utterances(count, seed, False, natural, cache)
    held_out = utterances(count // 10, seed, True, natural, cache)
    print(f"{len(clips)} utterances, {sum(len(c.samples) for c in clips) / SAMPLE_RATE / 60:.0f} minutes", flush=True)
    encoder = load_encoder(init) if init else new_encoder(clips, seed)

    def compute_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        samples, classes = batch(clips, batch_size, np.random.default_rng([seed, 1, step]))
        return phoneme_loss(encoder, samples, classes, bfloat16), {}

    def show(step: int) -> None:
        print(step, accuracy(encoder, held_out[:80]), flush=True)

    peak = 1e-3 if init else 2e-3
    settings = LoopSettings(minutes, learning_rate=peak, weight_decay=0.02, warmup=100, ema=0.0, log_every=50)
    train(encoder, compute_loss, settings, out, "phonetic", show=show)
    steps, spent = read_progress(out, "phonetic")
    result = {"clean": accuracy(encoder, held_out), "degraded": accuracy(encoder, held_out, noisy=True)}
    facts = {
        "command": f"python -m starcaster_core.training.phonetic --minutes {minutes:g} --seed {seed} --utterances "
        f"{count}"
        + f" --natural {natural:g}" * bool(natural)
        + f" --init {Path(init or '').name}" * bool(init)
        + " --bfloat16" * bfloat16,
        "seed": seed,
        "steps": steps,
        "minutes": round(spent, 1),
        "utterances": count,
        "natural": natural,
        "held_out": result,
        "held_out_voices": HELD_OUT,
        "classes": CLASS_NAMES,
    }
    save_phonetic(out / "phonetic.safetensors", encoder, facts)
    return result


def new_encoder(clips: list[LabelledUtterance], seed: int) -> PhoneticEncoder:
    """Return an encoder with random weights, calibrated on the clips; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        encoder = PhoneticEncoder()
    calibrate(encoder, batch(clips, 64, np.random.default_rng(seed))[0])
    return encoder


def load_encoder(model: str | os.PathLike) -> PhoneticEncoder:
    """Return the speech encoder of "mini", or of a phonetic.safetensors, in training mode. Raises CheckpointError."""
    encoder = load_checkpoint(model, torch.float32).speech_encoder if model in BUILT_IN else load_phonetic(model)
    return encoder.train().requires_grad_(True)


def phoneme_loss(encoder: nn.Module, samples: Tensor, classes: Tensor, bfloat16: bool = False) -> Tensor:
    """Return the label-smoothed cross-entropy of samples [B, CROP] and classes [B, FRAMES], scalar."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = encoder(samples)[1]
    return nn.functional.cross_entropy(logits.float().flatten(0, 1), classes.flatten(), label_smoothing=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the phonetic encoder on synthetic speech.")
    parser.add_argument(
        "--minutes", type=float, default=10, help="of training, all resumed runs together, without making the data"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--utterances", type=int, default=1600)
    parser.add_argument("--natural", type=float, default=0.0, help="share of the utterances in natural voices, 0..1")
    parser.add_argument("--init", help="'mini' or a phonetic.safetensors to go on from, instead of beginning anew")
    parser.add_argument("--bfloat16", action="store_true", help="faster on CPUs that multiply it in hardware only")
    add_debug(parser)
    args = parser.parse_args()
    how = {"bfloat16": args.bfloat16, "natural": args.natural, "init": args.init}
    print(json.dumps(run(args.minutes, args.out, args.seed, args.utterances, **how), indent=2))


if __name__ == "__main__":
    raise SystemExit(run_command("train the phonetic encoder", main))
