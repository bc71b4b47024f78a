"""A long video that changes by a known amount a minute."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starcaster_core.errors import InputError
from starcaster_core.evaluation import drift, identity
from starcaster_core.evaluation.drift import LongVideo
from starcaster_core.evaluation.instruments import Instruments
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.sampling.settings import SamplerSettings


@pytest.fixture
def long_video(make_clip):
    """Two minutes, a frame a second kept: red rises by 30 levels a minute, blue falls by 12, a pattern fades."""
    seconds = torch.arange(120.0)
    video = torch.full((120, 64, 64, 3), 100.0)
    video[..., 0] += 0.5 * seconds[:, None, None]
    video[..., 2] -= 0.2 * seconds[:, None, None]
    pattern = (torch.arange(64)[:, None] + torch.arange(64)) % 2 * 2.0 - 1
    video += pattern[..., None] * (20 - seconds / 10)[:, None, None, None]
    truth = (100 + 20 * pattern[None, ..., None].expand(16, 64, 64, 3)).byte()
    return LongVideo(make_clip(frames=16), video.round().byte(), truth, 1.0)


def test_known_changes_are_found(long_video):
    series = drift.measure(long_video, Instruments())["series"]
    assert series["red"]["slope"] == pytest.approx(30, abs=0.3) and series["red"]["error"] < 0.1
    assert series["blue"]["slope"] == pytest.approx(-12, abs=0.3) and series["green"]["slope"] == pytest.approx(
        0, abs=0.1
    )
    assert series["green_std"]["slope"] == pytest.approx(-6, abs=0.3)
    # A checkerboard of +-a has a Laplacian of 8a everywhere.
    assert series["sharpness"]["truth"] == pytest.approx(160, rel=1e-3)
    assert series["sharpness"]["slope"] == pytest.approx(-8 * 6, rel=0.05)
    assert "identity" not in series


def test_a_face_that_leaves_the_person_and_is_lost(long_video, monkeypatch):
    pictures = iter(range(1000))
    wanted = long_video.clip.truth["embedding"]

    def embed_picture(picture):
        second = next(pictures)
        return None if 100 <= second < 120 else wanted + np.eye(128)[0] * (0.2 + second / 120)

    monkeypatch.setattr(identity, "embed_picture", embed_picture)
    gallery = {0: wanted, 1: wanted + np.eye(128)[1] * 0.7}
    found = drift.measure(long_video, Instruments(faces=True, gallery=gallery))
    face = found["series"]["identity"]
    assert face["slope"] == pytest.approx(0.5) and face["points"] == 100 and face["values"][100:] == [None] * 20
    assert found["stranger"] == pytest.approx(0.7) and found["times"][-1] == 119


def test_the_long_video_is_as_long_as_asked(make_clip):
    clips = [make_clip("spatial", 5), make_clip(number=1, frames=30), make_clip(number=2, frames=30)]
    model = load_checkpoint("tiny")
    long = drift.generate_long_video(model, clips, 1.8, SamplerSettings.of(model.config, steps=1))
    assert long.clip is clips[1] and long.video.shape == (45, 64, 64, 3) and long.truth.shape == (30, 64, 64, 3)
    with pytest.raises(InputError, match="speech"):
        drift.generate_long_video(model, clips[:1], 1.0, SamplerSettings())
