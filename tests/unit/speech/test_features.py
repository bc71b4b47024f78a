"""Rows at one rate become rows at another without moving in time."""

from __future__ import annotations

import math

import pytest
import torch

from starcaster_core.speech.features import align_layers, resample_frames


@pytest.mark.parametrize("source_fps", [25.0, 49.95, 50.0, 100.0])
@pytest.mark.parametrize("fps", [12.0, 24.0, 25.0, 29.97, 60.0])
def test_a_ramp_of_seconds_stays_at_the_frame_centres(source_fps, fps):
    seconds = 4.0
    ramp = ((torch.arange(math.ceil(seconds * source_fps)) + 0.5) / source_fps)[:, None]
    frames = round(seconds * fps)
    expected = (torch.arange(frames) + 0.5) / fps
    got = resample_frames(ramp, source_fps, frames, fps)[:, 0]
    inside = (expected > ramp[0]) & (expected < ramp[-1])
    assert torch.allclose(got[inside], expected[inside], atol=1e-5)
    assert (got - expected).abs().max() < 0.5 / min(fps, source_fps) + 1e-5  # the ends: within half a frame


def test_same_rate_changes_nothing():
    features = torch.randn(10, 3)
    assert torch.equal(resample_frames(features, 25.0, 10, 25.0), features)


def test_ends_go_on():
    features = torch.randn(2, 3)
    assert torch.equal(resample_frames(features, 25.0, 9, 25.0)[5], features[-1])


def test_layers_lie_side_by_side_in_order():
    hidden = torch.arange(12.0)[:, None, None] * 1000 + torch.arange(768.0).expand(12, 200, 768)
    rows = align_layers(hidden, 50.0, 100, 25.0)
    assert rows.shape == (100, 9216)
    assert torch.equal(rows[50, 768:1536], 1000 + torch.arange(768.0))


def test_layers_keep_their_time():
    hidden = ((torch.arange(200) + 0.5) / 50.0)[None, :, None].expand(12, 200, 4)
    rows = align_layers(hidden, 50.0, 100, 25.0)
    expected = (torch.arange(100) + 0.5) / 25.0
    assert (rows - expected[:, None]).abs().max() < 1e-5
