"""Recordings as a synthesizer's utterances: the aligner's sounds at its times, by speakers of the clip's split."""

from __future__ import annotations

import wave

import numpy as np
import pytest

from starcaster_core.data import recordings, synth
from starcaster_core.data.phonemes import CLASS_NAMES, SILENCE, class_of
from starcaster_core.data.splits import split_of
from starcaster_core.errors import InputError

AA, S = CLASS_NAMES.index("aa"), CLASS_NAMES.index("s")
SPEAKERS = [f"speaker-{number}" for number in range(30)]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder of one recording for each speaker; "gibberish" fits no sound."""

    def align_steps(samples, text):
        steps = np.full(len(samples) // recordings.STEP, AA)
        steps[:20], steps[70:] = SILENCE, S
        return None if text == "gibberish" else steps

    monkeypatch.setattr(recordings, "align_steps", align_steps)
    with wave.open(str(tmp_path / "tone.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16_000)
        file.writeframes((3000 * np.sin(np.arange(16_000) / 5)).astype("<i2").tobytes())
    lines = [f"tone.wav\t{speaker}\tsome words" for speaker in SPEAKERS]
    (tmp_path / "speech.tsv").write_text("\n".join(["file\tspeaker\ttext", *lines]) + "\n")
    return tmp_path


def test_a_recording_is_an_utterance_of_the_same_sounds(folder):
    said = recordings.read_recording(folder, recordings.table_rows(folder)[0]).utterance()
    assert [class_of(sound.symbol) for sound in said.phonemes] == [SILENCE, AA, S]
    assert [sound.start for sound in said.phonemes] == pytest.approx([0, 0.2, 0.7])
    assert said.seconds == 1 and np.abs(said.samples).max() == pytest.approx(3000 / 32768, rel=0.01)


@pytest.mark.parametrize("split", ["train", "test"])
def test_clips_say_recordings_by_speakers_of_their_split(folder, split):
    settings = synth.Settings(clips=1, frames=20, recorded=1.0, recordings=str(folder))
    said = [synth.draw_speech(np.random.default_rng(seed), split, settings) for seed in range(8)]
    assert {split_of("speaker", one["voice"]) == "train" for one in said} == {split == "train"}
    assert {one["text"] for one in said} == {"some words"}
    for one in said:  # sounds lie where they are heard
        (start, end) = next((start, end) for start, end, symbol in one["phonemes"] if class_of(symbol) == AA)
        heard = one["samples"][round(start * 16_000) : round(end * 16_000)]
        assert np.abs(heard).max() > 0.2


def test_words_that_never_fit_are_said_to(folder):
    table = folder / "speech.tsv"
    table.write_text(table.read_text().replace("some words", "gibberish"))
    with pytest.raises(InputError, match="do not"):
        synth.draw_speech(np.random.default_rng(0), "train", synth.Settings(1, recorded=1.0, recordings=str(folder)))
