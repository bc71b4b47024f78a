"""The comparison of self-forcing with teacher forcing: what it varies, what it goes on from, what its figures say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core.evaluation.statistics import Ratio
from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import PRESETS, ExtensionsConfig
from starcaster_core.training.portrait import with_extensions
from starcaster_core.training.student import new_student

LENGTH, FRAMES = 12, 4


@pytest.fixture(scope="module")
def benchmark(load_benchmark):
    return load_benchmark("self_forcing")


def test_the_ways_differ_in_what_is_looked_back_at_and_in_nothing_else(benchmark):
    ours, teacher, longer = (replace(benchmark.stage_of(way), name="") for way in ("self", "teacher", "longer"))
    assert ours.self_forcing == 1 and ours.recursion == 2 and ours.reference == 0 and ours.context == 1
    assert replace(ours, self_forcing=0.0) == teacher
    assert replace(ours, context_frames=(2, 8)) == longer


def test_a_clip_repeats_and_is_continued_from_its_end(benchmark, clips):
    batch = benchmark.long_batch(clips, 1, 2 * LENGTH, window=2)
    once = clips.latents[1].transpose(0, 1)
    assert torch.equal(batch.latents[0], torch.cat([once, once], dim=1))
    assert torch.equal(batch.context[0], once[:, -2:])
    assert torch.equal(batch.speech[0], clips.speech[1, torch.arange(-2, 2 * LENGTH + 2) % LENGTH])


def test_every_chunk_looks_back_at_the_one_before_and_the_first_at_the_clip(benchmark, clips, monkeypatch):
    config = replace(PRESETS["tiny"], chunk_frames=FRAMES)
    model = with_extensions(random_model(config), ExtensionsConfig())
    model = new_student(model, benchmark.stage_of("self")).eval().requires_grad_(False)
    shown, real = [], type(model.unet).cache_frames
    monkeypatch.setattr(type(model.unet), "cache_frames", lambda self, x, who: shown.append(x) or real(self, x, who))
    video = benchmark.continued(model, clips, 1, seconds=2 * FRAMES / config.fps)
    assert video.shape == (2 * FRAMES, 64, 64, 3) and 0 <= video.min() and 1 < video.max() <= 255
    assert torch.equal(shown[0][0], clips.latents[1, -2:].transpose(0, 1))
    for looked_back_at, chunk in zip(shown[1:], video.split(FRAMES)):
        torch.testing.assert_close(model.decode_frames(looked_back_at) * 255, chunk[-2:], rtol=0.05, atol=3.0)


def test_figures_of_the_clip_itself_and_of_a_brighter_still_one(benchmark):
    class Probe:
        def read(self, frames):
            return np.stack([frames.mean((1, 2, 3)).numpy()] * 3, axis=1)

    truth = torch.rand(6, 16, 16, 3, generator=torch.Generator().manual_seed(0)) * 200
    same = benchmark.figures(truth, truth, Probe())
    pose = same.pop("pose")
    assert (
        same == {"colour": 0.0, "picture": 0.0, "sharpness": pytest.approx(1.0)}
        and pose.numerator == pose.denominator > 0
    )
    still = truth.mean(dim=0).expand_as(truth) + 10
    other = benchmark.figures(still, truth, Probe())
    assert other["colour"] == pytest.approx(10, abs=1e-3) and other["picture"] == pytest.approx(10, abs=1e-3)
    assert other["sharpness"] < 0.9 and other["pose"].numerator == pytest.approx(0, abs=1e-6)


def test_differences_are_those_of_each_clip(benchmark):
    def measured(first: list[float]) -> dict:
        clip = [{name: Ratio(v, 1.0) if name == "pose" else v for name in benchmark.FIGURES} for v in first]
        return {"first": clip, "last": clip}

    found = benchmark.differences(measured([1.0, 20.0, 300.0]), measured([2.0, 21.0, 301.0]))
    assert {figure["mean"] for by in found.values() for figure in by.values()} == {-1.0}
    assert found["last"]["pose"]["low"] == found["last"]["pose"]["high"] == -1.0
