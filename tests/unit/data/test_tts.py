"""Synthetic speech: repeatable, with phonemes where they are heard."""

from __future__ import annotations

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from starcaster_core.data import tts
from starcaster_core.data.phonemes import CLASS_NAMES, PHONEME_CLASSES, SILENCE, class_of
from starcaster_core.data.sentences import CLASSIC, nonsense
from starcaster_core.errors import InputError, MissingDependencyError


def has_espeak() -> bool:
    try:
        return bool(ctypes.CDLL("libespeak-ng.so.1"))
    except OSError:
        return False


needs_espeak = pytest.mark.skipif(not has_espeak(), reason="needs libespeak-ng1 (build time only)")
needs_flite = pytest.mark.skipif(shutil.which("flite") is None, reason="needs flite (build time only)")


@needs_espeak
@pytest.mark.parametrize("voice", ["en-us", "en-gb+m7", "en-us+f3", "en-gb-scotland+klatt2"])
def test_same_arguments_same_samples_whatever_was_said_before(voice):
    first = tts.synthesize("She sells sea shells, by the shore.", voice, 140, 40)
    tts.synthesize("Something else?", "en-029+f5")
    second = tts.synthesize("She sells sea shells, by the shore.", voice, 140, 40)
    assert np.array_equal(first.samples, second.samples) and first.phonemes == second.phonemes


@needs_espeak
def test_threads_do_not_mix_their_words():
    texts = ["one two three", "boats and trains", "my mother's umbrella", "a"]
    alone = [tts.synthesize(text) for text in texts]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(tts.synthesize, texts))
    assert all(np.array_equal(a.samples, b.samples) for a, b in zip(alone, together))


@needs_espeak
def test_arguments_matter():
    text = "The weather is fine."
    usual = tts.synthesize(text)
    others = [tts.synthesize(text, "en-us+f3"), tts.synthesize(text, rate=220), tts.synthesize(text, pitch=90)]
    assert all(not np.array_equal(usual.samples, other.samples) for other in others)
    assert others[1].seconds < 0.85 * usual.seconds


@needs_espeak
def test_phonemes_follow_each_other_and_end_with_the_sound():
    said = tts.synthesize(tts.SENTENCES[0])
    assert said.sample_rate == 16_000 and said.samples.dtype == np.float32 and 0.1 < np.abs(said.samples).max() <= 1
    assert said.phonemes[-1].end == pytest.approx(said.seconds, abs=1e-3)
    for before, after in zip(said.phonemes, said.phonemes[1:]):
        assert before.start < before.end == after.start


@needs_espeak
def test_a_hiss_is_heard_where_its_phoneme_says():
    said = tts.synthesize("A sauce. A sea.")
    for phoneme in said.phonemes:
        piece = said.samples[int(phoneme.start * 16_000) : int(phoneme.end * 16_000)]
        if phoneme.symbol in ("s", "i:", "O:"):
            power = np.abs(np.fft.rfft(piece * np.hanning(len(piece)))) ** 2
            high = power[len(power) // 2 :].sum() / power.sum()  # above 4 kHz
            assert (high > 0.5) == (phoneme.symbol == "s")


@needs_espeak
def test_track_has_the_class_of_each_frame_centre():
    said = tts.synthesize("She says.")
    track = tts.phoneme_track(said.phonemes, 60, 25.0)
    assert track.shape == (60,) and track.dtype == np.int64
    for t in range(60):
        heard = [p.symbol for p in said.phonemes if p.start <= (t + 0.5) / 25 < p.end]
        assert track[t] == (class_of(heard[0]) if heard else SILENCE)
    names = [CLASS_NAMES[c] for c in track]
    assert list(dict.fromkeys(names)) == ["sh", "iy", "s", "eh", "z", "sil"] and names[-1] == "sil"


def test_classes():
    assert len(CLASS_NAMES) == len(set(CLASS_NAMES)) == 41 and CLASS_NAMES[SILENCE] == "sil"
    assert set(PHONEME_CLASSES.values()) == set(range(41))
    spelled = {
        "_:": "sil",
        "A@": "aa",
        "tS": "ch",
        "3:": "er",
        "t#": "t",
        "oU": "ow",
        "hh": "hh",
        "pau": "sil",
        "m": "m",
    }
    assert {symbol: CLASS_NAMES[class_of(symbol)] for symbol in spelled} == spelled
    assert CLASS_NAMES[class_of("aU9")] == "aw"  # not listed: the longest beginning that is


@needs_espeak
def test_every_accent_speaks_with_listed_phonemes():
    for accent in tts.ACCENTS:
        said = tts.synthesize(" ".join(CLASSIC[:12]), accent)
        assert {p.symbol for p in said.phonemes} <= set(PHONEME_CLASSES), accent


@needs_flite
@pytest.mark.parametrize("voice", tts.FLITE_VOICES)
def test_flite_speaks_too(voice):
    said = tts.synthesize_flite("Hello there. She sells sea shells!", voice)
    assert said.sample_rate == 16_000 and said.seconds > 1.5
    assert said.phonemes[-1].end == pytest.approx(said.seconds, abs=0.02)
    assert {p.symbol for p in said.phonemes} <= set(PHONEME_CLASSES)
    again = tts.synthesize_flite("Hello there. She sells sea shells!", voice)
    assert np.array_equal(said.samples, again.samples)


@needs_flite
def test_the_a_of_father_is_one_sound_whoever_says_it():
    assert [name for i, name in enumerate(CLASS_NAMES) if class_of(name) != i] == ["aa"]  # of "bath"
    said = [tts.synthesize_flite("Father.")] + ([tts.synthesize("Father.")] if has_espeak() else [])
    for utterance in said:
        assert [CLASS_NAMES[class_of(p.symbol)] for p in utterance.phonemes if class_of(p.symbol) != SILENCE][1] == "aa"


def test_enough_to_say_and_voices_to_say_it():
    assert len(set(tts.SENTENCES)) == len(tts.SENTENCES) >= 400
    assert len(set(tts.VOICES)) == len(tts.VOICES) >= 60
    assert not any("{" in sentence or "|" in sentence for sentence in tts.SENTENCES)
    draws = [[tts.random_sentence(np.random.default_rng(seed)) for _ in range(2)] for seed in (1, 2)]
    assert draws[0][0] == draws[0][1] != draws[1][0]
    assert nonsense(np.random.default_rng(3)) == nonsense(np.random.default_rng(3))


@needs_espeak
def test_what_cannot_be_said_is_refused():
    with pytest.raises(InputError, match="empty string"):
        tts.synthesize("  ")
    with pytest.raises(InputError, match="tts.VOICES"):
        tts.synthesize("Hello.", "xx-nowhere")
    with pytest.raises(InputError, match="slt"):
        tts.synthesize_flite("Hello.", "nobody")


def test_missing_flite_says_what_to_install(monkeypatch):
    monkeypatch.setenv("PATH", "")
    with pytest.raises(MissingDependencyError, match="apt-get install flite"):
        tts.synthesize_flite("Hello.")


def test_missing_espeak_says_what_to_install(monkeypatch):
    class Ended:
        returncode, stdout, stderr = tts.NO_LIBRARY, b"", b""

    monkeypatch.setattr(tts.subprocess, "run", lambda *args, **kwargs: Ended)
    with pytest.raises(MissingDependencyError, match="apt-get install libespeak-ng1"):
        tts.synthesize("Hello.")
