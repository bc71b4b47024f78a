"""Another speech encoder in a trained model: what is heard stays the same."""

import copy
import sys
from dataclasses import replace

import pytest
import torch

from starcaster_core.models.checkpoint import random_model, read_checkpoint, save_checkpoint
from starcaster_core.models.phonetic import PhoneticEncoder, save_phonetic
from starcaster_core.presets import TINY
from starcaster_core.training import speech_transfer
from starcaster_core.training.loop import LoopSettings
from starcaster_core.training.speech_transfer import explained_variance, transfer


@pytest.fixture
def turned_features():
    """Pairs of features in which the second encoder says the same as the first in other words: a random rotation."""
    generator = torch.Generator().manual_seed(0)
    width = TINY.conditioning.speech_dim
    rotation = torch.linalg.qr(torch.randn(width, width, generator=generator)).Q
    old = [torch.randn(40, width, generator=generator) for _ in range(6)]
    return [(features, features @ rotation) for features in old]


def test_the_tokens_say_of_the_new_features_what_they_said_of_the_old(turned_features, tmp_path):
    model = random_model(TINY)
    before, encoder = copy.deepcopy(model.speech_tokens), copy.deepcopy(model.speech_encoder)
    untouched = copy.deepcopy(model.unet.state_dict())
    start = explained_variance(before, model.speech_tokens, turned_features)
    transfer(model, encoder, turned_features, LoopSettings(0, learning_rate=3e-3, steps=150, ema=0.9), tmp_path, seed=0)
    assert explained_variance(before, model.speech_tokens, turned_features) > 0.6 > 0 > start
    assert model.speech_encoder is encoder
    assert all(torch.equal(value, untouched[key]) for key, value in model.unet.state_dict().items())


@pytest.mark.parametrize("ship", [False, True])
def test_a_finished_model_that_hears_anew_is_shipped_with_what_made_it(turned_features, tmp_path, monkeypatch, ship):
    model = random_model(replace(TINY, steps=4, scheduler="lcm"))
    save_checkpoint(tmp_path / "before.safetensors", model, {"stage": {"student_steps": 4}})
    save_phonetic(tmp_path / "phonetic.safetensors", PhoneticEncoder(), {"steps": 7})
    monkeypatch.setattr(speech_transfer, "encode_by_both", lambda *_: turned_features)
    arguments = ["--model", str(tmp_path / "before.safetensors"), "--speech", str(tmp_path / "phonetic.safetensors")]
    arguments += ["--data", "clips", "--minutes", "0.001", "--out", str(tmp_path / "out" / "after.safetensors")]
    monkeypatch.setattr(sys, "argv", ["speech_transfer", *arguments, *["--ship"] * ship])
    speech_transfer.main()
    config, weights, provenance = read_checkpoint(tmp_path / "out" / "after.safetensors")
    assert config == model.config and provenance["speech_transfer"]["clips"] == len(turned_features)
    assert all(weight.dtype == (torch.float16 if ship else torch.float32) for weight in weights.values())
    assert ship == (provenance.get("stage") == {"student_steps": 4})
    assert ship == (provenance.get("speech_encoder") == {"steps": 7})
