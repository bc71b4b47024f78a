"""Where frames and sound go: a container written by PyAV, a GIF, or a folder of PNGs.

A sink has `add(frame, sound)` for each uint8 [H, W, 3] frame with the float32 [C, n] sound heard during it (None
without sound), `finish()`, and `abandon()`, which lets go of what it has open; the writer removes it.
"""

from __future__ import annotations

import json
import os
import shutil
import wave
from fractions import Fraction
from pathlib import Path

import numpy as np

from ..errors import MissingDependencyError
from .formats import Format
from .sound import Sound


def open_sink(path: Path, form: Format, fps: Fraction, size, sound: Sound | None, crf: int | None, metadata: dict):
    """The sink of a format, writing to `path`; size: width and height in pixels."""
    if form.container == "folder":
        return FolderSink(path, fps, sound, metadata)
    if form.container == "gif":
        return GifSink(path, form, fps, size, metadata)
    return ContainerSink(path, form, fps, size, sound, crf, metadata)


class ContainerSink:
    """MP4, WebM or MOV, sound and pictures interleaved as they come."""

    def __init__(self, path: Path, form: Format, fps: Fraction, size, sound: Sound | None, crf: int | None, metadata):
        import av
        from av.video.reformatter import ColorRange, Colorspace

        self._form, self._fps, self._sound = form, fps, sound
        self._frames = self._samples = 0
        self._file = av.open(str(path), "w", format=form.container, options=form.container_options)
        try:
            self._file.metadata.update(metadata)
            self._video = _add_stream(self._file, form.video, fps)
            self._video.width, self._video.height = size
            self._video.pix_fmt = form.pixels
            context = self._video.codec_context
            context.thread_type = "AUTO"
            # BT.709, said aloud: untagged video is shown in one matrix by some players and in another by the rest
            context.color_range, context.colorspace = ColorRange.MPEG, Colorspace.ITU709
            context.color_primaries = context.color_trc = 1
            self._matrix = {"dst_colorspace": Colorspace.ITU709, "dst_color_range": ColorRange.MPEG}
            quality = {} if form.crf is None else {"crf": str(form.crf if crf is None else crf)}
            context.options = {**form.options, **quality}
            self._audio = None
            if sound is not None:
                self._audio = _add_stream(self._file, form.audio, sound.rate, layout=sound.layout)
        except BaseException:
            self.abandon()
            raise

    def add(self, frame: np.ndarray, sound: np.ndarray | None) -> None:
        import av

        picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format=self._form.pixels, **self._matrix)
        picture.pts, picture.time_base = self._frames, 1 / self._fps
        self._frames += 1
        self._file.mux(self._video.encode(picture))
        if self._audio is not None and sound.shape[1]:
            block = av.AudioFrame.from_ndarray(sound, format="fltp", layout=self._sound.layout)
            block.sample_rate = self._sound.rate
            block.pts, block.time_base = self._samples, Fraction(1, self._sound.rate)
            self._samples += sound.shape[1]
            self._file.mux(self._audio.encode(block))

    def finish(self) -> None:
        self._file.mux(self._video.encode(None))
        if self._audio is not None:
            self._file.mux(self._audio.encode(None))
        self._file.close()

    def abandon(self) -> None:
        _close_quietly(self._file)


class GifSink:
    """A GIF with a palette of its own for every frame, which streams; GIF has no sound.

    Its clock ticks 100 times a second, so frames last equally long at 25, 20 and 10 frames a second but not at 24 or
    30.
    """

    def __init__(self, path: Path, form: Format, fps: Fraction, size, metadata: dict):
        import av

        self._path, self._fps, self._metadata, self._frames = path, fps, metadata, 0
        self._file = av.open(str(path), "w", format="gif")
        try:
            self._video = _add_stream(self._file, form.video, fps)
            self._video.width, self._video.height = size
            self._video.pix_fmt = form.pixels
        except BaseException:
            self.abandon()
            raise

    def add(self, frame: np.ndarray, sound: np.ndarray | None) -> None:
        import av

        picture = av.VideoFrame.from_ndarray(_with_palette(frame), format="pal8")
        picture.pts, picture.time_base = self._frames, 1 / self._fps
        self._frames += 1
        self._file.mux(self._video.encode(picture))

    def finish(self) -> None:
        self._file.mux(self._video.encode(None))
        self._file.close()
        _insert_gif_comment(self._path, json.dumps(self._metadata))

    def abandon(self) -> None:
        _close_quietly(self._file)


