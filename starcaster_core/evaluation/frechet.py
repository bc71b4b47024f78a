"""Frechet distances between the features of generated and of true frames.

The features are those of this project's instruments; each distance names them and the number of samples. With few
samples every Frechet distance is too large, so it stands beside that of one half of the true clips to the other half.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from . import identity
from .metric import has_speech, mouth_boxes, to_float
from .videos import VERSIONS, EvaluatedClip

HALVES = "truth"  # the column of the true clips' two halves


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Return |mean_a - mean_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^1/2) of samples [N, D] and [M, D], N, M > 1.

    With C_a = A'A, C_b = B'B the trace of the root is the sum of the singular values of A B', which stays exact where
    the covariances have no full rank, as with fewer samples than dimensions.
    """
    (mean_a, root_a), (mean_b, root_b) = moments(a), moments(b)
    cross = np.linalg.svd(root_a @ root_b.T, compute_uv=False).sum()
    distance = ((mean_a - mean_b) ** 2).sum() + (root_a**2).sum() + (root_b**2).sum() - 2 * cross
    return max(0.0, float(distance))  # equal clouds end a rounding error below


def moments(samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean [D] and a root R of the covariance, R'R = C, [min(N, D), D]."""
    samples = np.asarray(samples, np.float64)
    mean = samples.mean(axis=0)
    return mean, np.linalg.qr((samples - mean) / (len(samples) - 1) ** 0.5, mode="r")


def compare(clouds: list[np.ndarray], true: list[np.ndarray]) -> dict | None:
    """Return the distance of features, one array [n, D] a clip, to those of the true clips; None for fewer than two
    samples."""
    samples = sum(map(len, clouds))
    if samples < 2 or sum(map(len, true)) < 2:
        return None
    distance = frechet_distance(np.concatenate(clouds), np.concatenate(true))
    return {"mean": distance, "error": None, "clips": len(clouds), "samples": samples}


def jackknife(clouds: list[np.ndarray], true: list[np.ndarray]) -> float | None:
    """Return the jackknife standard error over the clips, each left out of both sides; None where too few are left.

    A bootstrap would repeat clips, which narrows the distribution of so few samples.
    """
    without = [compare(clouds[:i] + clouds[i + 1 :], true[:i] + true[i + 1 :]) for i in range(len(clouds))]
    if len(without) < 3 or None in without:
        return None
    return float(np.sqrt((len(without) - 1) * np.var([left["mean"] for left in without])))


def distances(
    evaluated_clips: list[EvaluatedClip], features: Callable[[EvaluatedClip, str], np.ndarray], meaning: str
) -> dict | None:
    """Return the distance to the truth by version; under HALVES that of every other true clip to the rest."""
    clouds = {version: [features(evaluated, version) for evaluated in evaluated_clips] for version in VERSIONS}
    true = clouds[HALVES]
    found = {"features": meaning, HALVES: compare(true[::2], true[1::2]) if len(evaluated_clips) > 1 else None}
    for version in (name for name in VERSIONS if name != HALVES):
        found[version] = compare(clouds[version], true)
        if found[version]:
            found[version]["error"] = jackknife(clouds[version], true)
    return found if found["generated"] else None


def measure(evaluated_clips: list[EvaluatedClip], instruments) -> dict:
    """Measure all distances: name -> {"features": what they are, version -> {"mean", "error", "clips", "samples"}}."""
    speaking, results = [evaluated for evaluated in evaluated_clips if has_speech(evaluated.clip)], {}
    if instruments.probe is not None:
        results["frames"] = distances(
            evaluated_clips,
            lambda evaluated, version: probe_features(instruments.probe, evaluated, version),
            "the probe's last layer, 256 a frame",
        )
    if instruments.lipreader is not None and speaking:
        results["lips"] = distances(
            speaking,
            lambda evaluated, version: lip_features(instruments.lipreader, evaluated, version),
            "the lip reader's features, 128 a frame, over seven frames",
        )
    if instruments.faces:
        results["faces"] = distances(
            evaluated_clips,
            face_features,
            f"dlib's embeddings, 128 a face, {identity.FRAMES_A_CLIP} frames a clip at most",
        )
    return {name: found for name, found in results.items() if found}


@torch.no_grad()
def probe_features(probe, evaluated: EvaluatedClip, version: str) -> np.ndarray:
    return probe.features(evaluated.videos[version].float() / 255)


@torch.no_grad()
def lip_features(reader, evaluated: EvaluatedClip, version: str) -> np.ndarray:
    return reader.features(to_float(evaluated.videos[version]), mouth_boxes(evaluated.clip))[0].numpy()


def face_features(evaluated: EvaluatedClip, version: str) -> np.ndarray:
    return identity.extract(None, evaluated.videos[version], evaluated.clip).embeddings
