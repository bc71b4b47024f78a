"""LSE-C and LSE-D: confidence and distance by the SyncNet of Chung & Zisserman (2016), with weights of the user's.

The faces are cut by the known landmarks, about as the authors' pipeline cuts those that its detector finds: values may
differ a little from that pipeline's, so read them beside those of the ground truth.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.shards import SAMPLE_RATE, Clip
from ..errors import CheckpointError
from .family import Figure, speaks

NAME, TITLE = "lse", "Lips and sound (LSE)"
FIGURES = {
    "lse_c": Figure("LSE-C", "", "high", "confidence of the published SyncNet"),
    "lse_d": Figure("LSE-D", "", "low", "its distance at the best delay"),
}
applies = speaks
WINDOW, REACH, SIDE = 5, 15, 224
MFCC_PER_FRAME, COEFFICIENTS = 4, 13
FRAME_LENGTH, FRAME_STEP, FFT, FILTERS, LIFTER, PREEMPHASIS = 400, 160, 512, 26, 22, 0.97


def layers(conv, norm, pool, plan) -> nn.Sequential:
    """plan: ("c", in, out, kernel, stride, padding) with its normalisation, or ("p", kernel, stride, padding)"""
    parts: list[nn.Module] = []
    for kind, *sizes in plan:
        if kind == "c":
            a, b, kernel, stride, padding = sizes
            parts += [conv(a, b, kernel, stride, padding), norm(b), nn.ReLU()]
        else:
            parts.append(pool(*sizes))
    return nn.Sequential(*parts)


HEARING = (
    ("c", 1, 64, 3, 1, 1),
    ("p", 1, 1, 0),
    ("c", 64, 192, 3, 1, 1),
    ("p", 3, (1, 2), 0),
    ("c", 192, 384, 3, 1, 1),
    ("c", 384, 256, 3, 1, 1),
    ("c", 256, 256, 3, 1, 1),
    ("p", 3, 2, 0),
    ("c", 256, 512, (5, 4), 1, 0),
)
SEEING = (
    ("c", 3, 96, (5, 7, 7), (1, 2, 2), 0),
    ("p", (1, 3, 3), (1, 2, 2), 0),
    ("c", 96, 256, (1, 5, 5), (1, 2, 2), (0, 1, 1)),
    ("p", (1, 3, 3), (1, 2, 2), (0, 1, 1)),
    ("c", 256, 256, (1, 3, 3), 1, (0, 1, 1)),
    ("c", 256, 256, (1, 3, 3), 1, (0, 1, 1)),
    ("c", 256, 256, (1, 3, 3), 1, (0, 1, 1)),
    ("p", (1, 3, 3), (1, 2, 2), 0),
    ("c", 256, 512, (1, 6, 6), 1, 0),
)


class PublishedSyncNet(nn.Module):
    """Names are those of the published file."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = layers(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, HEARING)
        self.netcnnlip = layers(nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, SEEING)
        self.netfcaud, self.netfclip = (
            nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)) for _ in range(2)
        )

    def see(self, faces: Tensor) -> Tensor:
        """[3, T, 224, 224], BGR in 0..255 -> [T - 4, 1024]"""
        return self.netfclip(self.netcnnlip(faces[None])[0, :, :, 0, 0].T)

    def hear(self, mfcc: Tensor) -> Tensor:
        """[13, 4 T] -> [T - 4, 1024]"""
        windows = mfcc.unfold(1, WINDOW * MFCC_PER_FRAME, MFCC_PER_FRAME).movedim(1, 0)
        return self.netfcaud(self.netcnnaud(windows[:, None])[..., 0, 0])


def load_lse_net(path: Path) -> PublishedSyncNet:
    """Raises CheckpointError for a file that is not this network's weights."""
    import pickle

    net = PublishedSyncNet()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError("the weights of SyncNet", f"{path.name} ({reason})", "Get it again.") from None
    return net.eval().requires_grad_(False)


