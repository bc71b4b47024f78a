"""Sound from files and from ComfyUI, checked and brought to 16 kHz mono."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..channels import downmix
from ..errors import AudioError, InputError, MissingDependencyError
from ..files import open_media

SAMPLE_RATE = 16_000
LIMIT_SECONDS = 300.0  # longer sound must be asked for: a video of that length takes hours
SILENT_RMS = 1e-4  # -80 dB of full scale
LOUDEST = 16.0  # 24 dB above full scale: beyond it the samples are on another scale, or broken
WHOLE = 0.9  # of the length a file announces: less was read than there should be
CANCELLED = 0.4  # of the louder channel's level, in the mean; a voice in one channel alone keeps 0.5
PIECE = 0.1  # seconds in which the channels are compared
CONVERT = "Convert it to WAV or FLAC, or choose another file."


def load_audio(path: str | os.PathLike, max_seconds: float | None = None) -> tuple[Tensor, int]:
    """Return `decode_audio` without its warnings."""
    return decode_audio(path, max_seconds)[:2]


def decode_audio(path: str | os.PathLike, max_seconds: float | None = None) -> tuple[Tensor, int, list[str]]:
    """Read the first audio track of any file PyAV reads (sound or video) -> waveform float32 [C, N] in -1..1 with C of
    1 or 2, sample rate, warnings.

    More channels are mixed to two by their layout (`channels.py`). Where the rate changes on the way, what follows is
    resampled to the first one; damaged packets become silence, and a warning says so. max_seconds: read no more than
    that. Raises InputError when there is no such file, AudioError when it holds no sound that can be decoded.
    """
    path = Path(path)
    if not _is_file(path):
        raise InputError("a sound file", f"{path}, which is no file", "Check the path.")
    try:
        import av
    except ImportError as error:
        raise MissingDependencyError("PyAV to read sound", "no package 'av'", "Run `pip install av`.") from error

    pieces = Pieces()
    try:
        with open_media(path) as container:
            if not container.streams.audio:
                raise AudioError("a file with an audio track", f"{path.name} without one", CONVERT)
            # FFmpeg knows no decoder for some, such as the spatial sound of phones, and crashes over their packets
            stream = next((stream for stream in container.streams.audio if stream.codec_context is not None), None)
            if stream is None:
                raise AudioError("sound that can be decoded", f"{path.name} of an unknown kind", CONVERT)
            announced = (container.duration or 0) / 1e6  # in microseconds
            for piece in _decoded(container, stream, pieces):
                pieces.add(*piece)
                if max_seconds is not None and pieces.seconds >= max_seconds:
                    announced = 0
                    break
    except av.FFmpegError as error:
        raise AudioError("sound that can be decoded", f"{path.name} ({error.strerror})", CONVERT) from error
    except (OSError, ValueError) as error:
        raise AudioError("sound that can be decoded", f"{path.name} ({error})", CONVERT) from error
    if not pieces.heard:
        got = f"{path.name}, {'damaged from start to end' if pieces.damaged else 'an empty track'}"
        raise AudioError("at least one sample of sound", got, CONVERT)
    waveform = pieces.joined()
    warnings = []
    if pieces.damaged:
        places = f"{pieces.damaged} places" if pieces.damaged > 1 else "one place"
        warnings.append(f"{path.name} is damaged in {places}; what cannot be read is silent.")
    if pieces.seconds < WHOLE * announced:
        warnings.append(f"Only {pieces.seconds:.1f} of the {announced:.1f} seconds {path.name} announces can be read.")
    return torch.from_numpy(waveform), pieces.rate, warnings


class Pieces:
    """What was decoded so far: runs of float32 [C, N] with the sample rate of each."""

    def __init__(self):
        self._runs: list[tuple[int, list[np.ndarray]]] = []
        self.seconds, self.damaged, self.heard = 0.0, 0, 0
        self._before = 0.0  # seconds that were skipped before anything was decoded

    @property
    def rate(self) -> int:
        """That of the first run, to which the others are brought."""
        return self._runs[0][0]

    def add(self, samples: np.ndarray, rate: int) -> None:
        if not self._runs:
            self._runs.append((rate, [np.zeros((1, round(self._before * rate)), np.float32)]))
        elif self._runs[-1][0] != rate:
            self._runs.append((rate, []))
        self._runs[-1][1].append(samples)
        self.seconds += samples.shape[1] / rate
        self.heard += samples.shape[1]

    def skip(self, seconds: float) -> None:
        """Put silence in the place of what could not be decoded, so that lips and sound stay together."""
        self.damaged += 1
        self.seconds += seconds
        if self._runs:
            rate, parts = self._runs[-1]
            parts.append(np.zeros((1, round(seconds * rate)), np.float32))
        else:
            self._before += seconds

    def joined(self) -> np.ndarray:
        """Return all of it, float32 [1 or 2, N] at `rate`; one channel beside two is heard in both."""
        count = max(len(part) for _, parts in self._runs for part in parts)
        runs = []
        for rate, parts in self._runs:
            run = np.concatenate([np.broadcast_to(part, (count, part.shape[1])) for part in parts], axis=1)
            runs.append(run if rate == self.rate else np.stack([_resampled(row, rate, self.rate) for row in run]))
        return np.concatenate(runs, axis=1)


def _decoded(container, stream, pieces: Pieces) -> Iterator[tuple[np.ndarray, int]]:
    """Samples [C, N] and rate of every frame that can be decoded; the others are noted in `pieces`."""
    import av

    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except av.FFmpegError:  # the container itself is broken from here on
            pieces.damaged += 1
            return
        if packet is None:
            return
        try:
            frames = packet.decode()
        except av.FFmpegError:
            pieces.skip(max(0.0, float((packet.duration or 0) * (packet.time_base or 0))))
            continue
        for frame in frames:
            if frame.samples and frame.sample_rate > 0:
                yield downmix(_floats(frame), [channel.name for channel in frame.layout.channels]), frame.sample_rate


def _floats(frame) -> np.ndarray:
    """An AudioFrame's samples, float32 [C, N], full scale at 1."""
    samples = frame.to_ndarray()
    if not frame.format.is_planar:
        samples = samples.reshape(-1, frame.layout.nb_channels).T
    if samples.dtype.kind == "u":
        return (samples.astype(np.float32) - 128) / 128
    scale = 2.0 ** (8 * samples.dtype.itemsize - 1) if samples.dtype.kind == "i" else 1
    return np.ascontiguousarray(samples / np.float32(scale), np.float32)


