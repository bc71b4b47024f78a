"""Training the phonetic encoder: labels on time, voices held out, learning happens, an interrupted run goes on."""

from __future__ import annotations

import json
from functools import partial
from itertools import count

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from starcaster_core.errors import CheckpointError
from starcaster_core.models.frozen import facts_of
from starcaster_core.models.phonetic import CLASSES, CONTEXT, PhoneticEncoder, load_phonetic
from starcaster_core.speech.spectrum import FRAME_SAMPLES
from starcaster_core.training import phonetic as training
from starcaster_core.training.loop import LoopSettings
from starcaster_core.training.phonetic import CLASS_NAMES, CROP, FRAMES, LabelledUtterance, augment, crop


def test_the_head_has_a_class_for_every_phoneme():
    assert len(CLASS_NAMES) == CLASSES


@pytest.mark.parametrize("speed", [0.85, 1.0, 1.18])
def test_labels_stay_with_their_sound(speed):
    """A clip that is silent, then loud: the crop's loud samples are those of the frames labelled loud."""
    samples = np.zeros(8 * 16_000, np.int16)
    samples[4 * 16_000 :] = 20_000
    clip = LabelledUtterance(samples, np.array([0, 4 * 16_000]), np.array([0, 5]))
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(20):
        sound, classes = crop(clip, rng, speed)
        assert sound.shape == (CROP,) and classes.shape == (FRAMES,)
        frames = sound.reshape(-1, FRAME_SAMPLES)[CONTEXT:-CONTEXT]
        level = frames[:, FRAME_SAMPLES // 2]  # at the centre
        assert np.array_equal(level > 0.1, classes == 5)
        seen |= set(classes)
    assert seen == {0, 5}


def test_augmentation_repeats_and_leaves_sound_in_range():
    rng = np.random.default_rng(0)
    sound = (0.3 * np.sin(np.arange(CROP) / 9)).astype(np.float32)
    for seed in range(20):
        first, second = (augment(sound, np.random.default_rng(seed)) for _ in range(2))
        assert np.array_equal(first, second)
        assert first.shape == (CROP,) and first.dtype == np.float32
        assert np.isfinite(first).all() and np.abs(first).max() <= 1
    assert not np.array_equal(augment(sound, rng), augment(sound, rng))


def test_augmentation_does_not_move_sound_in_time():
    """The click stays the loudest sample, whatever room, microphone and noise."""
    sound = np.zeros(CROP, np.float32)
    sound[20_000] = 1.0
    for seed in range(20):
        assert abs(int(np.abs(augment(sound, np.random.default_rng(seed))).argmax()) - 20_000) <= 8


def test_calibration_gives_bands_of_mean_0_and_deviation_1():
    encoder = PhoneticEncoder()
    sound = 0.2 * torch.randn(4, CROP, generator=torch.Generator().manual_seed(0))
    training.calibrate(encoder, sound)
    normalised = (encoder.log_mel(sound) - encoder.mel_mean) / encoder.mel_std
    assert normalised.mean().abs() < 1e-3 and (normalised.std() - 1).abs() < 1e-2


def _speech_like(count: int, seed: int, held_out: bool, *natural) -> list[LabelledUtterance]:
    """Tones of four pitches, each a class of its own: learnt within a few steps, and no synthesizer is needed."""
    rng = np.random.default_rng([seed, held_out])
    clips = []
    for _ in range(count):
        classes = rng.integers(0, 4, 20)
        hertz = np.repeat(np.array([0, 300, 900, 2500])[classes], 3200)
        tone = 8000 * np.sin(2 * np.pi * np.cumsum(hertz) / 16_000)
        clips.append(LabelledUtterance(tone.astype(np.int16), np.arange(20) * 3200, classes))
    return clips


@pytest.mark.parametrize("bfloat16", [False, True])
def test_the_loss_is_learned_from(bfloat16):
    clips = _speech_like(20, 0, False)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = PhoneticEncoder()
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=1e-3)
    rng, losses = np.random.default_rng(0), []
    for _ in range(25):
        loss = training.phoneme_loss(encoder, *training.batch(training.mix(clips, []), 2, rng), bfloat16)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < 0.5 * losses[0]


