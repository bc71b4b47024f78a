"""Phoneme accuracy of a speech encoder, by kind of voice, beside chance and a negative control.

    python -m starcaster_core.evaluation.phonemes --speech mini run/phonetic.safetensors --natural 0.4 --cache run \\
        --recorded SPEECH --recordings librivox --out run/phonemes.json

Counted are the 25ths of a second in which somebody speaks, and of the others those that are named a pause. The labels
are the synthesizer's and, where pocketsphinx is installed, those of forced alignment, for recordings too: of held-out
speakers in a folder that `training.phonetic` learns from, and sound files with their words in a .txt of the same name.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..command import add_debug, run_command
from ..data.aligner import align
from ..data.phonemes import AH_OR_AX, CLASS_NAMES, SILENCE
from ..models.phonetic import PhoneticEncoder
from ..speech import load_audio, mono16k
from ..speech.spectrum import FRAME_SAMPLES, SAMPLE_RATE
from ..training.phonetic import load_encoder
from ..training.recorded import recorded
from ..training.utterances import LabelledUtterance, utterances

SOUNDS = {".wav", ".flac", ".mp3", ".ogg"}
WITHOUT_SCHWA = np.arange(len(CLASS_NAMES) + 1)  # as the aligner hears
WITHOUT_SCHWA[[CLASS_NAMES.index("ax"), AH_OR_AX]] = CLASS_NAMES.index("ah")
COLOURS, LEVELS, NOISE_SECONDS = (0.0, 0.5, 1.0), (-70, -50, -30, -20), 8  # of noise alone: 0.5 pink; dB of full scale
NOISY = -10  # dB of the speech: noise added to recordings


@dataclass(frozen=True)
class EvaluatedUtterance:
    """samples: float32 [N]. own, aligned: int64 [T], the class at each video frame's centre by the synthesizer and by
    forced alignment; None where there is none. kind: of voice."""

    kind: str
    samples: np.ndarray
    own: np.ndarray | None
    aligned: np.ndarray | None


def held_out(count: int, seed: int, natural: float = 0.0, cache: Path | None = None) -> Iterator[EvaluatedUtterance]:
    """Yield utterances of held-out voices, a fraction of them natural; aligned, where pocketsphinx is installed."""
    aligning = importlib.util.find_spec("pocketsphinx") is not None
    for clip in utterances(count, seed, True, natural, cache):
        kind = {"flite": "flite", "kokoro": clip.voice}.get(clip.voice.partition("+")[0], "espeak-ng")
        samples = clip.samples / np.float32(32767)
        yield EvaluatedUtterance(kind, samples, phoneme_classes(clip), align(samples, clip.text) if aligning else None)


def phoneme_classes(clip: LabelledUtterance) -> np.ndarray:
    """Return the class at each video frame's centre, int64 [T]."""
    centres = (np.arange(-(-len(clip.samples) // FRAME_SAMPLES)) + 0.5) * FRAME_SAMPLES
    heard = (centres >= clip.starts[0]) & (centres < len(clip.samples))
    return np.where(heard, clip.classes[np.searchsorted(clip.starts, centres, side="right") - 1], SILENCE)


def recordings(folder: Path) -> Iterator[EvaluatedUtterance]:
    """Yield the sound files of a folder; their kind is its name."""
    for path in sorted(path for path in folder.iterdir() if path.suffix in SOUNDS):
        samples = mono16k(*load_audio(path)).numpy()
        words = path.with_suffix(".txt").read_text(encoding="utf8")
        yield EvaluatedUtterance(folder.name, samples, None, align(samples, words))


def held_out_speakers(folder: Path, seed: int, cache: Path | None = None) -> Iterator[EvaluatedUtterance]:
    """Yield recordings of held-out speakers, every fourth a second time in pink noise; their kind is the speaker's name
    up to its first hyphen."""
    rng = np.random.default_rng(seed)
    for number, clip in enumerate(recorded(folder, True, cache)):
        kind, aligned = clip.voice.partition("-")[0], WITHOUT_SCHWA[phoneme_classes(clip)]
        samples = clip.samples / np.float32(32767)
        yield EvaluatedUtterance(kind, samples, None, aligned)
        if number % 4 == 0:
            noise = coloured_noise(len(samples), 0.5, rng) * (samples.std() * 10 ** (NOISY / 20))
            yield EvaluatedUtterance("in noise", (samples + noise).clip(-1, 1), None, aligned)


def nobody(seed: int) -> Iterator[EvaluatedUtterance]:
    """Yield digital silence, and noise of several colours and levels."""
    pause = np.full(NOISE_SECONDS * SAMPLE_RATE // FRAME_SAMPLES, SILENCE)
    yield EvaluatedUtterance("silence", np.zeros(NOISE_SECONDS * SAMPLE_RATE, np.float32), pause, None)
    rng = np.random.default_rng(seed)
    for colour in COLOURS:
        for level in LEVELS:
            noise = coloured_noise(NOISE_SECONDS * SAMPLE_RATE, colour, rng) * np.float32(10 ** (level / 20))
            yield EvaluatedUtterance("noise", noise.clip(-1, 1), pause, None)


def coloured_noise(length: int, colour: float, rng: np.random.Generator) -> np.ndarray:
    """Draw noise of RMS 1 whose amplitude falls with frequency ** -colour from 20 Hz on: float32 [length]."""
    frequency = np.fft.rfftfreq(length, 1 / SAMPLE_RATE)
    spectrum = np.fft.rfft(rng.standard_normal(length)) * np.maximum(frequency, 20) ** -colour
    noise = np.fft.irfft(spectrum, length)
    return (noise / noise.std()).astype(np.float32)


def figures(encoder: PhoneticEncoder, spoken: list[EvaluatedUtterance]) -> dict[str, dict[str, float]]:
    """Measure `accuracy` by kind of voice, for both labels, and the fraction of frames on which the labels agree."""
    result = {}
    for kind in dict.fromkeys(one.kind for one in spoken):
        clips = [one for one in spoken if one.kind == kind]
        predicted = [encoder.phonemes(torch.from_numpy(one.samples)).numpy() for one in clips]
        if clips[0].own is not None:
            result[kind] = accuracy(predicted, [one.own for one in clips])
        pairs = [(prediction, one.aligned) for prediction, one in zip(predicted, clips) if one.aligned is not None]
        if pairs:
            predictions, aligned = zip(*pairs)
            result[f"{kind}, aligned"] = accuracy([WITHOUT_SCHWA[one] for one in predictions], aligned)
            if clips[0].own is not None:
                own = [WITHOUT_SCHWA[one.own] for one in clips if one.aligned is not None]
                result[f"{kind}, aligned"]["agreement"] = accuracy(own, aligned)["right"]
    return result


def accuracy(predicted: list[np.ndarray], truth: list[np.ndarray]) -> dict[str, float]:
    """Return the fraction of the frames of speech whose class is right; predicted, truth: int64 [T] of each utterance.

    chance: that of always predicting the commonest class. wrong_input: that of the prediction for the utterance before.
    pauses_right: fraction of the silent frames that are predicted as silent. Where nobody speaks, that is all.
    """
    other = [np.resize(predicted[i - 1], len(one)) for i, one in enumerate(truth)]
    if len(predicted) == 1:
        other = [np.roll(predicted[0], len(predicted[0]) // 2)]
    predicted, truth, other = np.concatenate(predicted), np.concatenate(truth), np.concatenate(other)
    speech = truth != SILENCE
    pauses_right = float((predicted == truth)[~speech].mean()) if not speech.all() else float("nan")
    if not speech.any():
        return {"frames": 0, "pauses_right": pauses_right}
    return {
        "frames": int(speech.sum()),
        "right": float((predicted == truth)[speech].mean()),
        "chance": float(np.bincount(truth[speech]).max() / speech.sum()),
        "wrong_input": float((other == truth)[speech].mean()),
        "pauses_right": pauses_right,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speech", required=True, nargs="+", help="'mini' or files of training.phonetic")
    parser.add_argument("--utterances", type=int, default=80)
    parser.add_argument("--natural", type=float, default=0.0, help="share of them in natural voices, 0..1")
    parser.add_argument("--cache", type=Path, help="folder of a training run: natural voices' speech, alignments")
    parser.add_argument("--recorded", type=Path, help="folder of recorded speech, of whose held-out speakers is read")
    parser.add_argument("--recordings", type=Path, nargs="+", default=[], help="folders of sound files, words in .txt")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args()
    natural, aligned = (args.cache / name if args.cache else None for name in ("natural", "recorded"))
    spoken = list(held_out(args.utterances, args.seed, args.natural, natural))
    spoken += held_out_speakers(args.recorded, args.seed, aligned) if args.recorded else []
    spoken += nobody(args.seed)
    for folder in args.recordings:
        spoken += recordings(folder)
    found = {Path(speech).stem: figures(load_encoder(speech).eval(), spoken) for speech in args.speech}
    args.out.write_text(json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    raise SystemExit(run_command("measure phonemes", main))