def ready(instruments) -> bool:
    return instruments.public.syncnet is not None


@torch.no_grad()
def read(instruments, video: Tensor, clip: Clip) -> Tensor:
    """Features [W, 1024] of what is seen"""
    return instruments.public.syncnet.see(faces_of(video, clip))


@torch.no_grad()
def judge(instruments, seen: Tensor, asked: Clip) -> dict[str, float]:
    sound = np.zeros((len(seen) + WINDOW) * MFCC_PER_FRAME * FRAME_STEP, np.float32)
    given = asked.audio[: len(sound)]
    sound[: len(given)] = given
    spectra = torch.from_numpy(mfcc(np.round(sound * 32767)).T.astype(np.float32))
    heard = instruments.public.syncnet.hear(spectra)[: len(seen)]
    # As its authors do it: beyond the clip's ends the sound's features are nought.
    padded = F.pad(heard, (0, 0, REACH, REACH)).unfold(0, len(seen), 1).movedim(-1, 1)
    distances = F.pairwise_distance(seen[None].expand_as(padded), padded).mean(dim=1)
    least = distances.min()
    return {"lse_c": float(distances.median() - least), "lse_d": float(least)}


def wrong(clip: Clip, other: Clip) -> Clip:
    """The sound of another clip"""
    return replace(clip, audio=other.audio)


def faces_of(video: Tensor, clip: Clip) -> Tensor:
    """uint8 [T, S, S, 3] -> [3, T, 224, 224], BGR in 0..255: 2.8 times as large as half a face, its chin well inside"""
    names = clip.info["landmark_names"]
    points = torch.from_numpy(clip.truth["landmarks"]).float() / clip.info["size"]
    chin, nose = points[:, names.index("chin")], points[:, names.index("nose_bridge")]
    half = 0.8 * (chin - nose).norm(dim=1).mean()
    centre = torch.stack([(chin[:, 0] + nose[:, 0]) / 2, chin[:, 1] - half], dim=1)
    middle = centre + torch.tensor([0.0, 0.4]) * half
    theta = torch.zeros(len(video), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = 2.8 * half
    theta[:, :, 2] = 2 * middle - 1
    grid = F.affine_grid(theta, [len(video), 3, SIDE, SIDE], align_corners=False)
    frames = video.movedim(-1, 1).float().flip(1)
    return F.grid_sample(frames, grid, padding_mode="border", align_corners=False).movedim(1, 0)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """16 kHz samples of 16 bits [N] -> [about N / 160, 13]: the cepstra that the weights were trained on, 25 ms windows
    every 10 ms, 26 triangular mel filters, lifted by 22, the first one replaced by the energy's logarithm."""
    from scipy.fft import dct

    emphasised = np.append(samples[0], samples[1:] - PREEMPHASIS * samples[:-1])
    count = 1 + max(0, -(-(len(emphasised) - FRAME_LENGTH) // FRAME_STEP))
    emphasised = np.append(emphasised, np.zeros((count - 1) * FRAME_STEP + FRAME_LENGTH))
    frames = emphasised[np.arange(count)[:, None] * FRAME_STEP + np.arange(FRAME_LENGTH)]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    least = np.finfo(float).eps
    bands = np.log(np.maximum(power @ mel_triangles().T, least))
    cepstra = dct(bands, type=2, axis=1, norm="ortho")[:, :COEFFICIENTS]
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstra[:, 0] = np.log(np.maximum(power.sum(axis=1), least))
    return cepstra


def mel_triangles() -> np.ndarray:
    """[26, 257], corners at whole bins"""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), FILTERS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE)
    bins, (low, peak, high) = np.arange(FFT // 2 + 1), (corners[:-2, None], corners[1:-1, None], corners[2:, None])
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return np.where((bins >= low) & (bins < peak), rising, np.where((bins >= peak) & (bins < high), falling, 0))
