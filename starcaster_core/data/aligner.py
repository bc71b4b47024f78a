"""Forced alignment of known words by pocketsphinx (BSD), which knows neither our synthesizers nor our encoder.

Used for building and measuring the speech encoder only: `pip install -e .[align]`.
"""

from __future__ import annotations

import re
from itertools import groupby

import numpy as np

from ..errors import MissingDependencyError
from ..speech.spectrum import FRAME_SAMPLES, SAMPLE_RATE
from .phonemes import CLASS_NAMES, PHONEME_CLASSES, SILENCE, class_of
from .tts import spell

STEP = SAMPLE_RATE // 100  # the aligner's times are in hundredths of a second
LATE = 1  # steps: its window t is centred on 12.8 ms after t hundredths
MARGIN = 10  # steps of the pauses around a phrase that are aligned with it
Word = tuple[str, int, int]
# A sound of espeak-ng's IPA.
_SOUND = re.compile("a\u026a|a\u028a|e\u026a|o\u028a|\u0254\u026a|t\u0283|d\u0292|[^\u02c8\u02cc ]\u02d0?")


def align(samples: np.ndarray, text: str) -> np.ndarray | None:
    """Return `align_steps` at each video frame's centre, int64 [T]."""
    steps = align_steps(samples, text)
    if steps is None:
        return None
    centres = (np.arange(-(-len(samples) // FRAME_SAMPLES)) * FRAME_SAMPLES + FRAME_SAMPLES // 2) // STEP
    return np.append(steps, SILENCE)[np.minimum(centres, len(steps))]


def align_steps(samples: np.ndarray, text: str) -> np.ndarray | None:
    """Return the phoneme class of each hundredth of a second, int64 [N // STEP].

    samples: 16 kHz, mono, [N], in -1..1. text: what is said.

    The dictionary has no schwa: that is "ah" here. espeak-ng pronounces the words that it lacks. None where there are
    no words, or they do not fit the sound. Raises MissingDependencyError without pocketsphinx, or without espeak-ng
    where it is asked.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise MissingDependencyError("pocketsphinx", "no such package", "`pip install pocketsphinx`.") from error
    words = [word.strip("'") for word in re.findall(r"[a-z']*[a-z][a-z']*", text.lower().replace("’", "'"))]
    if not words:
        return None
    decoder = Decoder(lm=None, loglevel="FATAL")
    _add_unknown(decoder, words)

    pcm = (samples * 32767).clip(-32768, 32767).astype(np.int16)
    steps = np.full(len(pcm) // STEP, SILENCE)
    try:
        for phrase in _phrases(decoder, pcm, words):
            begin, end = max(0, phrase[0][1] - MARGIN), phrase[-1][2] + MARGIN
            for sound, start, duration in _sounds(decoder, pcm, phrase, begin, end):
                start += LATE
                steps[start : start + duration] = PHONEME_CLASSES.get(sound.lower(), SILENCE)
    except RuntimeError:  # its word for words that do not fit
        return None
    return steps


def _add_unknown(decoder, words: list[str]) -> None:
    """Teach the decoder how espeak-ng says the words that its dictionary lacks."""
    unknown = sorted({word for word in words if decoder.lookup_word(word) is None})
    for word, spoken in zip(unknown, spell(unknown) if unknown else []):
        names = [CLASS_NAMES[class_of(sound)] for sound in _SOUND.findall(spoken)]
        sounds = ["AH" if name == "ax" else name.upper() for name in names if name != CLASS_NAMES[SILENCE]]
        if sounds:
            decoder.add_word(word, " ".join(sounds), True)


def _phrases(decoder, pcm: np.ndarray, words: list[str]) -> list[list[Word]]:
    """Runs of words without a pause: each with the pronunciation found, and the steps at which it begins and ends."""
    _listen(decoder, pcm, words)
    heard = [(segment.word, segment.start_frame, segment.end_frame + 1) for segment in decoder.seg()]
    if [re.sub(r"\(\d\)", "", word) for word, _, _ in heard if word[0] != "<"] != words:
        raise RuntimeError("the words do not fit the sound")
    return [list(run) for spoken, run in groupby(heard, lambda segment: segment[0][0] != "<") if spoken]


def _sounds(decoder, pcm: np.ndarray, phrase: list[Word], begin: int, end: int) -> list[tuple[str, int, int]]:
    """ARPABET names of what is said in steps [begin, end), and at which step each begins and how many it lasts.

    The search for sounds fails on some phrases, longer ones above all: those are halved.
    """
    piece = pcm[begin * STEP : end * STEP]
    try:
        _listen(decoder, piece, [word for word, _, _ in phrase])
        decoder.set_alignment()
        _listen(decoder, piece)
    except RuntimeError:
        if len(phrase) == 1:
            raise
        half = len(phrase) // 2
        middle = phrase[half][1]
        return _sounds(decoder, pcm, phrase[:half], begin, middle) + _sounds(decoder, pcm, phrase[half:], middle, end)
    return [(sound.name, begin + sound.start, sound.duration) for word in decoder.get_alignment() for sound in word]


def _listen(decoder, pcm: np.ndarray, words: list[str] | None = None) -> None:
    if words:
        decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    if words and decoder.hyp() is None:
        raise RuntimeError("the words do not fit the sound")
