"""Metrics of the literature, by published networks whose weights the user has: a folder with any of FILES.

None of them ships with this project or is ever fetched. TorchScript files are run as TorchScript, ONNX files by
onnxruntime, the plain PyTorch file is read as weights only: no file can run Python of its own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import CheckpointError, MissingDependencyError
from ..models.judges.published_syncnet import load_published_syncnet
from . import frechet
from .videos import EvaluatedClip

FILES = {
    "inception-2015-12-05.pt": "FID: Inception-2048 as TorchScript (the one of StyleGAN2-ADA and later)",
    "i3d_torchscript.pt": "FVD: I3D of Kinetics-400 as TorchScript (the one of StyleGAN-V)",
    "arcface.onnx": "CSIM: an ArcFace that takes [1, 3, 112, 112], as ONNX (needs onnxruntime)",
    "syncnet_v2.model": "LSE-C and LSE-D: the weights of SyncNet by its authors",
}
FID_FILE, FVD_FILE, CSIM_FILE, LSE_FILE = FILES
BATCH = 16


@dataclass(frozen=True)
class PublicWeights:
    """What was found of FILES, loaded; None for each that was not."""

    inception: Callable | None = None
    i3d: Callable | None = None
    arcface: object | None = None
    syncnet: torch.nn.Module | None = None

    def missing(self) -> dict[str, str]:
        """Return which figure each file that was not found would give, by file name."""
        return {
            name: f"{meaning}; in the folder of `--public-weights`"
            for (name, meaning), found in zip(FILES.items(), (self.inception, self.i3d, self.arcface, self.syncnet))
            if found is None
        }


def load_public_weights(folder: Path) -> PublicWeights:
    """Load whichever of FILES are in the folder. Raises CheckpointError for one that cannot be read."""
    loaders = {FID_FILE: load_script, FVD_FILE: load_script, CSIM_FILE: load_onnx, LSE_FILE: load_published_syncnet}
    return PublicWeights(
        *(load(folder / name) if (folder / name).is_file() else None for name, load in loaders.items())
    )


def load_script(path: Path):
    try:
        return torch.jit.load(path, map_location="cpu").eval()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError("a TorchScript file", f"{path.name} ({reason})", "Get it again.") from None


def load_onnx(path: Path):
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            "the Python package onnxruntime", f"{error}", f"Install it with: pip install onnxruntime, for {path.name}."
        ) from error
    return onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])


def measure(evaluated_clips: list[EvaluatedClip], weights: PublicWeights) -> dict:
    """Measure FID over all frames and FVD over whole clips, of all kinds together; returns what `frechet.measure`
    does."""
    results = {}
    if weights.inception is not None:
        results["fid"] = frechet.distances(
            evaluated_clips,
            lambda evaluated, version: inception_features(weights.inception, evaluated.videos[version]),
            "Inception, 2048 a frame",
        )
    if weights.i3d is not None:
        shortest = min(len(evaluated.clip.frames) for evaluated in evaluated_clips)
        results["fvd"] = frechet.distances(
            evaluated_clips,
            lambda evaluated, version: i3d_features(weights.i3d, evaluated.videos[version][:shortest]),
            f"I3D, 400 a clip of {shortest} frames",
        )
    return {name: found for name, found in results.items() if found}


@torch.no_grad()
def inception_features(net, video: Tensor) -> np.ndarray:
    """Return features [T, 2048] of a video uint8 [T, S, S, 3]; the network resizes."""
    parts = (net(part.movedim(-1, 1), return_features=True) for part in video.split(BATCH))
    return torch.cat(list(parts)).numpy()


@torch.no_grad()
def i3d_features(net, video: Tensor) -> np.ndarray:
    """Return features [1, 400] of a video uint8 [T, S, S, 3]; the network resizes and rescales."""
    return net(video.movedim(-1, 0)[None].float(), rescale=True, resize=True, return_features=True).numpy()
