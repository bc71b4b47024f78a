"""Pictures and sound into one file, as they come, in memory that does not grow with the length."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import InputError, StarcasterError
from ..files import part_beside
from ..locks import NameTakenError, OutputName
from .background import Background
from .formats import FORMATS, format_named
from .info import VideoInfo
from .names import check_output
from .pictures import as_frames
from .sinks import open_sink
from .sound import Sound

TAG = "synthetic media, STARCaster"
CODEC_NAMES = {"libx264": "h264", "libvpx-vp9": "vp9", "prores_ks": "prores", "libopus": "opus", "wav": "pcm_s16le"}


class VideoWriter:
    """A video being written; use it in a `with` block.

    Frames last exactly 1 / fps each. The sound is cut, or padded with silence, to the length of the pictures. The file
    appears under its name only when all is well: until then it has a temporary name beside it, which is removed when
    the block is left by an exception. `info` holds the VideoInfo afterwards. Meanwhile the name is reserved: the block
    raises InputError where another writer has it.
    """

    def __init__(self, path, fps, audio=None, format=None, crf=None, metadata=None, new=False):
        """path: the file, or the folder for "png"; see `write_video` for the others."""
        self._new = new
        self._form = format_named(format, Path(path))
        check_output(Path(path), folder=self._form is FORMATS["png"])
        self._path = Path(os.path.abspath(path))  # so that no part of it looks like a protocol to FFmpeg
        self._fps = as_rate(fps)
        self._crf = _checked_crf(crf, self._form)
        self._metadata = tagged(metadata)
        has_sound = audio is not None and self._form.audio is not None
        self._sound = Sound(*audio, self._form.rates) if has_sound else None
        self._name: OutputName | None = None
        self._part = part_beside(self._path)
        self._sink = self._size = self.info = None
        self._frames = self._samples = 0
        if self._form is FORMATS["png"] and self._path.is_dir() and any(self._path.iterdir()):
            raise InputError(
                "a new or empty folder for the frames", f"{self._path.name} with files in it", "Name another."
            )

    def __enter__(self) -> VideoWriter:
        with suppress(OSError):  # said when the first frame is written
            self._path.parent.mkdir(parents=True, exist_ok=True)
        self._name = OutputName(self._path)
        if self._new and os.path.lexists(self._path):  # written since its number was chosen
            self._name.release()
            raise NameTakenError("a new output name", f"{self._path.name}, which exists", "Choose another name.")
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self.close()
            else:
                self._abandon()
        finally:
            if self._name is not None:
                self._name.release()

    def write(self, frames) -> None:
        """Append one frame [H, W, 3] or several [T, H, W, 3], uint8 or float 0..1, array or tensor."""
        for _ in self.writing(frames):
            pass

    def writing(self, frames) -> Iterator[None]:
        """`write`, frame by frame: a generator that appends one each time it is asked, for `Background`."""
        for frame in as_frames(frames):
            size = (frame.shape[1], frame.shape[0])
            if self._size not in (None, size):
                raise InputError(
                    f"frames of one size, {self._size[0]}x{self._size[1]}",
                    f"one of {size[0]}x{size[1]}",
                    "Resize them.",
                )
            with self._errors_explained():
                if self._sink is None:
                    self._open(size)
                self._frames += 1
                self._sink.add(frame, self._next_sound())
            yield

    def close(self, path: Path | None = None) -> VideoInfo:
        """Finish the file and give it its name, or that of `path` in the same folder.

        Raises InputError when no frame was written.
        """
        if self.info is not None:
            return self.info
        try:
            if self._sink is None:
                raise InputError("at least one frame", "none", "Check the length of the clip.")
            with self._errors_explained():
                self._sink.finish()
                if self._path.is_dir():
                    self._path.rmdir()  # an empty one, made beforehand
                os.replace(self._part, path or self._path)
        except BaseException:
            self._abandon()
            raise
        self.info = self._describe()
        return self.info

    def _open(self, size: tuple[int, int]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._sink = open_sink(self._part, self._form, self._fps, size, self._sound, self._crf, self._metadata)
        self._size = size

    def _next_sound(self) -> np.ndarray | None:
        """What is heard during the frame just counted; rounding never adds up, whatever the rates."""
        if self._sound is None:
            return None
        due = round(self._frames * self._sound.rate / self._fps) - self._samples
        self._samples += due
        return self._sound.take(due)

    def _abandon(self) -> None:
        """Remove what there is. What goes wrong here is passed over: it would hide why the video was given up."""
        with suppress(Exception):
            if self._sink is not None:
                self._sink.abandon()
        if self._part.is_dir():
            shutil.rmtree(self._part, ignore_errors=True)
        else:
            with suppress(OSError):
                self._part.unlink()

    def _describe(self) -> VideoInfo:
        sound, form = self._sound, self._form
        heard = {}
        if sound is not None:
            heard = {
                "audio_codec": CODEC_NAMES.get(form.audio, form.audio),
                "audio_seconds": self._samples / sound.rate,
                "sample_rate": sound.rate,
                "channels": sound.channels,
            }
        codec = CODEC_NAMES.get(form.video, form.video)
        return VideoInfo(self._frames, self._fps, *self._size, codec, metadata=self._metadata, **heard)

    @contextmanager
    def _errors_explained(self):
        import av

        try:
            yield
        except (av.error.FFmpegError, OSError) as error:
            if isinstance(error, StarcasterError):
                raise
            raise StarcasterError(
                f"to write {self._path.name}",
                f"the error: {error}",
                "Check the folder's permissions and free space; if both are well, choose another format or size.",
            ) from error


def write_video(
    path: str | os.PathLike,
    frames: Iterable,
    fps: Fraction | float,
    audio: tuple | None = None,
    format: str | None = None,
    crf: int | None = None,
    metadata: dict[str, str] | None = None,
    new: bool = False,
) -> VideoInfo:
    """Write frames as they come and say what came out.

    path: the file; for "png" the folder. frames: each item one frame uint8 [H, W, 3] or a batch [T, H, W, 3], uint8 or
    float 0..1. Odd sides are padded by one row or column to even ones. fps: frames a second.
    audio: waveform float [C, N] in -1..1 and its samples a second, or None.
    format: "mp4" (H.264, AAC), "webm" (VP9, Opus), "mov" (ProRes 422 HQ, PCM), "gif" (no sound) or "png" (a folder of
    frames and a WAV); None takes the path's suffix. crf: 0..51 for mp4 (18), 0..63 for webm (28), lower is better.
    metadata: text by key, for instance `prompt` and `workflow` as ComfyUI writes them. The tag "synthetic media,
    STARCaster" is always there, under `comment` and `starcaster`. new: never replace a file.
    Raises NameTakenError, before a frame is asked for, where another render writes the file, or where it is there and
    is to be new; InputError for frames, names or settings that cannot be used, AudioError for such sound,
    StarcasterError when the encoder or the disk fails. Then, and when the iteration is left in any other way, no file
    remains.
    """
    with VideoWriter(path, fps, audio, format, crf, metadata, new) as writer, Background(writer.writing) as encoder:
        for batch in frames:  # made here, while the batch before is encoded in a thread
            encoder.put(batch)
    return writer.info


def as_rate(fps: Fraction | float) -> Fraction:
    """Frames a second as an exact fraction: 25 -> 25, 23.976 -> 24000/1001. InputError unless within 1..240."""
    try:
        rate = Fraction(fps)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError("a frame rate", f"{fps!r}", "Use a number such as 25.") from error
    if not 1 <= rate <= 240:
        raise InputError("1 to 240 frames a second", f"{fps}", "The models are made for 25.")
    broadcast = Fraction(round(rate) * 1000, 1001)
    return broadcast if abs(rate - broadcast) < Fraction(1, 500) else rate.limit_denominator(1001)


def tagged(metadata: dict[str, str] | None) -> dict[str, str]:
    """The same entries with the mark that this is synthetic media."""
    entries = {str(key): str(value) for key, value in (metadata or {}).items()}
    comment = f"{TAG}. {entries['comment']}" if entries.get("comment") else TAG
    return {**entries, "comment": comment, "starcaster": TAG}


def _checked_crf(crf: int | None, form) -> int | None:
    if crf is not None and form.crf is not None and not 0 <= crf <= form.crf_limit:
        raise InputError(f"a crf of 0 to {form.crf_limit}", f"{crf}", f"Use {form.crf}, or less for a better picture.")
    return crf
