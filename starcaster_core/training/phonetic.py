"""Train the phonetic encoder on synthetic speech, and on recordings where there are some.

    python -m starcaster_core.training.phonetic --minutes 30 --utterances 480 --natural 0.4 --recorded SPEECH \\
        --init mini --out DIR

Loss: cross-entropy on the phoneme heard at the centre of each video frame; silence and noise alone are a pause. Some
voices, speakers and sentences are held out for evaluation. DIR gets phonetic.safetensors, with facts about its training
in the metadata, the state and the log of the training loop, in natural/ the utterances of natural voices, and in
recorded/ the alignments of recordings.
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
from ..data.phonemes import AH_OR_AX, CLASS_NAMES, SILENCE
from ..models.checkpoint import BUILT_IN, load_checkpoint
from ..models.phonetic import CONTEXT, PhoneticEncoder, load_phonetic, save_phonetic
from ..speech.spectrum import FRAME_SAMPLES, SAMPLE_RATE
from .loop import LoopSettings, read_progress, train
from .publish import averaged
from .recorded import recorded
from .utterances import HELD_OUT, LabelledUtterance, utterances

FRAMES = 75  # of a training crop
SHOWN = 160  # held-out utterances of a kind measured now and then
CROP = (FRAMES + 2 * CONTEXT) * FRAME_SAMPLES
SPECTRUM = 1 << 16  # fast to transform, and half a second longer than a crop: room for reverberation
SILENT = 0.05  # share of the crops in which nobody speaks
RECORDED = 0.6  # share of the others that are recordings, where there are some
NOTHING = LabelledUtterance(np.zeros(CROP, np.int16), np.array([0]), np.array([SILENCE]))
AH, AX = CLASS_NAMES.index("ah"), CLASS_NAMES.index("ax")

Mix = tuple[list[LabelledUtterance], np.ndarray]  # utterances, and how likely each is drawn


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
    """Augment samples [CROP] with reverberation, a microphone's response, noise and another level.

    Where nobody speaks, the noise may be as loud as levelled speech: a recording of noise alone is levelled too.
    """
    from scipy import fft  # numpy's computes in float64 only

    frequency = np.fft.rfftfreq(SPECTRUM, 1 / SAMPLE_RATE)
    spectrum = fft.rfft(samples, SPECTRUM)
    if rng.random() < 0.5:
        spectrum *= fft.rfft(_room(rng), SPECTRUM)
    result = fft.irfft(spectrum * _microphone(frequency, rng))[:CROP]

    noise_db = rng.uniform(-65, -25 if samples.any() else -14) if rng.random() < 0.8 else -90
    noise = _noise(frequency, rng)
    result += noise * (10 ** (noise_db / 20) / noise.std())
    return (result * np.float32(10 ** (rng.uniform(-9, 6) / 20))).clip(-1, 1)


def _noise(frequency: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw noise [CROP] from white to brown, sometimes with a smooth response of its own, sometimes coming and going
    by +-10 dB within a quarter of a second or slower."""
    from scipy import fft

    colour = rng.uniform(0, 1.2)  # 0 white, 0.5 pink, 1 brown
    spectrum = fft.rfft(rng.standard_normal(SPECTRUM, np.float32))
    spectrum *= (np.maximum(frequency, 10) ** -colour).astype(np.float32)
    if rng.random() < 0.5:
        spectrum *= _microphone(frequency, rng)
    noise = fft.irfft(spectrum)[:CROP]
    if rng.random() < 0.3:
        knots = np.arange(0, CROP + SAMPLE_RATE, int(SAMPLE_RATE * rng.uniform(0.25, 1)))
        noise *= 10 ** (np.interp(np.arange(CROP), knots, rng.uniform(-10, 10, len(knots))) / 20).astype(np.float32)
    return noise


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


def mix(synthetic: list[LabelledUtterance], recordings: list[LabelledUtterance]) -> Mix:
    """Return utterances and how likely each is drawn: recordings in proportion to their length, RECORDED of all that is
    said, synthetic ones alike, and now and then nothing."""
    said = 1 - SILENT
    share = RECORDED * said if recordings else 0.0
    lengths = np.array([len(clip.samples) for clip in recordings])
    weights = [
        share * lengths / max(1, lengths.sum()),
        np.full(len(synthetic), (said - share) / len(synthetic)),
        [SILENT],
    ]
    return [*recordings, *synthetic, NOTHING], np.concatenate(weights)


