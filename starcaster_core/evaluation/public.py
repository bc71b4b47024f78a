"""Figures of the literature, for those who have the networks' published weights: a folder with any of FILES.

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
from . import frechet
from .footage import Take

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
        """file -> which figure it would give"""
        return {
            name: f"{meaning}; in the folder of `--public-weights`"
            for (name, meaning), found in zip(FILES.items(), (self.inception, self.i3d, self.arcface, self.syncnet))
            if found is None
        }


def load_public_weights(folder: Path) -> PublicWeights:
    """Whatever of FILES is in the folder. Raises CheckpointError for one that cannot be read."""
    from .lse import load_lse_net

    loaders = {FID_FILE: load_script, FVD_FILE: load_script, CSIM_FILE: load_onnx, LSE_FILE: load_lse_net}
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


def measure(takes: list[Take], weights: PublicWeights) -> dict:
    """FID over all frames and FVD over whole clips, of all kinds together; in the shape of `frechet.measure`."""
    results = {}
    if weights.inception is not None:
        results["fid"] = frechet.distances(
            takes,
            lambda take, version: of_inception(weights.inception, take.videos[version]),
            "Inception, 2048 a frame",
        )
    if weights.i3d is not None:
        shortest = min(len(take.clip.frames) for take in takes)
        results["fvd"] = frechet.distances(
            takes,
            lambda take, version: of_i3d(weights.i3d, take.videos[version][:shortest]),
            f"I3D, 400 a clip of {shortest} frames",
        )
    return {name: found for name, found in results.items() if found}


@torch.no_grad()
def of_inception(net, video: Tensor) -> np.ndarray:
    """uint8 [T, S, S, 3] -> [T, 2048]; the network resizes"""
    parts = (net(part.movedim(-1, 1), return_features=True) for part in video.split(BATCH))
    return torch.cat(list(parts)).numpy()


@torch.no_grad()
def of_i3d(net, video: Tensor) -> np.ndarray:
    """uint8 [T, S, S, 3] -> [1, 400]; the network resizes and rescales"""
    return net(video.movedim(-1, 0)[None].float(), rescale=True, resize=True, return_features=True).numpy()
