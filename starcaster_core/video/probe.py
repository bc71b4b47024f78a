"""Read a video back, counting what is really in it."""

from __future__ import annotations

import json
import os
import wave
from fractions import Fraction
from pathlib import Path

from ..errors import InputError
from ..files import open_media
from .info import VideoInfo


def probe(path: str | os.PathLike) -> VideoInfo:
    """What a video file, or a folder of PNGs as `write_video` makes it, contains; every frame and sample is decoded.

    Raises InputError when there is no video in it.
    """
    path = Path(path)
    if path.is_dir():
        return _probe_folder(path)
    import av

    try:
        with open_media(path) as file:
            return _probe_container(file, path)
    except (av.error.FFmpegError, OSError) as error:
        raise _no_video(path, str(error)) from error


def _probe_container(file, path: Path) -> VideoInfo:
    import av

    if not file.streams.video:
        raise _no_video(path, "a file without pictures")
    video = file.streams.video[0]
    audio = file.streams.audio[0] if file.streams.audio else None
    frames, samples, previous, uneven = 0, 0, None, False
    fps = video.average_rate or video.guessed_rate
    video.thread_type = "AUTO"
    for frame in file.decode(*(stream for stream in (video, audio) if stream is not None)):
        if isinstance(frame, av.AudioFrame):
            samples += frame.samples
            continue
        frames += 1
        if previous is not None:
            uneven |= abs((frame.pts - previous) * frame.time_base - 1 / fps) > _tick(frame.time_base, fps)
        previous = frame.pts
    metadata = {key.lower(): value for key, value in file.metadata.items()}
    if path.suffix.lower() == ".gif":
        metadata |= _gif_comment(path)
    heard = {}
    if audio is not None:
        heard = {
            "audio_codec": audio.codec_context.codec.canonical_name,
            "audio_seconds": samples / audio.rate,
            "sample_rate": audio.rate,
            "channels": audio.channels,
        }
    codec = video.codec_context.codec.canonical_name
    return VideoInfo(
        frames, Fraction(fps), video.width, video.height, codec, metadata=metadata, is_cfr=not uneven, **heard
    )


def _tick(time_base: Fraction, fps: Fraction) -> Fraction:
    """How far a frame may be off: a tick of the clock where 1 / fps is no whole number of them, else nothing."""
    return Fraction(0) if (1 / fps / time_base).denominator == 1 else time_base


def _probe_folder(path: Path) -> VideoInfo:
    from PIL import Image

    pictures = sorted(path.glob("frame_*.png"))
    if not pictures:
        raise _no_video(path, "a folder without frame_*.png")
    with Image.open(pictures[0]) as first:
        (width, height), metadata = first.size, dict(first.text)
    heard = {}
    if (path / "audio.wav").is_file():
        with wave.open(str(path / "audio.wav")) as sound:
            rate, samples, channels = sound.getframerate(), sound.getnframes(), sound.getnchannels()
        heard = dict(audio_codec="pcm_s16le", audio_seconds=samples / rate, sample_rate=rate, channels=channels)
    fps = Fraction(metadata.pop("fps", "25"))
    return VideoInfo(len(pictures), fps, width, height, "png", metadata=metadata, **heard)


def _gif_comment(path: Path) -> dict[str, str]:
    from PIL import Image

    with Image.open(path) as picture:
        comment = picture.info.get("comment", b"")
    try:
        entries = json.loads(comment)
    except ValueError:  # somebody else's comment
        return {"comment": comment.decode("utf-8", "replace")} if comment else {}
    return entries if isinstance(entries, dict) else {}


def _no_video(path: Path, got: str) -> InputError:
    return InputError(f"a video in {path.name}", got, "Choose a video file that plays.")
