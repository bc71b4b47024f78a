"""The project's own speech encoder: 16 kHz sound -> 64 numbers a video frame that say which sound is being made.

Log-mel spectrum at 100 Hz, convolutions, four spectra merged into one video frame (25 a second), convolutions. Nothing
is padded inside: every output depends on exactly `CONTEXT` video frames of sound on either side (0.28 s and a
spectrum's half window), and what lies beyond the recording is silence. So a recording encoded in pieces gives what it
gives whole, at any length, in flat memory.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from ..types import DEFAULT_FPS, Speech
from .features import resample_frames

SAMPLE_RATE = 16_000
HOP = 160  # 10 ms
WINDOW = 400  # 25 ms
MELS = 64
MELS_PER_FRAME = 4
NATIVE_FPS = SAMPLE_RATE / (HOP * MELS_PER_FRAME)  # 25
FRAME_SAMPLES = HOP * MELS_PER_FRAME
FEATURES = 64
CLASSES = 41  # the phonemes of data/phonemes.py; only training and inspection look at them
CONTEXT = 7  # video frames on either side: 12 spectra = 3 frames, then 4 frames

TARGET_LEVEL, SILENT_LEVEL = 0.1, 0.003  # RMS of loud frames after levelling; never amplify below this one


class PhoneticEncoder(nn.Module):
    """Sound -> features, and phoneme logits for training it. About 0.9 M parameters."""

    def __init__(self, width: int = 160, frame_width: int = 192):
        super().__init__()
        self.register_buffer("window", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("mel", mel_filters(), persistent=False)
        self.register_buffer("mel_mean", torch.full((MELS, 1), -6.0))  # of levelled speech; training measures them
        self.register_buffer("mel_std", torch.full((MELS, 1), 4.0))
        self.spectra = nn.Sequential(
            nn.Conv1d(MELS, width, 5), Residual(width, 2), Residual(width, 4), Residual(width, 4)
        )
        self.merge = nn.Conv1d(width, frame_width, MELS_PER_FRAME, stride=MELS_PER_FRAME)
        self.frames = nn.Sequential(Residual(frame_width, 1), Residual(frame_width, 1), Residual(frame_width, 2))
        self.to_features = nn.Conv1d(frame_width, FEATURES - 1, 1)
        self.to_logits = nn.Conv1d(FEATURES, CLASSES, 1)

    def forward(self, samples: Tensor) -> tuple[Tensor, Tensor]:
        """samples [B, (T + 2 CONTEXT) FRAME_SAMPLES], levelled -> features [B, T, 64] and logits [B, T, CLASSES].

        Output frame t covers input samples from (t + CONTEXT) FRAME_SAMPLES, for FRAME_SAMPLES.
        features: 63 in -1..1, then the loudness, 0 at -80 dB and 1 at 0 dB of full scale.
        """
        hidden = self.spectra((self.log_mel(samples) - self.mel_mean) / self.mel_std)
        hidden = self.frames(self.merge(hidden))

        phonetic = torch.tanh(self.to_features(hidden))
        features = torch.cat([phonetic, loudness(samples)[:, None].to(phonetic.dtype)], dim=1)
        return features.transpose(1, 2), self.to_logits(features).transpose(1, 2)

    def log_mel(self, samples: Tensor) -> Tensor:
        """[B, N] -> [B, MELS, N / HOP]: log of the power in each band; spectrum m is centred on (m + 0.5) HOP."""
        margin = (WINDOW - HOP) // 2  # so that the four spectra of a video frame are centred on it
        with torch.autocast(samples.device.type, enabled=False):
            padded = nn.functional.pad(samples, (margin, margin))
            spectrum = torch.stft(padded, WINDOW, HOP, window=self.window, center=False, return_complex=True)
            return torch.log(self.mel @ spectrum.abs().square() + 1e-5)

    @torch.no_grad()
    def encode(self, samples: Tensor, fps: float = DEFAULT_FPS, window_frames: int = 1500) -> Speech:
        """16 kHz mono samples [N] in -1..1 -> Speech of T = max(1, round(N / 16000 * fps)) frames.

        The level of the whole recording is evened out first. `window_frames` (at 25 fps) bounds the memory and does
        not change the result.
        """
        seconds = samples.shape[-1] / SAMPLE_RATE
        frames = max(1, round(seconds * fps))
        features = torch.cat([features for features, _ in self._windows(samples, window_frames)])
        return Speech(resample_frames(features, NATIVE_FPS, frames, fps), seconds, "phonetic", fps)

    @torch.no_grad()
    def phonemes(self, samples: Tensor, window_frames: int = 1500) -> Tensor:
        """16 kHz mono samples [N] -> the likeliest phoneme class of each 25th of a second, int64 [T]."""
        return torch.cat([logits.argmax(-1) for _, logits in self._windows(samples, window_frames)])

    def silence(self, frames: int, fps: float = DEFAULT_FPS) -> Speech:
        """The features of digital silence: what stands in for a voice that is not there."""
        one = self.encode(torch.zeros(FRAME_SAMPLES)).features
        return Speech(one.expand(frames, -1).clone(), frames / fps, "phonetic", fps)

    def _windows(self, samples: Tensor, window_frames: int):
        """(features [t, 64], logits [t, CLASSES]) of window after window, on the CPU."""
        samples = samples.to(self.window.device, torch.float32)
        total = max(1, math.ceil(samples.shape[-1] / FRAME_SAMPLES))
        after = (total + CONTEXT) * FRAME_SAMPLES - samples.shape[-1]
        padded = nn.functional.pad(samples * levelling_gain(samples), (CONTEXT * FRAME_SAMPLES, after))
        for start in range(0, total, window_frames):
            stop = min(start + window_frames, total)
            piece = padded[start * FRAME_SAMPLES : (stop + 2 * CONTEXT) * FRAME_SAMPLES]
            features, logits = self(piece[None])
            yield features[0].float().cpu(), logits[0].float().cpu()


class Residual(nn.Module):
    """x + MLP(dilated convolution of normed x); the output is shorter by `dilation` on either side."""

    def __init__(self, width: int, dilation: int):
        super().__init__()
        self.dilation = dilation
        self.norm = ChannelNorm(width)
        self.spread = nn.Conv1d(width, width, 3, dilation=dilation)
        self.mix = nn.Conv1d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        change = self.mix(nn.functional.gelu(self.spread(self.norm(x))))
        return x[..., self.dilation : -self.dilation] + change


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of [B, C, T], each moment by itself: a norm over time would see the whole clip."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def levelling_gain(samples: Tensor) -> Tensor:
    """Factor that brings the loud parts (95th percentile of the 40 ms RMS) of samples [N] to TARGET_LEVEL, at most +30 dB."""
    whole = samples[: samples.shape[-1] // FRAME_SAMPLES * FRAME_SAMPLES]
    if whole.shape[-1] == 0:
        whole = nn.functional.pad(samples, (0, FRAME_SAMPLES - samples.shape[-1]))
    level = whole.reshape(-1, FRAME_SAMPLES).square().mean(-1).sqrt()
    loud = level.sort().values[int(0.95 * (len(level) - 1))]
    return TARGET_LEVEL / loud.clamp(min=SILENT_LEVEL)


def loudness(samples: Tensor) -> Tensor:
    """[B, (T + 2 CONTEXT) FRAME_SAMPLES] -> [B, T]: RMS of each frame, -80..0 dB mapped to 0..1."""
    frames = samples.reshape(samples.shape[0], -1, FRAME_SAMPLES)[:, CONTEXT:-CONTEXT]
    return 1 + torch.log10(frames.square().mean(-1) + 1e-8) / 8


def mel_filters(lowest: float = 60.0, highest: float = 7600.0) -> Tensor:
    """[MELS, WINDOW // 2 + 1]: triangles of equal width on the mel scale, m = 2595 log10(1 + f / 700), each of sum 1."""
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