def batch(clips: Mix, size: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Draw an augmented batch: samples [size, CROP] and classes [size, FRAMES]."""
    chosen = rng.choice(len(clips[0]), size, p=clips[1])
    rows = [crop(clips[0][i], rng, rng.uniform(0.85, 1.18)) for i in chosen]
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
        logits = encoder(torch.from_numpy(samples)[None])[1][0]
        said.append(logits.argmax(-1).numpy())
        truth.append(likelier_schwa(logits, torch.from_numpy(classes)).numpy())
    said, truth = np.concatenate(said), np.concatenate(truth)
    voiced = truth != SILENCE
    return {
        "frames": len(truth),
        "all": float((said == truth).mean()),
        "all_chance": float(np.bincount(truth).max() / len(truth)),
        "speech": float((said == truth)[voiced].mean()),
        "speech_chance": float(np.bincount(truth[voiced]).max() / voiced.sum()),
    }


def likelier_schwa(logits: Tensor, classes: Tensor) -> Tensor:
    """Replace AH_OR_AX in classes [...] by the one of the two that has the larger of logits [..., CLASSES]."""
    return torch.where(classes == AH_OR_AX, torch.where(logits[..., AX] > logits[..., AH], AX, AH), classes)


def run(
    minutes: float,
    out: Path,
    seed: int = 0,
    count: int = 1600,
    batch_size: int = 24,
    bfloat16: bool = False,
    natural: float = 0.0,
    init: str | None = None,
    recordings: Path | None = None,
    share: float = 1.0,
) -> dict[str, dict[str, float]]:
    """Train for `minutes` in all, resuming what `out` holds, write the encoder, and return the held-out accuracy.

    count: synthetic utterances. natural: fraction of them in natural voices. init: "mini" or a file whose encoder is
    trained on, at half the learning rate; None starts from random weights. recordings: folder of `recorded` speech.
    share: fraction of the trained weights in what is written, the rest is `init`'s.
    """
    synthetic = utterances(count, seed, False, natural, out / "natural")
    held_out = utterances(count // 10, seed, True, natural, out / "natural")
    heard, unheard = (recorded(recordings, held, out / "recorded") if recordings else [] for held in (False, True))
    for kind, said in (("synthetic", synthetic), ("recorded", heard)):
        print(
            f"{len(said)} {kind} utterances, {sum(len(c.samples) for c in said) / SAMPLE_RATE / 60:.0f} minutes",
            flush=True,
        )
    clips = mix(synthetic, heard)
    encoder = load_encoder(init) if init else new_encoder(clips, seed)

    kinds = {"synthetic": held_out} | ({"recorded": unheard} if unheard else {})

    def compute_loss(step: int) -> tuple[Tensor, dict[str, float]]:
        samples, classes = batch(clips, batch_size, np.random.default_rng([seed, 1, step]))
        return phoneme_loss(encoder, samples, classes, bfloat16), {}

    def show(step: int) -> None:
        for kind, said in kinds.items():
            print(step, kind, accuracy(encoder, said[:SHOWN]), flush=True)

    peak = 1e-3 if init else 2e-3
    settings = LoopSettings(minutes, learning_rate=peak, weight_decay=0.02, warmup=100, ema=0.0, log_every=50)
    train(encoder, compute_loss, settings, out, "phonetic", show=show)
    steps, spent = read_progress(out, "phonetic")
    if init and share != 1:
        encoder.load_state_dict(averaged(encoder.state_dict(), load_encoder(init).state_dict(), share))
    result = {"clean": accuracy(encoder, held_out), "degraded": accuracy(encoder, held_out, noisy=True)}
    if unheard:
        result["recorded"] = accuracy(encoder, unheard)
    facts = {
        "command": f"python -m starcaster_core.training.phonetic --minutes {minutes:g} --seed {seed} --utterances "
        f"{count}"
        + f" --natural {natural:g}" * bool(natural)
        + " --recorded SPEECH" * bool(recordings)
        + f" --init {Path(init or '').name}" * bool(init)
        + f" --share {share:g}" * (share != 1)
        + " --bfloat16" * bfloat16,
        "seed": seed,
        "steps": steps,
        "minutes": round(spent, 1),
        "utterances": count,
        "natural": natural,
        "recorded": len(heard),
        "share": share,
        "held_out": result,
        "held_out_voices": HELD_OUT,
        "classes": CLASS_NAMES,
    }
    save_phonetic(out / "phonetic.safetensors", encoder, facts)
    return result


def new_encoder(clips: Mix, seed: int) -> PhoneticEncoder:
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
    """Return the label-smoothed cross-entropy of samples [B, CROP] and classes [B, FRAMES], scalar; AH_OR_AX is the
    likelier of the two."""
    with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
        logits = encoder(samples)[1].float()
    classes = likelier_schwa(logits, classes)
    return nn.functional.cross_entropy(logits.flatten(0, 1), classes.flatten(), label_smoothing=0.05)


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the phonetic encoder.")
    parser.add_argument(
        "--minutes", type=float, default=10, help="of training, all resumed runs together, without making the data"
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--utterances", type=int, default=1600)
    parser.add_argument("--natural", type=float, default=0.0, help="share of the utterances in natural voices, 0..1")
    parser.add_argument("--recorded", type=Path, help="folder of recorded speech, with its table speech.tsv")
    parser.add_argument("--init", help="'mini' or a phonetic.safetensors to go on from, instead of beginning anew")
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the trained weights, 0..1; the rest is --init's"
    )
    parser.add_argument("--bfloat16", action="store_true", help="faster on CPUs that multiply it in hardware only")
    add_debug(parser)
    args = parser.parse_args()
    how = {"bfloat16": args.bfloat16, "natural": args.natural, "init": args.init}
    how |= {"recordings": args.recorded, "share": args.share}
    print(json.dumps(run(args.minutes, args.out, args.seed, args.utterances, **how), indent=2))


if __name__ == "__main__":
    raise SystemExit(run_command("train the phonetic encoder", main))
