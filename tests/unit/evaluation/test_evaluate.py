"""The instruments read what they should: a known delay, a known camera, a known opening."""

from __future__ import annotations

import numpy as np
import pytest

from starcaster_core.data.shards import Clip
from starcaster_core.evaluation.evaluate import best_lag, correlate, lip_figures
from starcaster_core.evaluation.probe import true_readings


@pytest.mark.parametrize("lag", [-4, -1, 0, 3])
def test_an_imposed_delay_is_found(lag):
    truth = np.random.default_rng(0).normal(size=60)
    said = np.roll(truth, lag) + np.random.default_rng(1).normal(size=60) * 0.3
    assert best_lag(said, truth) == lag


def test_lips_that_follow_score_higher_than_lips_of_another_speech():
    rng = np.random.default_rng(0)
    truth = [rng.normal(size=(48, 3)) for _ in range(8)]
    said = [t + rng.normal(size=t.shape) * 0.2 for t in truth]
    figures = lip_figures(truth, said, truth)
    assert figures["correlation"]["mean"] > 0.9 > 0.5 > abs(figures["correlation_with_other_speech"]["mean"])
    assert figures["within_one_frame"] == 1


def test_a_still_mouth_correlates_with_nothing():
    assert correlate(np.zeros(10), np.arange(10.0)) == 0


def test_a_moved_camera_and_a_turned_head_are_read_alike():
    def turn(degrees):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])

    poses = np.repeat(np.eye(4)[None], 3, axis=0)
    poses[:, :3, 3] = [[2.7 * np.sin(np.radians(30)), 0, 2.7 * np.cos(np.radians(30))], [0, 0, 2.7], [0, 0, 2.7]]
    landmarks = np.zeros((3, 4, 2))
    landmarks[:, 1:, 1] = 4.0, -20.0, 20.0
    clip = Clip(
        "k",
        {"landmark_names": ["upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin"], "size": 128},
        np.zeros((3, 128, 128, 3), np.uint8),
        None,
        {
            "landmarks": landmarks,
            "world_from_cam": poses,
            # The head turned to its own left by 30 degrees is seen as by a camera 30 degrees to its right.
            "head_rotation": np.stack([np.eye(3), np.eye(3), turn(30)]),
        },
    )
    readings = true_readings(clip)
    np.testing.assert_allclose(readings[:, 1], [30, 0, -30], atol=1e-4)
    np.testing.assert_allclose(readings[:, 0], 4 / 128, atol=1e-6)
