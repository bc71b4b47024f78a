"""The SyncNet of Chung & Zisserman 2016 as its authors published it, for LSE-C and LSE-D. The weights are the
user's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...conventions import SAMPLE_RATE
from ...errors import CheckpointError

WINDOW, SIDE = 5, 224  # frames of an embedding; pixels
MFCC_PER_FRAME, COEFFICIENTS = 4, 13
FRAME_LENGTH, FRAME_STEP, FFT, FILTERS, LIFTER, PREEMPHASIS = 400, 160, 512, 26, 22, 0.97


def layers(conv, norm, pool, plan) -> nn.Sequential:
    """Build convolutions and pooling: ("c", in, out, kernel, stride, padding) or ("p", kernel, stride, padding)."""
    parts: list[nn.Module] = []
    for kind, *sizes in plan:
        if kind == "c":
            a, b, kernel, stride, padding = sizes
            parts += [conv(a, b, kernel, stride, padding), norm(b), nn.ReLU()]
        else:
            parts.append(pool(*sizes))
    return nn.Sequential(*parts)


AUDIO_LAYERS = (
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
VIDEO_LAYERS = (
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
    """The network of the paper; submodules have the names of the published file."""

    def __init__(self):
        super().__init__()
        self.netcnnaud = layers(nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, AUDIO_LAYERS)
        self.netcnnlip = layers(nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d, VIDEO_LAYERS)
        self.netfcaud, self.netfclip = (
            nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024)) for _ in range(2)
        )

    def embed_video(self, faces: Tensor) -> Tensor:
        """Embed faces [3, T, 224, 224], BGR in 0..255 -> [T - 4, 1024]."""
        return self.netfclip(self.netcnnlip(faces[None])[0, :, :, 0, 0].T)

    def embed_audio(self, mfcc: Tensor) -> Tensor:
        """Embed cepstra [13, 4 T] -> [T - 4, 1024]."""
        windows = mfcc.unfold(1, WINDOW * MFCC_PER_FRAME, MFCC_PER_FRAME).movedim(1, 0)
        return self.netfcaud(self.netcnnaud(windows[:, None])[..., 0, 0])


def load_published_syncnet(path: Path) -> PublishedSyncNet:
    """Read the published weights. Raises CheckpointError for another file."""
    import pickle

    net = PublishedSyncNet()
    try:
        net.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (pickle.UnpicklingError, RuntimeError, TypeError, AttributeError, EOFError) as error:
        reason = str(error).strip().splitlines()[0]
        raise CheckpointError("the weights of SyncNet", f"{path.name} ({reason})", "Get it again.") from None
    return net.eval().requires_grad_(False)


def mfcc(samples: np.ndarray) -> np.ndarray:
    """Return the cepstra that the weights were trained on, [about N / 160, 13], of 16 kHz samples [N] of 16 bits.

    Windows of 25 ms every 10 ms, 26 triangular mel filters, lifted by 22, the first one replaced by the energy's
    logarithm.
    """
    from scipy.fft import dct

    emphasised = np.append(samples[0], samples[1:] - PREEMPHASIS * samples[:-1])
    count = 1 + max(0, -(-(len(emphasised) - FRAME_LENGTH) // FRAME_STEP))
    emphasised = np.append(emphasised, np.zeros((count - 1) * FRAME_STEP + FRAME_LENGTH))
    frames = emphasised[np.arange(count)[:, None] * FRAME_STEP + np.arange(FRAME_LENGTH)]
    power = np.abs(np.fft.rfft(frames, FFT)) ** 2 / FFT
    least = np.finfo(float).eps
    bands = np.log(np.maximum(power @ mel_triangles().T, least))
    cepstra = np.asarray(dct(bands, type=2, axis=1, norm="ortho"))[:, :COEFFICIENTS]
    cepstra *= 1 + LIFTER / 2 * np.sin(np.pi * np.arange(COEFFICIENTS) / LIFTER)
    cepstra[:, 0] = np.log(np.maximum(power.sum(axis=1), least))
    return cepstra


def mel_triangles() -> np.ndarray:
    """Return the mel filters, [26, 257], with their corners at whole bins."""
    mels = np.linspace(0, 2595 * np.log10(1 + SAMPLE_RATE / 2 / 700), FILTERS + 2)
    corners = np.floor((FFT + 1) * 700 * (10 ** (mels / 2595) - 1) / SAMPLE_RATE)
    bins, (low, peak, high) = np.arange(FFT // 2 + 1), (corners[:-2, None], corners[1:-1, None], corners[2:, None])
    rising, falling = (bins - low) / (peak - low), (high - bins) / (high - peak)
    return np.where((bins >= low) & (bins < peak), rising, np.where((bins >= peak) & (bins < high), falling, 0))
