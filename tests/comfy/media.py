"""Small files for the tests, and what is inside the files that come out."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from PIL import Image


def write_sound(path: Path, samples: np.ndarray, rate: int = 16000) -> Path:
    """samples: float [N] mono or [C, N], written as 32-bit float WAV, so that NaN survives."""
    samples = np.atleast_2d(np.asarray(samples, np.float32))
    layout = {1: "mono", 2: "stereo"}[samples.shape[0]]
    with av.open(str(path), "w", format="wav") as file:
        stream = file.add_stream("pcm_f32le", rate=rate, layout=layout)
        frame = av.AudioFrame.from_ndarray(samples.T.reshape(1, -1).copy(), format="flt", layout=layout)
        frame.sample_rate = rate
        frame.time_base = Fraction(1, rate)
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return path


def murmur(seconds: float, rate: int = 16000) -> np.ndarray:
    """float [N]: a voice-like buzz that comes and goes."""
    time = np.arange(round(seconds * rate)) / rate
    buzz = sum(np.sin(2 * np.pi * 140 * k * time) / k for k in range(1, 12))
    return (0.15 * buzz * (0.5 + 0.5 * np.sin(2 * np.pi * 3 * time))).astype(np.float32)


def write_picture(path: Path, pixels: np.ndarray) -> Path:
    Image.fromarray(pixels).save(path)
    return path


@dataclass(frozen=True)
class Probe:
    """What a video file holds; lengths in seconds, None without such a stream."""

    codec: str
    frames: int
    size: tuple[int, int]
    fps: float
    video_seconds: float
    audio_codec: str | None
    audio_seconds: float | None
    metadata: dict
    mean: float
    spread: float


def probe(path: Path) -> Probe:
    """Decode a whole file. mean and spread: of all pixel values, 0..255."""
    with av.open(str(path)) as file:
        video = file.streams.video[0]
        pictures = [frame.to_ndarray(format="rgb24") for frame in file.decode(video)]
        fps, codec = float(video.average_rate), video.codec_context.name
        metadata = dict(file.metadata)
    sound = None
    with av.open(str(path)) as file:
        if file.streams.audio:
            stream = file.streams.audio[0]
            sound = (stream.codec_context.name, sum(f.samples / f.sample_rate for f in file.decode(stream)))
    pixels = np.stack(pictures)
    return Probe(
        codec,
        len(pictures),
        (pixels.shape[2], pixels.shape[1]),
        fps,
        len(pictures) / fps,
        sound[0] if sound else None,
        sound[1] if sound else None,
        metadata,
        float(pixels.mean()),
        float(pixels.std()),
    )
