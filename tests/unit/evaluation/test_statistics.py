"""Means with their uncertainty, shares, delays and slopes, on numbers whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from starcaster_core.evaluation.statistics import Ratio, best_lag, correlate, slope, summary


@pytest.mark.parametrize("lag", [-4, -1, 0, 3])
def test_an_imposed_delay_is_found(lag):
    truth = np.random.default_rng(0).normal(size=60)
    said = np.roll(truth, lag) + np.random.default_rng(1).normal(size=60) * 0.3
    assert best_lag(said, truth) == lag


def test_a_still_mouth_correlates_with_nothing():
    assert correlate(np.zeros(10), np.arange(10.0)) == 0
    rounded = np.float32(30) + np.array([0, 1, 0, 0], np.float32) * np.float32(2e-6)
    assert correlate(rounded, np.arange(4.0)) == 0


def test_the_bootstrap_agrees_with_the_textbook():
    values = np.random.default_rng(0).normal(3, 2, 50)
    found = summary(list(values))
    error = values.std(ddof=1) / 50**0.5
    assert found["mean"] == pytest.approx(values.mean(), abs=1e-4) and found["clips"] == 50
    assert found["error"] == pytest.approx(error, rel=0.08)
    assert found["low"] == pytest.approx(values.mean() - 1.96 * error, abs=0.1)
    assert found["high"] == pytest.approx(values.mean() + 1.96 * error, abs=0.1)
    assert found == summary(list(values)) and found != summary(list(values), seed=1)


def test_shares_are_added_before_they_are_divided():
    assert summary([Ratio(1, 2), Ratio(0, 8)])["mean"] == 0.1


def test_what_has_no_value_does_not_count():
    assert summary([]) is None and summary([float("nan")]) is None and summary([Ratio(0, 0)]) is None
    assert summary([2.0, float("nan")]) == {"mean": 2.0, "error": None, "low": None, "high": None, "clips": 1}


def test_the_slope_of_a_known_line_and_its_error():
    times = np.linspace(0, 1, 200)
    noise = np.random.default_rng(0).normal(0, 0.1, 200)
    values = 5 - 2 * times + noise
    values[::10] = np.nan
    found = slope(times, values)
    expected = 0.1 / (180**0.5 * times.std())
    assert found["points"] == 180 and found["error"] == pytest.approx(expected, rel=0.15)
    assert abs(found["slope"] + 2) < 3 * found["error"]
    assert slope(times, np.full(200, np.nan)) == {"slope": None, "error": None, "points": 0}
