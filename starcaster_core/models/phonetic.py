"""The project's own speech encoder: 16 kHz sound -> 64 features for each video frame, which say what phoneme is spoken.

Log-mel spectra at 100 Hz, convolutions, four spectra merged into one video frame (25 a second), convolutions. No layer
pads: an output depends on exactly `CONTEXT` video frames of sound on either side (0.28 s and half a spectrum's window),
and beyond the recording is silence. So a recording encoded in windows gives the result of the whole, in constant
memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn

from ..speech.features import resample_frames
from ..speech.spectrum import (
    FRAME_SAMPLES,
    MELS,
    MELS_PER_FRAME,
    NATIVE_FPS,
    SAMPLE_RATE,
    WINDOW,
    levelling_gain,
    log_mel,
    loudness,
    mel_filters,
)
from ..types import DEFAULT_FPS, Speech
from .frozen import load_frozen, save_frozen

FEATURES = 64
CLASSES = 41  # the phonemes of data/phonemes.py; only training and evaluation use them
CONTEXT = 7  # video frames on either side: 12 spectra = 3 frames, then 4 frames


class PhoneticEncoder(nn.Module):
    """Sound -> features, and phoneme logits for training. About 0.9 M parameters."""

    def __init__(self, width: int = 160, frame_width: int = 192):
        super().__init__()
        self.config = {"width": width, "frame_width": frame_width}
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
        """Return features [B, T, 64] and logits [B, T, CLASSES] of levelled samples [B, (T + 2 CONTEXT) FRAME_SAMPLES].

        Output frame t covers input samples from (t + CONTEXT) FRAME_SAMPLES, for FRAME_SAMPLES.
        features: 63 in -1..1, then the loudness, 0 at -80 dB and 1 at 0 dB of full scale.
        """
        hidden = self.spectra((self.log_mel(samples) - self.mel_mean) / self.mel_std)
        hidden = self.frames(self.merge(hidden))

        phonetic = torch.tanh(self.to_features(hidden))
        level = loudness(samples[:, CONTEXT * FRAME_SAMPLES : -CONTEXT * FRAME_SAMPLES])
        features = torch.cat([phonetic, level[:, None].to(phonetic.dtype)], dim=1)
        return features.transpose(1, 2), self.to_logits(features).transpose(1, 2)

    def log_mel(self, samples: Tensor) -> Tensor:
        """Return log power in each mel band, float32 also under autocast: [B, N] -> [B, MELS, N / HOP]."""
        with torch.autocast(samples.device.type, enabled=False):
            return log_mel(samples, self.window, self.mel)

    @torch.no_grad()
    def encode(self, samples: Tensor, fps: float = DEFAULT_FPS, window_frames: int = 1500) -> Speech:
        """Encode 16 kHz mono samples [N] in -1..1 as Speech of T = max(1, round(N / 16000 * fps)) frames.

        The recording is levelled as a whole first. `window_frames` (at 25 fps) bounds the memory and does not change
        the result.
        """
        seconds = samples.shape[-1] / SAMPLE_RATE
        frames = max(1, round(seconds * fps))
        features = torch.cat([features for features, _ in self._windows(samples, window_frames)])
        return Speech(resample_frames(features, NATIVE_FPS, frames, fps), seconds, "phonetic", fps)

    @torch.no_grad()
    def phonemes(self, samples: Tensor, window_frames: int = 1500) -> Tensor:
        """Return the likeliest phoneme class of each 25th of a second: 16 kHz mono samples [N] -> int64 [T]."""
        return torch.cat([logits.argmax(-1) for _, logits in self._windows(samples, window_frames)])

    def silence(self, frames: int, fps: float = DEFAULT_FPS) -> Speech:
        """Return the features of digital silence, which stand in for a missing voice."""
        one = self.encode(torch.zeros(FRAME_SAMPLES)).features
        return Speech(one.expand(frames, -1).clone(), frames / fps, "phonetic", fps)

    def _windows(self, samples: Tensor, window_frames: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield features [t, 64] and logits [t, CLASSES] of one window after the other, on the CPU."""
        samples = samples.to(self.window.device, torch.float32)
        total = max(1, math.ceil(samples.shape[-1] / FRAME_SAMPLES))
        after = (total + CONTEXT) * FRAME_SAMPLES - samples.shape[-1]
        padded = nn.functional.pad(samples * levelling_gain(samples), (CONTEXT * FRAME_SAMPLES, after))
        for start in range(0, total, window_frames):
            stop = min(start + window_frames, total)
            window = padded[start * FRAME_SAMPLES : (stop + 2 * CONTEXT) * FRAME_SAMPLES]
            features, logits = self(window[None])
            yield features[0].float().cpu(), logits[0].float().cpu()


class Residual(nn.Module):
    """x + MLP(dilated convolution of normed x), [B, C, T] -> [B, C, T - 2 dilation]."""

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
    """Layer norm over the channels of [B, C, T]. Statistics over time would depend on the whole clip."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.transpose(1, 2)).transpose(1, 2)


def save_phonetic(path: Path, encoder: PhoneticEncoder, facts: dict) -> None:
    """Write the encoder; facts: how it was trained, and what was measured."""
    save_frozen(path, "phonetic", encoder, encoder.config, facts)


def load_phonetic(path: str | Path) -> PhoneticEncoder:
    """Read an encoder, frozen. Raises CheckpointError for a file that holds no whole one."""

    def build(config: dict) -> PhoneticEncoder:
        # Files of before the configuration was written have facts in its place, and the default sizes.
        return PhoneticEncoder(**{key: config[key] for key in ("width", "frame_width") if key in config})

    return load_frozen(path, "phonetic", build, default={})
