"""Sound handed out piece by piece, at the rate the encoder takes, for exactly as long as the pictures last."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from ..channels import downmix
from ..errors import AudioError

BLOCK_SECONDS = 1


class Sound:
    """A waveform that never runs out: after its end there is silence.

    waveform: float [C, N] or [1, C, N] in -1..1 (clipped), array or tensor; one channel stays mono, two stereo, more
        are mixed to stereo (`channels.py`). N may be 0.
    rate: its samples a second; kept: the rates that may stay, everything else is resampled to the last of them.
    """

    def __init__(self, waveform, rate: int, kept: tuple[int, ...]):
        self._source = _checked(waveform, rate)
        self._source_rate = int(rate)
        self.rate = self._source_rate if self._source_rate in kept else kept[-1]
        self.channels = self._source.shape[0]
        self._blocks = self._resampled()
        self._left = np.zeros((self.channels, 0), np.float32)

    @property
    def layout(self) -> str:
        return "mono" if self.channels == 1 else "stereo"

    def take(self, count: int) -> np.ndarray:
        """The next `count` samples, float32 [channels, count]."""
        parts, have = [self._left], self._left.shape[1]
        while have < count:
            block = next(self._blocks, None)
            if block is None:
                block = np.zeros((self.channels, count - have), np.float32)
            parts.append(block)
            have += block.shape[1]
        joined = np.concatenate(parts, axis=1)
        self._left = joined[:, count:]
        return np.ascontiguousarray(np.clip(joined[:, :count], -1, 1))

    def _resampled(self) -> Iterator[np.ndarray]:
        step = BLOCK_SECONDS * self._source_rate
        blocks = (self._source[:, i : i + step] for i in range(0, self._source.shape[1], step))
        if self.rate == self._source_rate:
            yield from blocks
            return
        import av

        resampler = av.AudioResampler(format="fltp", layout=self.layout, rate=self.rate)
        for block in blocks:
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(block), format="fltp", layout=self.layout)
            frame.sample_rate = self._source_rate
            for part in resampler.resample(frame):
                yield part.to_ndarray()
        for part in resampler.resample(None):
            yield part.to_ndarray()


def _checked(waveform, rate: int) -> np.ndarray:
    """float32 [1 or 2, N]."""
    if hasattr(waveform, "detach"):
        waveform = waveform.detach().cpu().float().numpy()
    samples = np.asarray(waveform, np.float32)
    if samples.ndim == 3 and samples.shape[0] == 1:
        samples = samples[0]
    if samples.ndim != 2 or samples.shape[0] < 1:
        raise AudioError(
            "sound of shape [channels, samples]", f"{np.shape(waveform)}", "Give one sound, channels first."
        )
    if not rate > 0:
        raise AudioError("a positive sampling rate", f"{rate}", "Say how many samples a second the sound has.")
    if not np.isfinite(samples).all():
        raise AudioError(
            "sound of finite samples", "NaN or infinite samples", "Look at what made it, or load it again."
        )
    return downmix(samples)
