"""Frechet distances against closed forms, also where samples are fewer than dimensions."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starcaster_core.evaluation import frechet
from starcaster_core.evaluation.instruments import Instruments
from starcaster_core.evaluation.videos import VERSIONS, EvaluatedClip


def cloud(mean, deviations, count=400, seed=0) -> np.ndarray:
    """Samples [count, D] that have just this mean and these standard deviations, uncorrelated"""
    x = np.random.default_rng(seed).normal(size=(count, len(mean)))
    x -= x.mean(axis=0)
    u, _, _ = np.linalg.svd(x, full_matrices=False)
    return u * (count - 1) ** 0.5 * deviations + mean


def test_gaussians_have_the_distance_of_the_closed_form():
    a, b = cloud([0, 0, 0], [1, 2, 3]), cloud([1, 0, -2], [2, 2, 0.5], seed=1)
    assert frechet.frechet_distance(a, b) == pytest.approx(1 + 4 + (1 - 2) ** 2 + 0 + (3 - 0.5) ** 2)


def test_equal_clouds_are_at_no_distance():
    a = np.random.default_rng(0).normal(size=(20, 128))
    assert frechet.frechet_distance(a, a[::-1]) == pytest.approx(0, abs=1e-9)


def test_the_root_agrees_with_that_of_scipy():
    linalg = pytest.importorskip("scipy.linalg")
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)), rng.normal(size=(90, 6)) + 1
    covariances = np.cov(a.T), np.cov(b.T)
    root = linalg.sqrtm(covariances[0] @ covariances[1]).real
    expected = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(covariances[0] + covariances[1] - 2 * root)
    assert frechet.frechet_distance(a, b) == pytest.approx(expected, rel=1e-6)


def test_with_fewer_samples_than_dimensions_it_is_still_right():
    """Clouds in two planes that have nothing in common: the cross term is nought."""
    a, b = np.zeros((10, 64)), np.zeros((12, 64))
    a[:, :2], b[:, 2:4] = cloud([0, 0], [1, 2], 10), cloud([0, 0], [3, 1], 12)
    assert frechet.frechet_distance(a, b) == pytest.approx(1 + 4 + 9 + 1)


def test_the_jackknife_error_is_that_of_repeated_draws():
    rng = np.random.default_rng(0)
    draws = [[rng.normal(size=(30, 2)) + rng.normal() for _ in range(12)] for _ in range(60)]
    true = [rng.normal(size=(30, 2)) - 4 for _ in range(12)]
    spread = np.std([frechet.compare(draw, true)["mean"] for draw in draws])
    errors = [frechet.jackknife(draw, true) for draw in draws[:12]]
    assert np.mean(errors) == pytest.approx(spread, rel=0.35)
    assert frechet.jackknife(draws[0][:2], true[:2]) is None


def test_versions_stand_beside_the_two_halves_of_the_truth(make_clip):
    class Brightness:
        def features(self, frames):
            return frames.mean(dim=(1, 2)).numpy()

    evaluated_clips = []
    for number in range(6):
        clip = make_clip(number=number)
        truth = torch.from_numpy(clip.frames)
        videos = (truth // 2, truth, truth, truth[:1].expand(truth.shape))
        evaluated_clips.append(EvaluatedClip(clip, dict(zip(VERSIONS, videos))))
    found = frechet.measure(evaluated_clips, Instruments(probe=Brightness()))
    assert set(found) == {"frames"} and set(found["frames"]) == {"features", *VERSIONS}
    frames = found["frames"]
    assert frames["decoded"]["mean"] == pytest.approx(0, abs=1e-9)
    assert frames["generated"]["mean"] > 3 * frames["truth"]["mean"] > 1e-5 and frames["truth"]["samples"] == 3 * 32
    assert frames["generated"]["samples"] == 6 * 32 and frames["generated"]["error"] > 0
