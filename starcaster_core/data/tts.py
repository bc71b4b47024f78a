"""Speech with exact phoneme times, from espeak-ng (many voices, robotic) or flite (a few, closer to recordings).

Both are programs of the system, needed to build training data only. espeak-ng is GPL and runs in a process of its own.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import wave
from dataclasses import dataclass
from math import gcd
from pathlib import Path

import numpy as np

from ..conventions import FPS, SAMPLE_RATE
from ..errors import InputError, MissingDependencyError
from .espeak_process import NO_LIBRARY, NO_VOICE
from .phonemes import CLASS_NAMES, PHONEME_CLASSES, SILENCE, class_of
from .sentences import SENTENCES, random_sentence

__all__ = [
    "CLASS_NAMES",
    "FLITE_VOICES",
    "PHONEME_CLASSES",
    "SENTENCES",
    "VOICES",
    "Phoneme",
    "Utterance",
    "class_of",
    "phoneme_track",
    "random_sentence",
    "spell",
    "synthesize",
    "synthesize_flite",
    "utterance",
]

ACCENTS = ("en-us", "en-gb", "en-gb-x-rp", "en-gb-scotland", "en-029", "en-gb-x-gbclan", "en-gb-x-gbcwmd", "en-us-nyc")
VARIANTS = (
    "f1 f2 f3 f4 f5 m1 m2 m3 m4 m5 m6 m7 m8 klatt klatt2 klatt4 Alex Alicia Andy Annie Gene Gene2 Lee Michael adam "
    "anika antonio aunty belinda benjamin david ed edward grandma grandpa iven2 john linda max miguel pablo paul "
    "quincy rob robert sandro shelby steph steph2 travis victor zac"
).split()
VOICES = tuple(f"{accent}+{variant}" for variant in VARIANTS for accent in ACCENTS)
FLITE_VOICES = ("slt", "rms", "awb", "kal")
ARPABET_SYMBOLS = {"aa": "A:"}  # as in "father"; espeak-ng's "aa" is the vowel of "bath"
_ESPEAK_NAMES = {"en-gb": "en"}  # the library finds its default English under this name only


@dataclass(frozen=True)
class Phoneme:
    """A sound and when it is heard, [start, end) in seconds; `symbol` as the synthesizer spells it."""

    start: float
    end: float
    symbol: str


@dataclass(frozen=True)
class Utterance:
    """samples: float32 [N], mono, -1..1; phonemes: in order, without gaps, pauses included."""

    samples: np.ndarray
    sample_rate: int
    phonemes: list[Phoneme]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.sample_rate


def synthesize(text: str, voice: str = "en-us", rate: int = 150, pitch: int = 50) -> Utterance:
    """Say `text` with espeak-ng, at 16 kHz; the same arguments give the same samples.

    voice: an accent, or accent+variant as in `VOICES`. rate: words a minute, 80..450. pitch: 0..99, 50 is the voice's
    own. Raises InputError for empty text or an unknown accent, MissingDependencyError without espeak-ng.
    """
    if not text.strip():
        raise InputError("some text to say", "an empty string", "Give at least one word.")
    header, _, pcm = _espeak(voice, {"text": text, "rate": rate, "pitch": pitch}).partition(b"\n")
    header = json.loads(header)
    starts = [(milliseconds / 1000, symbol) for milliseconds, symbol in header["phonemes"]]
    return utterance(np.frombuffer(pcm, np.int16), header["sample_rate"], starts)


def spell(texts: list[str], voice: str = "en-us") -> list[str]:
    """Return each text in IPA with its stresses, by espeak-ng. Errors as for `synthesize`."""
    return json.loads(_espeak(voice, {"spell": texts}))


def _espeak(voice: str, request: dict) -> bytes:
    """What `espeak_process` answers, in that voice."""
    accent, plus, variant = voice.partition("+")
    request["voice"] = _ESPEAK_NAMES.get(accent, accent) + plus + variant
    command = [sys.executable, "-I", "-S", str(Path(__file__).with_name("espeak_process.py"))]
    done = subprocess.run(command, input=json.dumps(request).encode(), capture_output=True)
    if done.returncode == NO_VOICE:
        raise InputError("a voice of espeak-ng", f"{voice!r}", f"Choose one of tts.VOICES, such as {VOICES[0]!r}.")
    if done.returncode == NO_LIBRARY:
        raise _missing("espeak-ng", "libespeak-ng.so.1 that does not load", "libespeak-ng1")
    if done.returncode != 0:
        error = done.stderr.decode(errors="replace")[-300:]
        raise RuntimeError(f"espeak-ng ended with code {done.returncode}, asked for {request}: {error}")
    return done.stdout


def synthesize_flite(text: str, voice: str = "slt", stretch: float = 1.0) -> Utterance:
    """Say `text` with flite, at 16 kHz; `voice` is one of FLITE_VOICES. Errors as for `synthesize`.

    stretch: how long the sounds last, 1 being the voice's own pace.
    """
    if voice not in FLITE_VOICES:
        raise InputError("a voice of flite", f"{voice!r}", f"Choose one of {', '.join(FLITE_VOICES)}.")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "speech.wav"
        try:
            options = ["-voice", voice, "--setf", f"duration_stretch={stretch}", "-psdur", "-t", text, "-o", str(path)]
            done = subprocess.run(["flite", *options], capture_output=True, check=True)
        except FileNotFoundError as error:
            raise _missing("flite", "no such program", "flite") from error
        with wave.open(str(path)) as file:
            pcm, sample_rate = np.frombuffer(file.readframes(file.getnframes()), np.int16), file.getframerate()

    starts, start = [], 0.0
    for item in done.stdout.decode().split():  # "hh:0.255": a sound and its end in seconds
        symbol, end = item.rsplit(":", 1)
        starts.append((start, ARPABET_SYMBOLS.get(symbol, symbol)))
        start = float(end)
    return utterance(pcm, sample_rate, starts)


def phoneme_track(phonemes: list[Phoneme], frames: int, fps: float = FPS) -> np.ndarray:
    """Return the class (see `CLASS_NAMES`) heard at each frame's centre, (t + 0.5) / fps seconds: int64 [frames].

    Frames before the first and after the last phoneme are silence.
    """
    centres = (np.arange(frames) + 0.5) / fps
    track = np.full(frames, SILENCE, np.int64)
    for phoneme in phonemes:
        track[(centres >= phoneme.start) & (centres < phoneme.end)] = class_of(phoneme.symbol)
    return track


def utterance(pcm: np.ndarray, sample_rate: int, starts: list[tuple[float, str]]) -> Utterance:
    """Make an Utterance of 16-bit samples and (start in seconds, symbol) pairs; a sound ends where the next begins."""
    seconds = len(pcm) / sample_rate
    ends = [start for start, _ in starts[1:]] + [seconds]
    phonemes = [Phoneme(start, end, symbol) for (start, symbol), end in zip(starts, ends) if end > start]
    return Utterance(_resample(pcm.astype(np.float32) / 32768, sample_rate), SAMPLE_RATE, phonemes)


def _resample(samples: np.ndarray, sample_rate: int) -> np.ndarray:
    if sample_rate == SAMPLE_RATE:
        return samples
    from scipy.signal import resample_poly

    divisor = gcd(SAMPLE_RATE, sample_rate)
    return resample_poly(samples, SAMPLE_RATE // divisor, sample_rate // divisor).astype(np.float32)


def _missing(program: str, got: str, package: str) -> MissingDependencyError:
    return MissingDependencyError(program, got, f"Install it, for instance with `apt-get install {package}`.")
