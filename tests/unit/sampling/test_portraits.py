"""Portraits from embeddings alone, and identity-only videos that begin with them."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core import pipeline
from starcaster_core.identity_only import SIDE, draw_identity, with_drawn_portrait
from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.portraits import draw_portraits
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.training.image_model import image_config
from starcaster_core.types import Identity

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model():
    return random_model(replace(TINY, image_model=image_config(TINY))).eval().requires_grad_(False)


def person(number: int) -> np.ndarray:
    return np.random.default_rng(number).normal(size=128).astype(np.float32)


def photo(number: int) -> np.ndarray:
    return np.random.default_rng(number).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def embeddings(*numbers: int) -> torch.Tensor:
    return torch.from_numpy(np.stack([person(number) for number in numbers]))


def test_a_seed_gives_one_portrait_alone_or_among_others(model):
    alone, both = draw_portraits(model, embeddings(1), 7, steps=4), draw_portraits(model, embeddings(1, 2), 7, steps=4)
    assert both.shape == (2, 16, 1, 8, 8) and torch.isfinite(both).all()
    torch.testing.assert_close(both[:1], alone, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(both[0], both[1], atol=1e-2)
    assert not torch.allclose(draw_portraits(model, embeddings(1), 8, steps=4), alone, atol=1e-2)


def test_guidance_leads_away_from_nobody(model):
    nobody, plain, guided = (
        draw_portraits(model, embeddings(1), 0, steps=1, guidance_scale=scale) for scale in (0.0, 1.0, 2.0)
    )
    torch.testing.assert_close(guided, 2 * plain - nobody, rtol=1e-3, atol=1e-3)
    assert not torch.allclose(plain, nobody, atol=1e-3)


def test_it_stops_when_told(model):
    asked = []
    stop = lambda: asked.append(1) or len(asked) == 3  # noqa: E731
    assert draw_portraits(model, embeddings(1), 0, should_stop=stop) is None and len(asked) == 3


def test_an_identity_only_video_knows_nothing_of_the_photo(model):
    settings = SamplerSettings.of(model.config, use_reference=False, seed=3, steps=1)

    def frames(who: Identity, settings: SamplerSettings) -> torch.Tensor:
        return torch.cat(list(pipeline.generate_frames(model, Conditions(who, None, None, 17), settings)))

    one, other = (frames(Identity(person(1), photo(number)), settings) for number in (1, 2))
    assert torch.equal(one, other)
    assert torch.equal(one, frames(Identity(person(1)), replace(settings, use_reference=True)))  # nothing else to see
    drawn = draw_identity(model, Identity(person(1), photo(1)), 3)
    assert drawn.portrait.shape == (SIDE, SIDE, 3) and drawn.regions.shape == (3, 2)
    assert torch.equal(one, frames(drawn, replace(settings, use_reference=True)))
    seen = frames(Identity(person(1), photo(1)), replace(settings, use_reference=True))
    assert not torch.allclose(seen, one, atol=1e-3)


def test_a_model_without_an_image_model_goes_on_as_before(model):
    plain, settings = random_model(TINY), SamplerSettings.of(TINY, use_reference=False)
    conditions = Conditions(Identity(person(1), photo(1)), None, None, 2)
    assert with_drawn_portrait(plain, conditions, settings) == (conditions, settings)
    stopped = with_drawn_portrait(model, conditions, settings, should_stop=lambda: True)
    assert stopped == (conditions, settings)