class FolderSink:
    """frame_00001.png, frame_00002.png ... and audio.wav in a folder; every entry of the metadata is in the first
    PNG."""

    def __init__(self, path: Path, fps: Fraction, sound: Sound | None, metadata: dict):
        self._path, self._metadata, self._frames = path, {**metadata, "fps": str(fps)}, 0
        path.mkdir()
        self._wave = None
        if sound is not None:
            self._wave = wave.open(str(path / "audio.wav"), "wb")
            self._wave.setparams((sound.channels, 2, sound.rate, 0, "NONE", ""))

    def add(self, frame: np.ndarray, sound: np.ndarray | None) -> None:
        from PIL import Image
        from PIL.PngImagePlugin import PngInfo

        text = PngInfo()
        for key, value in self._metadata.items():
            if self._frames == 0 or key in ("comment", "starcaster"):
                text.add_itxt(key, value) if not value.isascii() else text.add_text(key, value)
        self._frames += 1
        Image.fromarray(frame).save(self._path / f"frame_{self._frames:05}.png", pnginfo=text, compress_level=4)
        if self._wave is not None:
            self._wave.writeframes(np.round(sound.T * 32767).astype("<i2").tobytes())

    def finish(self) -> None:
        if self._wave is not None:
            self._wave.close()

    def abandon(self) -> None:
        if self._wave is not None:
            self._wave.close()


def _add_stream(file, codec: str, rate, **settings):
    import av

    try:
        return file.add_stream(codec, rate=rate, **settings)
    except av.codec.codec.UnknownCodecError as error:
        raise MissingDependencyError(
            f"PyAV with the encoder {codec}",
            "a build of PyAV without it",
            "Install PyAV's own wheel with: pip install --force-reinstall av. Or choose another format.",
        ) from error


def _with_palette(frame: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """uint8 [H, W] indices and the uint8 [256, 4] ARGB palette that suits the frame best (an octree: fast and good)."""
    from PIL import Image

    octree = Image.fromarray(frame).quantize(256, Image.Quantize.FASTOCTREE)
    dithered = Image.fromarray(frame).quantize(palette=octree, dither=Image.Dither.FLOYDSTEINBERG)
    colours = np.frombuffer(bytes(octree.getpalette("RGB")), np.uint8).reshape(-1, 3)[:256]
    palette = np.zeros((256, 4), np.uint8)
    palette[:, 0] = 255
    palette[: len(colours), 1:] = colours
    return np.array(dithered), palette


def _insert_gif_comment(path: Path, text: str) -> None:
    """Put a comment extension before a GIF's first frame (GIF89a, section 24): libavformat writes no GIF metadata."""
    data = text.encode("utf-8")
    blocks = b"".join(bytes([len(part)]) + part for part in (data[i : i + 255] for i in range(0, len(data), 255)))
    copy = path.with_name(path.name + "2")
    try:
        with open(path, "rb") as source, open(copy, "wb") as target:
            header = source.read(13)
            colours = 3 << ((header[10] & 7) + 1) if header[10] & 0x80 else 0
            target.write(header + source.read(colours) + b"\x21\xfe" + blocks + b"\x00")
            shutil.copyfileobj(source, target)
        os.replace(copy, path)
    finally:
        copy.unlink(missing_ok=True)


def _close_quietly(file) -> None:
    """Close a container that will be thrown away; what it could not finish writing no longer matters."""
    import av

    try:
        file.close()
    except (av.error.FFmpegError, OSError, ValueError):
        pass
