"""Synthetic speech with phoneme labels, to train and to measure the phonetic encoder.

espeak-ng brings many voices, flite voices cut from recordings, and Piper and Kokoro (`natural.py`), where a share of
them is asked for, voices close to recordings; those cost seconds of computing each and are kept on disk.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..data.natural import require_voices, synthesize_natural
from ..data.phonemes import class_of
from ..data.sentences import SENTENCES, nonsense
from ..data.tts import FLITE_VOICES, VOICES, Utterance, synthesize, synthesize_flite, utterance
from ..files import atomic_write
from ..speech.spectrum import SAMPLE_RATE, levelling_gain

# Never trained on: every accent of these variants, one of flite's speakers, a woman and the man of Kokoro's, every
# tenth sentence.
HELD_OUT_VARIANTS = ("f4", "m3", "klatt2", "Alicia", "benjamin", "steph", "paul")
HELD_OUT_FLITE = "awb"
HELD_OUT_NATURAL = ("kokoro+jf_tebukuro", "kokoro+jm_kumo")
HELD_OUT_SENTENCES = SENTENCES[::10]
HELD_OUT = (*HELD_OUT_VARIANTS, f"flite+{HELD_OUT_FLITE}", *HELD_OUT_NATURAL)
TRAIN_SENTENCES = tuple(sentence for i, sentence in enumerate(SENTENCES) if i % 10)
TRAIN_VOICES = tuple(voice for voice in VOICES if voice.split("+")[1] not in HELD_OUT_VARIANTS)
HELD_OUT_VOICES = tuple(voice for voice in VOICES if voice.split("+")[1] in HELD_OUT_VARIANTS)
TRAIN_FLITE = tuple(voice for voice in FLITE_VOICES if voice != HELD_OUT_FLITE)
# In turn: every other utterance is joe's, whose English is a native's.
TRAIN_NATURAL = ("piper+joe", "kokoro+jf_alpha", "piper+joe", "kokoro+jf_gongitsune", "piper+joe", "kokoro+jf_nezumi")


@dataclass(frozen=True)
class LabelledUtterance:
    """An utterance and its phonemes.

    samples: levelled, int16 [N] (full scale 32767). starts, classes: int [P], when each phoneme begins, in samples, and
    its class.
    """

    samples: np.ndarray
    starts: np.ndarray
    classes: np.ndarray
    voice: str = ""
    text: str = ""


def utterances(
    count: int, seed: int, held_out: bool, natural: float = 0.0, cache: Path | None = None
) -> list[LabelledUtterance]:
    """Make `count` utterances, two in five of the training ones of nonsense words.

    natural: share of them in natural voices, kept in the folder `cache` for the next time. Of the others every other
    one is by flite, whose voices are cut from recordings (when measuring only every sixth: it is one voice).
    Raises MissingDependencyError where natural voices are wanted and not installed.
    """
    rng = np.random.default_rng([seed, held_out])
    voices = HELD_OUT_VOICES if held_out else TRAIN_VOICES
    sentences = HELD_OUT_SENTENCES if held_out else TRAIN_SENTENCES
    flite_every = 6 if held_out else 2
    flite = (HELD_OUT_FLITE,) if held_out else TRAIN_FLITE
    natural_voices = HELD_OUT_NATURAL if held_out else TRAIN_NATURAL
    if natural:
        require_voices(natural_voices)

    def plan(i: int):
        text = nonsense(rng) if not held_out and rng.random() < 0.4 else sentences[rng.integers(len(sentences))]
        before = int(i * natural)  # how many natural ones came before
        if int((i + 1) * natural) > before:
            voice, stretch = natural_voices[before % len(natural_voices)], round(rng.uniform(0.8, 1.3), 2)
            return voice, text, lambda: natural_utterance(text, voice, stretch, before, cache)
        i -= before
        if i % flite_every == 0:
            voice, stretch = flite[i // flite_every % len(flite)], round(rng.uniform(0.8, 1.3), 2)
            return f"flite+{voice}", text, lambda: synthesize_flite(text, voice, stretch)
        voice, rate, pitch = voices[rng.integers(len(voices))], int(rng.integers(105, 215)), int(rng.integers(25, 76))
        return voice, text, lambda: synthesize(text, voice, rate, pitch)

    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda planned: label(planned[2](), *planned[:2]), [plan(i) for i in range(count)]))


def natural_utterance(text: str, voice: str, stretch: float, seed: int, cache: Path | None = None) -> Utterance:
    """Return `synthesize_natural`, from the folder `cache` if it has been said before."""
    if cache is None:
        return synthesize_natural(text, voice, stretch, seed)
    asked = hashlib.sha256(json.dumps([text, voice, stretch, seed]).encode()).hexdigest()
    path = cache / f"{asked[:24]}.npz"
    if not path.exists():
        said = synthesize_natural(text, voice, stretch, seed)
        with atomic_write(path) as part, part.open("wb") as file:
            starts = [phoneme.start for phoneme in said.phonemes]
            symbols = [phoneme.symbol for phoneme in said.phonemes]
            pcm = np.round(said.samples * 32767).clip(-32768, 32767).astype(np.int16)
            np.savez(file, pcm=pcm, starts=starts, symbols=symbols)
    with np.load(path) as kept:
        return utterance(kept["pcm"], SAMPLE_RATE, list(zip(kept["starts"].tolist(), kept["symbols"].tolist())))


def label(said: Utterance, voice: str = "", text: str = "") -> LabelledUtterance:
    gain = levelling_gain(torch.from_numpy(said.samples)).item()
    starts = np.array([round(p.start * SAMPLE_RATE) for p in said.phonemes])
    classes = np.array([class_of(p.symbol) for p in said.phonemes])
    samples = (said.samples * gain * 32767).clip(-32767, 32767).astype(np.int16)
    return LabelledUtterance(samples, starts, classes, voice, text)
