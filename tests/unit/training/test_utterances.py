"""What the phonetic encoder is taught with: voices held out, natural ones kept on disk, labels where the sound is."""

from __future__ import annotations

import ctypes
import shutil

import numpy as np
import pytest

from starcaster_core.data import natural
from starcaster_core.data.phonemes import CLASS_NAMES, SILENCE
from starcaster_core.data.splits import split_of
from starcaster_core.data.tts import FLITE_VOICES, VOICES, Phoneme, Utterance
from starcaster_core.errors import MissingDependencyError
from starcaster_core.training import utterances as training


def _loads(library: str) -> bool:
    try:
        return bool(ctypes.CDLL(library))
    except OSError:
        return False


has_espeak = _loads("libespeak-ng.so.1")
needs_voices = pytest.mark.skipif(
    not has_espeak or natural.natural_voices() != natural.NATURAL_VOICES,
    reason="needs libespeak-ng1 and pip install -e .[voices] (build time only)",
)


@pytest.fixture
def said(monkeypatch) -> list[tuple]:
    """Stands in for every synthesizer -> what they were asked: (voice, text)."""
    asked = []

    def speak(text, voice, *how):
        asked.append((voice, text))
        tone = np.sin(np.arange(16_000) / (2 + len(text) % 7)).astype(np.float32)
        return Utterance(0.5 * tone, 16_000, [Phoneme(0.0, 0.25, "_"), Phoneme(0.25, 1.0, "i\u02d0")])

    for name in ("synthesize", "synthesize_flite", "synthesize_natural"):
        monkeypatch.setattr(training, name, speak)
    monkeypatch.setattr(training, "require_voices", lambda voices: None)
    return asked


def test_held_out_voices_and_sentences_are_not_trained_on():
    assert not set(training.TRAIN_VOICES) & set(training.HELD_OUT_VOICES)
    assert set(training.TRAIN_VOICES) | set(training.HELD_OUT_VOICES) == set(VOICES)
    assert not set(training.TRAIN_SENTENCES) & set(training.HELD_OUT_SENTENCES)
    assert set(training.TRAIN_FLITE) == set(FLITE_VOICES) - {training.HELD_OUT_FLITE} != set(FLITE_VOICES)
    assert len(training.HELD_OUT_VOICES) >= 30 and len(training.HELD_OUT_SENTENCES) >= 50
    assert not set(training.TRAIN_NATURAL) & set(training.HELD_OUT_NATURAL)
    assert set(training.TRAIN_NATURAL) | set(training.HELD_OUT_NATURAL) == set(natural.NATURAL_VOICES)
    assert {voice for voice in natural.NATURAL_VOICES if split_of("voice", voice) != "train"} <= set(
        training.HELD_OUT_NATURAL  # the clips' held-out speakers are the encoder's too
    )


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_no_held_out_voice_or_sentence_is_asked_for_when_training(said, tmp_path, share):
    made = training.utterances(200, 0, False, share, tmp_path)
    voices, texts = {voice for voice, _ in said}, {text for _, text in said}
    assert not voices & {*training.HELD_OUT_NATURAL, *training.HELD_OUT_VOICES, training.HELD_OUT_FLITE}
    assert not texts & set(training.HELD_OUT_SENTENCES)
    assert sum(clip.voice in natural.NATURAL_VOICES for clip in made) == 200 * share
    if share:
        assert set(training.TRAIN_NATURAL) <= voices

    said.clear()
    training.utterances(60, 0, True, share, tmp_path)
    voices, texts = {voice for voice, _ in said}, {text for _, text in said}
    assert not voices & {*training.TRAIN_NATURAL, *training.TRAIN_VOICES, *training.TRAIN_FLITE}
    assert texts <= set(training.HELD_OUT_SENTENCES)


def test_natural_voices_speak_once(said, tmp_path):
    first = training.utterances(20, 0, False, 0.5, tmp_path / "kept")
    assert sum(voice in natural.NATURAL_VOICES for voice, _ in said) == 10
    assert len(list((tmp_path / "kept").iterdir())) == 10
    said.clear()
    second = training.utterances(20, 0, False, 0.5, tmp_path / "kept")
    assert not [voice for voice, _ in said if voice in natural.NATURAL_VOICES] and len(said) == 10
    for a, b in zip(first, second):
        assert np.array_equal(a.samples, b.samples) and a.voice == b.voice and a.text == b.text
        assert np.array_equal(a.starts, b.starts) and np.array_equal(a.classes, b.classes)
    assert list(second[1].starts) == [0, 4000] and list(second[1].classes) == [SILENCE, CLASS_NAMES.index("iy")]


def test_what_is_kept_is_what_was_asked_for(said, tmp_path):
    asked = [("One.", "piper+joe", 1.0, 0), ("Two.", "piper+joe", 1.0, 0), ("One.", "kokoro+jm_kumo", 1.0, 0)]
    asked += [("One.", "piper+joe", 1.1, 0), ("One.", "piper+joe", 1.0, 1)]
    for one in asked * 2:
        training.natural_utterance(*one, tmp_path)
    assert len(said) == len(list(tmp_path.iterdir())) == len(asked)


def test_missing_natural_voices_are_an_error_only_when_wanted(said, monkeypatch):
    def refuse(voices):
        raise MissingDependencyError("the natural voices", "none", "Install them.")

    monkeypatch.setattr(training, "require_voices", refuse)
    assert len(training.utterances(4, 0, False)) == 4
    with pytest.raises(MissingDependencyError):
        training.utterances(4, 0, False, 0.5)


@pytest.mark.skipif(not has_espeak or not shutil.which("flite"), reason="needs espeak-ng and flite (build time only)")
def test_utterances_repeat():
    first, second = (training.utterances(4, 3, False) for _ in range(2))
    assert all(
        np.array_equal(a.samples, b.samples) and np.array_equal(a.classes, b.classes) for a, b in zip(first, second)
    )
    assert all(len(clip.starts) == len(clip.classes) for clip in first)


@needs_voices
def test_natural_labels_lie_where_the_sound_is():
    """Silence is at least 20 dB below the vowels, hisses are higher than vowels; half a second later neither holds."""
    clips = training.utterances(2, 0, False, 1.0)
    vowels = [CLASS_NAMES.index(name) for name in "aa ae ah ao ay eh ey ih iy ow uw".split()]

    def level(shift: int, classes: list[int]) -> float:
        """dB, mean power of all samples with one of these labels, moved later by `shift` samples"""
        power, label = [], []
        for clip in clips:
            per_sample = np.repeat(clip.classes, np.diff([*clip.starts, len(clip.samples)]))
            power.append(np.square(clip.samples / 32767.0))
            label.append(np.roll(per_sample, shift))
        return 10 * np.log10(np.concatenate(power)[np.isin(np.concatenate(label), classes)].mean())

    assert {clip.voice for clip in clips} == {"piper+joe", "kokoro+jf_alpha"}
    assert level(0, vowels) - level(0, [SILENCE]) > 20
    assert level(8000, vowels) - level(8000, [SILENCE]) < 10