def to_mono_16k(waveform: Tensor, sample_rate: float, max_seconds: float | None = None) -> Tensor:
    """waveform [N], [C, N] or [1, C, N] at any rate -> float32 [ceil(N * 16000 / sample_rate)].

    Two channels are averaged, or the louder one is taken where they cancel each other out; more are mixed to two
    before. Integers are taken with their full scale. max_seconds: only so many from the start are used. Without it,
    more than LIMIT_SECONDS is refused. Raises AudioError for sound that is empty, several recordings, broken (NaN,
    infinity), on another scale than -1..1, or too long.
    """
    waveform = one_recording(waveform)
    if waveform.shape[-1] == 0 or waveform.shape[0] == 0:
        raise AudioError("sound", "a recording of 0 seconds", "Connect a recording with at least one sample.")
    if not 0 < sample_rate < math.inf:
        raise AudioError("a sample rate in Hz", f"{sample_rate}", "Give the rate of the recording, such as 44100.")
    if max_seconds is not None:
        waveform = waveform[:, : max(1, math.ceil(max_seconds * sample_rate))]
    seconds = waveform.shape[-1] / sample_rate
    if max_seconds is None and seconds > LIMIT_SECONDS:
        raise AudioError(
            f"at most {LIMIT_SECONDS:.0f} seconds of sound",
            f"{seconds:.0f} seconds or more",
            "Say how many of them to use: --seconds on the command line, max_seconds in the Audio Encoder.",
        )
    broken = int((~torch.isfinite(waveform)).sum())
    if broken:
        raise AudioError("samples that are numbers", f"{broken} of NaN or infinity", "Export the recording again.")
    peak = float(waveform.abs().max())
    if peak > LOUDEST:
        raise AudioError("samples within -1..1", f"one of {peak:.3g}", "Export the recording again, or normalise it.")
    return torch.from_numpy(_resampled(_mono(waveform.numpy(), sample_rate), sample_rate, SAMPLE_RATE))


