"""Level, loudness and log-mel spectra of 16 kHz sound, in frames of 40 ms (25 a second).

A video frame has FRAME_SAMPLES samples and MELS_PER_FRAME spectra.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

SAMPLE_RATE = 16_000
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms
MELS = 64
MELS_PER_FRAME = 4
FRAME_SAMPLES = HOP * MELS_PER_FRAME
NATIVE_FPS = SAMPLE_RATE / FRAME_SAMPLES  # 25

TARGET_LEVEL, SILENT_LEVEL = 0.1, 0.003  # RMS of loud frames after levelling; never amplify below this one


def levelling_gain(samples: Tensor) -> Tensor:
    """Return the factor that brings the loud parts of samples [N] to TARGET_LEVEL, at most +30 dB.

    Loud: the 95th percentile of the RMS over 40 ms.
    """
    whole = samples[: samples.shape[-1] // FRAME_SAMPLES * FRAME_SAMPLES]
    if whole.shape[-1] == 0:
        whole = nn.functional.pad(samples, (0, FRAME_SAMPLES - samples.shape[-1]))
    level = whole.reshape(-1, FRAME_SAMPLES).square().mean(-1).sqrt()
    loud = level.sort().values[int(0.95 * (len(level) - 1))]
    return TARGET_LEVEL / loud.clamp(min=SILENT_LEVEL)


def loudness(samples: Tensor) -> Tensor:
    """Return the RMS of each video frame, -80..0 dB of full scale mapped to 0..1: [B, T FRAME_SAMPLES] -> [B, T]."""
    frames = samples.reshape(samples.shape[0], -1, FRAME_SAMPLES)
    return 1 + torch.log10(frames.square().mean(-1) + 1e-8) / 8


def log_mel(samples: Tensor, window: Tensor, filters: Tensor) -> Tensor:
    """Return the log power in each mel band, float32 [B, N] -> [B, MELS, N / HOP].

    window: [WINDOW]. filters: of `mel_filters`. Spectrum m is centred on sample (m + 0.5) HOP, so that the spectra of a
    video frame are centred on it; beyond the ends is silence.
    """
    margin = (WINDOW - HOP) // 2
    padded = nn.functional.pad(samples, (margin, margin))
    spectrum = torch.stft(padded, WINDOW, HOP, window=window, center=False, return_complex=True)
    return torch.log(filters @ spectrum.abs().square() + 1e-5)


def mel_filters(lowest: float = 60.0, highest: float = 7600.0) -> Tensor:
    """Return triangles of equal width on the mel scale, m = 2595 log10(1 + f / 700), each of sum 1.

    lowest, highest: Hz. -> [MELS, WINDOW // 2 + 1]
    """
    to_mel = lambda f: 2595 * math.log10(1 + f / 700)  # noqa: E731
    edges = 700 * (10 ** (torch.linspace(to_mel(lowest), to_mel(highest), MELS + 2) / 2595) - 1)
    bins = torch.linspace(0, SAMPLE_RATE / 2, WINDOW // 2 + 1)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    weights = torch.minimum(rising, falling).clamp(min=0)
    # The lowest triangles are narrower than a bin and may miss all of them: those take the nearest bin.
    empty = weights.sum(1) < 1e-3
    nearest = (bins - edges[1:-1, None]).abs().argmin(1)
    weights[empty, nearest[empty]] = 1.0
    return weights / weights.sum(1, keepdim=True)
