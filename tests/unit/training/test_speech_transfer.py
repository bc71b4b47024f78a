"""Another speech encoder in a trained model: what is heard stays the same."""

import copy

import pytest
import torch

from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import TINY
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
