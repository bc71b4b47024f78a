"""Counting named sounds, and the aligner that says what they are where no synthesizer does."""

from __future__ import annotations

import ctypes
import shutil
import wave

import numpy as np
import pytest
import torch

from starcaster_core.data.aligner import align
from starcaster_core.data.phonemes import AH_OR_AX, CLASS_NAMES, SILENCE
from starcaster_core.data.tts import phoneme_track, synthesize, synthesize_flite
from starcaster_core.evaluation import phonemes
from starcaster_core.training.utterances import LabelledUtterance

TEXT = "The old man walked slowly to the river. He sat down and looked at the water."


def needs_espeak() -> None:
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        pytest.skip("needs libespeak-ng1 (build time only)")


@pytest.fixture(scope="module")
def flite():
    if not shutil.which("flite"):
        pytest.skip("needs flite (build time only)")
    return synthesize_flite(TEXT, "slt")


@pytest.fixture(scope="module")
def aligned(flite):
    pytest.importorskip("pocketsphinx", reason="needs pip install -e .[align] (to build and measure only)")
    return align(flite.samples, TEXT)


def test_shares_are_of_the_frames_of_speech():
    truth = [np.array([0, 0, 1, 1, 1, 2]), np.array([3, 3, 0, 0])]
    found = phonemes.accuracy([np.array([0, 1, 1, 1, 5, 2]), np.array([3, 4, 0, 0])], truth)
    assert found["frames"] == 6 and found["right"] == 4 / 6 and found["chance"] == 3 / 6
    assert found["pauses_right"] == 3 / 4
    assert found["wrong_input"] == 0  # 3 4 0 0 3 4 for the first, 0 1 1 1 for the second


def test_the_wrong_input_of_a_single_utterance_is_its_other_half():
    track = np.array([1, 1, 0, 2, 2, 0])
    assert phonemes.accuracy([track], [track])["wrong_input"] == 0


def test_phoneme_classes_are_those_at_the_centres_of_frames():
    clip = LabelledUtterance(np.zeros(3 * 640 + 100, np.int16), np.array([0, 330, 1280]), np.array([0, 7, 9]))
    assert phonemes.phoneme_classes(clip).tolist() == [0, 7, 9, 0]


def test_kinds_are_counted_apart_and_schwa_is_no_mistake_where_the_aligner_has_none():
    ax, ah, s = (CLASS_NAMES.index(name) for name in ("ax", "ah", "s"))

    class Encoder:
        def phonemes(self, samples):
            return torch.full((len(samples) // 640,), ax)

    sound = np.zeros(4 * 640, np.float32)
    own, aligned = np.array([ax, ah, s, SILENCE]), np.array([ah, ah, s, SILENCE])
    spoken = [
        phonemes.EvaluatedUtterance("one", sound, own, aligned),
        phonemes.EvaluatedUtterance("two", sound, own[::-1], None),
    ]
    found = phonemes.figures(Encoder(), spoken)
    assert list(found) == ["one", "one, aligned", "two"]
    assert found["one"]["right"] == 1 / 3 and found["one, aligned"]["right"] == 2 / 3
    assert found["one, aligned"]["agreement"] == 1


def test_the_aligner_hears_most_sounds_where_flite_says_they_are(flite, aligned):
    """Most frames agree; moved by three frames, few do."""
    own = phonemes.WITHOUT_SCHWA[phoneme_track(flite.phonemes, len(aligned))]

    def agreement(shift: int) -> float:
        moved = np.roll(own, shift)
        return float((moved == aligned)[(moved != SILENCE) & (aligned != SILENCE)].mean())

    assert agreement(0) > 0.6
    assert max(agreement(-3), agreement(3)) < 0.5 * agreement(0)


def test_the_aligner_refuses_what_it_cannot_place(flite, aligned):
    assert align(flite.samples, "?!") is None
    assert align(flite.samples[:4000], TEXT) is None  # too short for so many words


def test_words_that_the_dictionary_lacks_are_pronounced_by_espeak():
    """The aligner places a text with two such names where espeak-ng says it, three frames later it would not fit."""
    pytest.importorskip("pocketsphinx", reason="needs pip install -e .[align] (to build and measure only)")
    needs_espeak()
    text = "Old Wingfold walked to the river. Then Zorblax sat down and looked at the water."
    said = synthesize(text, "en-us+f2", 140)
    aligned, own = align(said.samples, text), phoneme_track(said.phonemes, -(-len(said.samples) // 640))
    spoken = (own != SILENCE) & (aligned != SILENCE)
    assert (phonemes.WITHOUT_SCHWA[own] == aligned)[spoken].mean() > 0.5
    assert (np.roll(phonemes.WITHOUT_SCHWA[own], 3) == aligned)[spoken].mean() < 0.3
    assert ((own == SILENCE) == (aligned == SILENCE)).mean() > 0.85


def test_silence_and_noise_are_pauses_alone():
    class Hears:
        def phonemes(self, samples):
            return torch.full((len(samples) // 640,), SILENCE if samples.abs().max() < 0.1 else 7)

    found = phonemes.figures(Hears(), list(phonemes.nobody(0)))
    assert found["silence"] == {"frames": 0, "pauses_right": 1}
    assert 0.3 < found["noise"]["pauses_right"] < 0.9


def test_held_out_speakers_are_those_of_the_folder_and_some_are_heard_in_noise(monkeypatch, tmp_path):
    asked = []
    tone = (8000 * np.sin(np.arange(4 * 640) / 5)).astype(np.int16)
    clips = [
        LabelledUtterance(tone, np.array([0, 1280]), np.array([AH_OR_AX, SILENCE]), f"{name}-{number}")
        for number, name in enumerate(("set", "other", "set"))
    ]
    monkeypatch.setattr(phonemes, "recorded", lambda *how: asked.append(how) or clips)
    spoken = list(phonemes.held_out_speakers(tmp_path, 0))
    assert asked == [(tmp_path, True, None)]
    assert [one.kind for one in spoken] == ["set", "in noise", "other", "set"]
    ah = CLASS_NAMES.index("ah")
    assert all(one.own is None and one.aligned.tolist() == [ah, ah, SILENCE, SILENCE] for one in spoken)
    added = spoken[1].samples - spoken[0].samples
    assert added.std() / spoken[0].samples.std() == pytest.approx(10 ** (phonemes.NOISY / 20), rel=0.05)


def test_recordings_are_read_with_their_words(flite, aligned, tmp_path):
    folder = tmp_path / "reader"
    folder.mkdir()
    with wave.open(str(folder / "one.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
        file.writeframes((flite.samples * 32767).astype("<i2").tobytes())
    (folder / "one.txt").write_text(TEXT)
    (spoken,) = phonemes.recordings(folder)
    assert spoken.kind == "reader" and spoken.own is None
    assert (spoken.aligned == aligned).mean() > 0.95


def test_held_out_utterances_say_what_they_are(flite):
    needs_espeak()
    spoken = list(phonemes.held_out(3, 0))
    assert [one.kind for one in spoken] == ["flite", "espeak-ng", "espeak-ng"]
    for one in spoken:
        assert len(one.own) == -(-len(one.samples) // 640)
        assert one.aligned is None or len(one.aligned) == len(one.own)
        assert 0.2 < (one.own != SILENCE).mean()
