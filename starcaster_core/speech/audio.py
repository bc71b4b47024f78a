"""Sound from files and from ComfyUI, checked and brought to 16 kHz mono."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import AudioError, InputError, MissingDependencyError

SAMPLE_RATE = 16_000
LIMIT_SECONDS = 300.0  # longer sound must be asked for: a video of that length takes hours
SILENT_RMS = 1e-4  # -80 dB of full scale


def load_audio(path: str | Path) -> tuple[Tensor, int]:
    """The first audio track of any file PyAV reads (sound or video) -> waveform float32 [C, N] in -1..1, sample rate.

    Raises InputError when there is no such file, AudioError when it holds no sound that can be decoded.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError("a sound file", f"{path}, which is no file", "Check the path.")
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("PyAV to read sound", "no package 'av'", "Run `pip install av`.") from error

    fix = "Convert it to WAV or FLAC, or choose another file."
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError("a file with an audio track", f"{path.name} without one", fix)
            stream = container.streams.audio[0]
            resampler = av.AudioResampler(format="fltp")  # floats, a row a channel; layout and rate stay
            decoded = [part for frame in container.decode(stream) for part in resampler.resample(frame)]
            sample_rate = stream.rate
    except av.FFmpegError as error:
        raise AudioError("sound that can be decoded", f"{path.name} ({error.strerror})", fix) from error
    if not decoded:
        raise AudioError("at least one sample of sound", f"{path.name}, an empty track", fix)
    return torch.from_numpy(np.concatenate([part.to_ndarray() for part in decoded], axis=1)), sample_rate


def to_mono_16k(waveform: Tensor, sample_rate: int, max_seconds: float | None = None) -> Tensor:
    """waveform [N], [C, N] or [1, C, N] at any rate -> float32 [ceil(N * 16000 / sample_rate)], the channels' mean.

    max_seconds: only so many from the start are used. Without it, more than LIMIT_SECONDS is refused.
    Raises AudioError for sound that is empty, several recordings, broken (NaN, infinity), or too long.
    """
    waveform = _one_recording(waveform)
    if waveform.shape[-1] == 0 or waveform.shape[0] == 0:
        raise AudioError("sound", "a recording of 0 seconds", "Connect a recording with at least one sample.")
    if not sample_rate > 0:
        raise AudioError("a sample rate in Hz", f"{sample_rate}", "Give the rate of the recording, such as 44100.")
    if max_seconds is not None:
        waveform = waveform[:, : max(1, math.ceil(max_seconds * sample_rate))]
    seconds = waveform.shape[-1] / sample_rate
    if max_seconds is None and seconds > LIMIT_SECONDS:
        raise AudioError(
            f"at most {LIMIT_SECONDS:.0f} seconds of sound",
            f"{seconds:.0f} seconds",
            "Set max_seconds to what you want to use of it, or to the whole length.",
        )
    broken = int((~torch.isfinite(waveform)).sum())
    if broken:
        raise AudioError("samples that are numbers", f"{broken} of NaN or infinity", "Export the recording again.")
    return _resample(waveform.mean(0), sample_rate)


def audio_warnings(samples: Tensor) -> list[str]:
    """What a user should know about 16 kHz samples [N] that can be used all the same, one sentence each."""
    warnings = []
    if samples.square().mean().sqrt() < SILENT_RMS:
        warnings.append("The sound is silent, so the mouth will stay closed.")
    clipped = (samples.abs() > 0.999).float().mean().item()
    if clipped > 0.01:
        warnings.append(f"{clipped:.0%} of the sound is clipped; a quieter recording gives better lips.")
    return warnings


def _one_recording(waveform: Tensor) -> Tensor:
    """-> float32 [C, N] on the CPU."""
    if waveform.ndim == 3:
        if waveform.shape[0] != 1:
            raise AudioError("one recording", f"a batch of {waveform.shape[0]}", "Pick one of them.")
        waveform = waveform[0]
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2:
        raise AudioError("a waveform [channels, samples]", f"the shape {tuple(waveform.shape)}", "Reshape it.")
    return waveform.detach().to("cpu", torch.float32)


def _resample(samples: Tensor, sample_rate: int) -> Tensor:
    if sample_rate == SAMPLE_RATE:
        return samples
    import soxr  # what librosa.resample calls; importing librosa's own would cost a second and more

    resampled = soxr.resample(samples.numpy(), sample_rate, SAMPLE_RATE, quality="HQ")
    length = math.ceil(samples.shape[-1] * SAMPLE_RATE / sample_rate)  # soxr may give one sample less
    return torch.from_numpy(np.pad(resampled, (0, max(0, length - len(resampled))))[:length])
