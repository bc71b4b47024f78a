"""The measure of what frames have of their neighbours: it sees temporal attention, and none where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import PRESETS

FRAMES = 6


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("temporal")


@pytest.fixture(scope="module")
def clips(clips):
    """Seen from the front, with little head motion."""
    camera = torch.eye(5).flatten().expand_as(clips.camera)
    return replace(clips, camera=camera, head_motion=0.1 * clips.head_motion)


@pytest.fixture
def model():
    config = replace(PRESETS["tiny"], chunk_frames=FRAMES, steps=2)
    return random_model(replace(config, extensions=replace(config.extensions, shared_noise=0.5))).eval()


def test_only_temporal_attention_spreads_noise_and_speech_to_the_neighbours(benchmark, clips, model):
    moving = benchmark.measure(model, clips, 0)
    assert moving["noise"] > 1e-3 and moving["speech"] > 1e-4
    for module in model.unet.motion_modules():
        torch.nn.init.zeros_(module.proj_out.weight)
        torch.nn.init.zeros_(module.proj_out.bias)
    alone = benchmark.measure(model, clips, 0)
    assert alone["noise"] == alone["speech"] == 0.0


def test_looking_back_is_what_the_two_seams_differ_by(benchmark, clips, model):
    row = benchmark.measure(model, clips, 0)
    assert row["seam"] != row["seam_without_context"]
    model.config = replace(model.config, context_frames=0)
    row = benchmark.measure(model, clips, 0)
    assert row["seam"] == row["seam_without_context"]


def test_a_jump_where_a_chunk_begins_is_a_seam(benchmark):
    truth = torch.zeros(12, 4, 4, 3)
    steady = torch.arange(12.0)[:, None, None, None].expand_as(truth)
    jump = steady + 5 * (torch.arange(12) >= 6)[:, None, None, None]
    assert benchmark.seam(benchmark.motion_error(steady, truth), 6) == pytest.approx(1)
    assert benchmark.seam(benchmark.motion_error(jump, truth), 6) == pytest.approx(6)
    assert benchmark.motion_error(steady, steady).max() == 0


def test_the_mean_of_equal_figures_has_no_interval(benchmark):
    assert benchmark.mean_and_interval([2.0, 2.0, 2.0]) == [2.0, 2.0, 2.0]
    mean, low, high = benchmark.mean_and_interval(list(np.arange(9.0)))
    assert mean == 4.0 and low < mean < high
