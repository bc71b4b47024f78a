"""Frames drawn for training: alone where frames know nothing of each other, else within a whole chunk."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.settings import Conditions
from starcaster_core.training.decoder_pairs import draw_frames
from starcaster_core.types import Identity

CHUNK = 6


@pytest.fixture(params=["motion", "no motion"])
def model(request):
    model = random_model(replace(PRESETS["tiny"], chunk_frames=CHUNK, steps=2)).eval().requires_grad_(False)
    if request.param == "no motion":
        for module in model.unet.motion_modules():
            torch.nn.init.zeros_(module.proj_out.weight)
            torch.nn.init.zeros_(module.proj_out.bias)
    return model


def conditions(frames: int) -> Conditions:
    portrait = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    return Conditions(Identity(np.zeros(128, np.float32), portrait), None, None, frames, torch.zeros(frames, 7))


def test_a_few_frames_are_the_beginning_of_a_chunk_that_goes_on_as_it_ends(model):
    few = draw_frames(model, conditions(2), seed=3)
    whole = draw_frames(model, conditions(CHUNK), seed=3)
    assert few.shape[0] == 2 and model.config.chunk_frames == CHUNK
    if not all(module.is_untrained() for module in model.unet.motion_modules()):
        assert np.array_equal(few, whole[:2])


def test_all_steps_done_leave_the_frames_that_they_began_with(model):
    targets = np.random.default_rng(1).integers(0, 255, (2, 64, 64, 3), np.uint8)
    drawn = draw_frames(model, conditions(2), seed=3, targets=targets, start=2)
    decoded = model.decode_frames(model.encode_frames(torch.from_numpy(targets).float() / 255))
    assert np.abs(drawn - 255 * decoded.numpy()).max() < 1


def test_longer_than_a_chunk_is_for_frames_that_know_nothing_of_each_other(model):
    if all(module.is_untrained() for module in model.unet.motion_modules()):
        assert len(draw_frames(model, conditions(CHUNK + 1), seed=3)) == CHUNK + 1
    else:
        with pytest.raises(ValueError, match="at most 6"):
            draw_frames(model, conditions(CHUNK + 1), seed=3)