def audio_warnings(samples: Tensor) -> list[str]:
    """What a user should know about 16 kHz samples [N] that can be used all the same, one sentence each."""
    warnings = []
    if samples.square().mean().sqrt() < SILENT_RMS:
        warnings.append("The sound is silent, so the mouth will stay closed.")
    clipped = (samples.abs() > 0.999).float().mean().item()
    if clipped > 0.01:
        warnings.append(f"{clipped:.0%} of the sound is clipped; a quieter recording gives better lips.")
    return warnings


def one_recording(waveform: Tensor) -> Tensor:
    """[N], [C, N] or [1, C, N] of floats or integers -> float32 [C, N] on the CPU. Raises AudioError for anything
    else."""
    if waveform.ndim == 3:
        if waveform.shape[0] != 1:
            raise AudioError("one recording", f"a batch of {waveform.shape[0]}", "Pick one of them.")
        waveform = waveform[0]
    if waveform.ndim == 1:
        waveform = waveform[None]
    if waveform.ndim != 2:
        raise AudioError("a waveform [channels, samples]", f"the shape {tuple(waveform.shape)}", "Reshape it.")
    waveform = waveform.detach().cpu()
    if waveform.is_floating_point():
        return waveform.float()
    if waveform.dtype not in FULL_SCALE:
        raise AudioError("a waveform of floats or whole numbers", f"{waveform.dtype}", "Convert it to floats in -1..1.")
    zero, full = FULL_SCALE[waveform.dtype]
    return (waveform.double() - zero).div(full).float()


FULL_SCALE = {torch.uint8: (128, 128), torch.int8: (0, 2**7), torch.int16: (0, 2**15), torch.int32: (0, 2**31)}


def _mono(channels: np.ndarray, sample_rate: float) -> np.ndarray:
    """float32 [C, N] -> [N]. A voice that is in opposite phase in the two channels is gone from their mean."""
    stereo = downmix(channels)
    mean = stereo.mean(axis=0)
    if len(stereo) == 1:
        return mean

    step = max(1, round(PIECE * sample_rate))
    starts = np.arange(0, len(mean), step)

    def energy(samples: np.ndarray) -> np.ndarray:
        return np.add.reduceat(np.square(samples, dtype=np.float64), starts)

    each, both = np.stack([energy(row) for row in stereo]), energy(mean)
    louder = each.max(axis=0)
    sounding = louder > 0.01 * louder.mean()
    if (both < CANCELLED**2 * louder)[sounding].mean() > 0.05:
        return stereo[each.sum(axis=1).argmax()]
    return mean


def _resampled(samples: np.ndarray, rate: float, wanted: int) -> np.ndarray:
    """float32 [N] -> [ceil(N * wanted / rate)]"""
    if rate == wanted:
        return samples
    import soxr  # what librosa.resample calls, without what that imports

    resampled = soxr.resample(np.ascontiguousarray(samples), rate, wanted, quality="HQ")
    length = math.ceil(len(samples) * wanted / rate)  # soxr may give one sample less
    return np.pad(resampled, (0, max(0, length - len(resampled))))[:length]


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False
