"""Recordings that teach the phonetic encoder: aligned once, sure texts only, whole speakers held out."""

from __future__ import annotations

import wave

import numpy as np
import pytest
import torch

from starcaster_core.data import recordings
from starcaster_core.data.phonemes import AH_OR_AX, CLASS_NAMES, SILENCE
from starcaster_core.data.splits import split_of
from starcaster_core.errors import InputError
from starcaster_core.training import phonetic, recorded

AH, S = CLASS_NAMES.index("ah"), CLASS_NAMES.index("s")
SPEAKERS = [f"speaker-{number}" for number in range(40)]


@pytest.fixture
def aligned(monkeypatch) -> list[str]:
    """Stands in for the aligner -> the texts it was asked for; it cannot place "gibberish"."""
    asked = []

    def align_steps(samples, text):
        asked.append(text)
        steps = np.full(len(samples) // recordings.STEP, AH)
        steps[:10], steps[40:] = SILENCE, S
        return None if text == "gibberish" else steps

    monkeypatch.setattr(recordings, "align_steps", align_steps)
    return asked


@pytest.fixture
def folder(tmp_path):
    """(rows of the table after its head) -> a folder with one sound that all of them name"""

    def make(lines: list[str], head: str = "file\tspeaker\ttext\tqc"):
        with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
            file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
            file.writeframes((3000 * np.sin(np.arange(16_000) / 5)).astype("<i2").tobytes())
        (tmp_path / "speech.tsv").write_text("\n".join([head, *lines]) + "\n")
        return tmp_path

    return make


def test_held_out_speakers_are_not_trained_on(folder, aligned):
    place = folder([f"tone.wav\t{speaker}\tsome words\t1" for speaker in SPEAKERS])
    heard, unheard = ({clip.voice for clip in recorded.recorded(place, held_out)} for held_out in (False, True))
    assert not heard & unheard and heard | unheard == set(SPEAKERS)
    assert 0 < len(unheard) < 0.4 * len(SPEAKERS)
    assert all(split_of("speaker", speaker) == "train" for speaker in heard)


def test_labels_are_the_aligners_and_its_ah_is_either_of_two(folder, aligned):
    (clip,) = recorded.recorded(
        folder([f"tone.wav\t{SPEAKERS[0]}\tsome words\t1"]), split_of("speaker", SPEAKERS[0]) != "train"
    )
    assert clip.starts.tolist() == [0, 1600, 6400]
    assert clip.classes.tolist() == [SILENCE, AH_OR_AX, S]
    assert clip.text == "some words" and len(clip.samples) == 16_000
    assert np.abs(clip.samples).max() == pytest.approx(0.1 * 2**0.5 * 32767, rel=0.02)  # levelled


def test_doubtful_texts_and_words_that_do_not_fit_are_left_out(folder, aligned):
    held_out = split_of("speaker", "anne") != "train"
    lines = ["tone.wav\tanne\tdoubtful\t0.5", "tone.wav\tanne\tgibberish\t1", "tone.wav\tanne\twell known\t"]
    assert [clip.text for clip in recorded.recorded(folder(lines), held_out)] == ["well known"]
    assert aligned == ["gibberish", "well known"]


def test_an_utterance_is_aligned_once(folder, aligned, tmp_path):
    held_out = split_of("speaker", "anne") != "train"
    place = folder(["tone.wav\tanne\twords\t1", "tone.wav\tanne\tgibberish\t1"])
    first, second = (recorded.recorded(place, held_out, tmp_path / "cache") for _ in range(2))
    assert aligned == ["words", "gibberish"]
    assert np.array_equal(first[0].classes, second[0].classes) and len(first) == len(second) == 1


def test_a_folder_without_its_table_is_refused(folder, tmp_path):
    with pytest.raises(InputError, match="speech.tsv"):
        recorded.recorded(tmp_path, False)
    with pytest.raises(InputError, match="text"):
        recorded.recorded(folder(["tone.wav\tanne"], head="file\tspeaker"), False)


def test_recordings_are_drawn_by_their_length_beside_synthetic_speech_and_silence():
    def clip(seconds: int, voice: str):
        return phonetic.LabelledUtterance(np.ones(seconds * 16_000, np.int16), np.array([0]), np.array([S]), voice)

    synthetic, recordings = [clip(9, "a"), clip(1, "b")], [clip(1, "short"), clip(3, "long")]
    clips, weights = phonetic.mix(synthetic, recordings)
    share = {each.voice: weight for each, weight in zip(clips, weights)}
    assert weights.sum() == pytest.approx(1)
    assert share["long"] == pytest.approx(3 * share["short"])
    assert share["long"] + share["short"] == pytest.approx(phonetic.RECORDED * (1 - phonetic.SILENT))
    assert share["a"] == share["b"] and share[""] == phonetic.SILENT
    assert phonetic.mix(synthetic, [])[1].sum() == pytest.approx(1)


def test_where_nobody_speaks_the_label_is_a_pause_and_noise_is_heard():
    clips = [phonetic.NOTHING], np.ones(1)
    samples, classes = phonetic.batch(clips, 8, np.random.default_rng(0))
    assert (classes == SILENCE).all()
    levels = 20 * samples.square().mean(dim=1).clamp(min=1e-12).sqrt().log10()
    assert levels.max() > -30 and len(levels.unique()) == 8


def test_ah_of_the_aligner_is_the_likelier_of_ah_and_schwa():
    logits = torch.zeros(2, len(CLASS_NAMES))
    logits[0, phonetic.AX], logits[1, phonetic.AH] = 1, 1
    assert phonetic.likelier_schwa(logits, torch.tensor([AH_OR_AX] * 2)).tolist() == [phonetic.AX, phonetic.AH]
    assert phonetic.likelier_schwa(logits, torch.tensor([S, phonetic.AH])).tolist() == [S, phonetic.AH]