def test_a_run_goes_on_where_it_stopped_and_writes_what_it_did(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "utterances", _speech_like)
    state = torch.get_rng_state()
    training.run(0.01, tmp_path, count=20, batch_size=2)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone

    file = tmp_path / "phonetic.state.pt"
    torch.save({**torch.load(file, weights_only=True), "step": 1000, "seconds": 60.0}, file)
    training.run(1.005, tmp_path, count=20, batch_size=2)
    resumed = torch.load(file, weights_only=True)
    assert resumed["step"] > 1000 and 1.005 * 60 <= resumed["seconds"] < 70

    encoder = load_phonetic(tmp_path / "phonetic.safetensors")
    assert all(torch.equal(mine, its) for mine, its in zip(encoder.parameters(), resumed["parameters"]))
    made = facts_of(tmp_path / "phonetic.safetensors")
    assert made["steps"] == resumed["step"] and made["seed"] == 0 and "clean" in made["held_out"]


def test_an_interrupted_run_gives_the_weights_of_an_uninterrupted_one(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "utterances", _speech_like)
    loss = training.phoneme_loss

    def trained(folder: str, stop_at: int | None = None) -> dict:
        monkeypatch.setattr(training, "LoopSettings", partial(LoopSettings, steps=5, save_minutes=0.0))
        calls = count()

        def stopping(*arguments):
            if next(calls) == stop_at:
                raise KeyboardInterrupt
            return loss(*arguments)

        monkeypatch.setattr(training, "phoneme_loss", stopping)
        training.run(1, tmp_path / folder, count=10, batch_size=2)
        return load_file(tmp_path / folder / "phonetic.safetensors")

    whole = trained("whole")
    with pytest.raises(KeyboardInterrupt):
        trained("parts", stop_at=3)
    resumed = trained("parts")
    assert all(torch.equal(resumed[name], value) for name, value in whole.items())


def test_files_of_an_earlier_version_are_read(tmp_path):
    """They had facts where the configuration is now."""
    encoder = PhoneticEncoder()
    save_file(encoder.state_dict(), tmp_path / "old.safetensors", {"phonetic": json.dumps({"seed": 3, "steps": 7})})
    again = load_phonetic(tmp_path / "old.safetensors")
    assert torch.equal(again.merge.weight, encoder.merge.weight) and not again.training
    assert facts_of(tmp_path / "old.safetensors") == {"phonetic": {"seed": 3, "steps": 7}}


def test_a_run_may_go_on_from_given_weights(tmp_path, monkeypatch):
    """After no time at all the weights are the given ones, bands included; a new run's are not; a little later they
    moved."""
    monkeypatch.setattr(training, "utterances", _speech_like)
    given = tmp_path / "given"
    training.run(0, given, seed=5, count=10, batch_size=2)
    weights = load_file(given / "phonetic.safetensors")

    def begun(name: str, minutes: float, init) -> dict:
        training.run(minutes, tmp_path / name, seed=6, count=10, batch_size=2, init=init)
        return load_file(tmp_path / name / "phonetic.safetensors")

    same, anew = begun("same", 0, given / "phonetic.safetensors"), begun("anew", 0, None)
    moved = begun("moved", 0.005, given / "phonetic.safetensors")
    for key, value in weights.items():
        assert torch.equal(same[key], value)
    for key in ("mel_mean", "merge.weight"):
        assert not torch.equal(anew[key], weights[key])
    assert not torch.equal(moved["merge.weight"], weights["merge.weight"])
    assert torch.equal(moved["mel_mean"], weights["mel_mean"])
    training.run(
        0.005, tmp_path / "moved", seed=6, count=10, batch_size=2, init=given / "phonetic.safetensors", share=0.25
    )
    halfway = load_file(tmp_path / "moved" / "phonetic.safetensors")["merge.weight"]
    torch.testing.assert_close(halfway, torch.lerp(weights["merge.weight"], moved["merge.weight"], 0.25))
    assert "--share 0.25" in facts_of(tmp_path / "moved" / "phonetic.safetensors")["command"]
    assert "--init phonetic.safetensors" in facts_of(tmp_path / "moved" / "phonetic.safetensors")["command"]


def test_the_shipped_encoder_is_one_to_go_on_from():
    encoder = training.load_encoder("mini")
    assert encoder.training and all(p.requires_grad and p.dtype == torch.float32 for p in encoder.parameters())


def test_other_files_are_not_gone_on_from(tmp_path):
    (tmp_path / "broken.safetensors").write_bytes(b"nothing of the kind")
    for name in ("missing", "broken"):
        with pytest.raises(CheckpointError, match=f"{name}.safetensors"):
            training.load_encoder(tmp_path / f"{name}.safetensors")
