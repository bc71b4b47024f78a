"""Statistics: means with their uncertainty, correlation, lag, slope."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

MAX_LAG = 5  # frames either way in which a mouth may be late and still be found
RESAMPLES = 2000
STILL = 1e-5  # deviation of what does not move but for the rounding of float32


class Ratio(NamedTuple):
    """What a clip adds to a ratio of sums, such as right answers of all answers."""

    numerator: float
    denominator: float


def summary(values: list[float | Ratio], seed: int = 0) -> dict | None:
    """Return the mean over clips (of ratios, the ratio of the sums) and its uncertainty; None without a value.

    error, low, high: standard error and 95 % interval of a bootstrap over clips, None for one clip. clips: how many had
    a value.
    """
    pairs = np.array([value if isinstance(value, Ratio) else (value, 1.0) for value in values], np.float64)
    pairs = pairs[np.isfinite(pairs).all(axis=1) & (pairs[:, 1] > 0)] if len(pairs) else pairs
    if not len(pairs):
        return None
    result = {"mean": ratio(pairs.sum(axis=0)), "error": None, "low": None, "high": None, "clips": len(pairs)}
    if len(pairs) > 1:
        drawn = np.random.default_rng(seed).integers(len(pairs), size=(RESAMPLES, len(pairs)))
        means = ratio(pairs[drawn].sum(axis=1).T)
        low, high = np.percentile(means, [2.5, 97.5])
        result |= {"error": float(means.std()), "low": float(low), "high": float(high)}
    return {key: round(value, 5) if isinstance(value, float) else value for key, value in result.items()}


def ratio(sums: np.ndarray):
    quotient = sums[0] / sums[1]
    return quotient if quotient.ndim else float(quotient)


def correlate(a: np.ndarray, b: np.ndarray) -> float:
    """Return Pearson's correlation of two series, -1..1; 0 where one of them is constant."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.std() < STILL or b.std() < STILL:
        return 0.0
    return float(np.corrcoef(a, b)[0, 1])


def best_lag(measured: np.ndarray, truth: np.ndarray) -> int:
    """Return how many frames `measured` comes after `truth`, by the highest correlation within MAX_LAG."""

    def at(lag: int) -> float:
        if lag >= 0:
            return correlate(measured[lag:], truth[: len(truth) - lag])
        return correlate(measured[:lag], truth[-lag:])

    return max(range(-MAX_LAG, MAX_LAG + 1), key=at)


def slope(times: np.ndarray, values: np.ndarray) -> dict:
    """Fit a line by least squares: "slope" a unit of time and its standard "error" (None below three points).

    Values that are not finite are left out.
    """
    known = np.isfinite(values)
    x, y = np.asarray(times, np.float64)[known], np.asarray(values, np.float64)[known]
    if len(x) < 2:
        return {"slope": None, "error": None, "points": len(x)}
    spread = ((x - x.mean()) ** 2).sum()
    change = ((x - x.mean()) * (y - y.mean())).sum() / spread
    rest = y - y.mean() - change * (x - x.mean())
    error = float(np.sqrt((rest**2).sum() / (len(x) - 2) / spread)) if len(x) > 2 else None
    return {"slope": float(change), "error": error, "points": len(x)}
