"""Forced alignment of known words by pocketsphinx (BSD), which knows neither our synthesizers nor our encoder.

Used for measuring only: `pip install -e .[align]`.
"""

from __future__ import annotations

import re
from itertools import groupby

import numpy as np

from ..data.phonemes import PHONEME_CLASSES, SILENCE
from ..errors import MissingDependencyError
from ..speech.spectrum import FRAME_SAMPLES, SAMPLE_RATE

STEP = SAMPLE_RATE // 100  # the aligner's times are in hundredths of a second
MARGIN = 10  # steps of the pauses around a phrase that are aligned with it


def align(samples: np.ndarray, text: str) -> np.ndarray | None:
    """Return the phoneme class at each video frame's centre, int64 [T], of 16 kHz mono samples [N] in -1..1 and their
    text.

    The dictionary has no schwa: that is "ah" here. None where a word is not in the dictionary or the words do not fit
    the sound. Raises MissingDependencyError without pocketsphinx.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise MissingDependencyError("pocketsphinx", "no such package", "`pip install pocketsphinx`.") from error
    words = re.findall(r"[a-z']+", text.lower())
    decoder = Decoder(lm=None, loglevel="FATAL")
    if not words or any(decoder.lookup_word(word) is None for word in words):
        return None

    pcm = (samples * 32767).clip(-32768, 32767).astype(np.int16)
    track = np.full(-(-len(pcm) // FRAME_SAMPLES), SILENCE)
    centres = (np.arange(len(track)) + 0.5) * FRAME_SAMPLES / STEP
    try:
        for begin, end, phrase in _phrases(decoder, pcm, words):
            for sound, start, duration in _sounds(decoder, pcm[begin * STEP : end * STEP], phrase):
                inside = (centres >= begin + start) & (centres < begin + start + duration)
                track[inside] = PHONEME_CLASSES.get(sound.lower(), SILENCE)
    except RuntimeError:  # its word for words that do not fit
        return None
    return track


def _phrases(decoder, pcm: np.ndarray, words: list[str]) -> list[tuple[int, int, str]]:
    """Words without a pause, and the steps at which they begin and end. The search for sounds fails on longer ones."""
    _listen(decoder, pcm, words)
    heard = [(segment.word, segment.start_frame, segment.end_frame + 1) for segment in decoder.seg()]
    if [re.sub(r"\(\d\)", "", word) for word, _, _ in heard if word[0] != "<"] != words:
        raise RuntimeError("the words do not fit the sound")
    runs = [list(run) for spoken, run in groupby(heard, lambda segment: segment[0][0] != "<") if spoken]
    return [
        (max(0, run[0][1] - MARGIN), run[-1][2] + MARGIN, [word for word, _, _ in run])  # with the pronunciation found
        for run in runs
    ]


def _sounds(decoder, pcm: np.ndarray, words: list[str]) -> list[tuple[str, int, int]]:
    """ARPABET names, and at which step each begins and how many it lasts."""
    _listen(decoder, pcm, words)
    decoder.set_alignment()
    _listen(decoder, pcm)
    return [(sound.name, sound.start, sound.duration) for word in decoder.get_alignment() for sound in word]


def _listen(decoder, pcm: np.ndarray, words: list[str] | None = None) -> None:
    if words:
        decoder.set_align_text(" ".join(words))
    decoder.start_utt()
    decoder.process_raw(pcm.tobytes(), full_utt=True)
    decoder.end_utt()
    if words and decoder.hyp() is None:
        raise RuntimeError("the words do not fit the sound")
