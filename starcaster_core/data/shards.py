"""Clips on disk: tar shards of plain members, written atomically, read in order.

A clip is five members with a common key: `<key>.json` (facts), `<key>.video.mp4` (H.264, 4:4:4, nearly lossless),
`<key>.audio.wav` (16 kHz mono, absent for silent kinds), `<key>.truth.npz` (exact ground truth). A shard appears under
its name only when it is whole, so a reader may start while a writer still works.
"""

from __future__ import annotations

import io
import json
import tarfile
import wave
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..conventions import SAMPLE_RATE
from ..errors import InputError, reason
from ..files import atomic_write

CRF = 10  # about 45 dB on these pictures


@dataclass(frozen=True)
class Clip:
    """info: JSON-able facts (`split`, `kind`, `fps`, `phonemes`, `landmark_names` ...); frames uint8 [T, S, S, 3] RGB;
    audio float32 [N] at 16 kHz or None; truth: name -> array (see `synth.py`)."""

    key: str
    info: dict
    frames: np.ndarray
    audio: np.ndarray | None
    truth: dict[str, np.ndarray]


def shard_path(folder: Path, number: int) -> Path:
    return Path(folder) / f"shard-{number:05d}.tar"


def find_shards(folder: str | Path) -> list[Path]:
    """Return the finished shards of a folder, in order. Raises InputError where there is no such folder."""
    if not Path(folder).is_dir():
        raise InputError(
            "a folder of shards", f"{folder}, which is none", "Check the path, or make one with `synth` or `clips`."
        )
    return sorted(Path(folder).glob("shard-*.tar"))


def write_shard(path: Path, clips: Iterable[Clip]) -> None:
    """Write a shard: the same clips give the same bytes; it appears at `path` whole or not at all."""
    with atomic_write(path) as part, tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for clip in clips:
            for suffix, content in _members(clip).items():
                member = tarfile.TarInfo(f"{clip.key}.{suffix}")  # time, owner and mode are constants
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def no_clips(folder: str | Path, split: str) -> InputError:
    """Return the error of a folder without clips of a split ("train", "val", "test")."""
    return InputError(
        f"clips of the split {split}", f"none in {folder}", "Make more with `synth`, or name another folder."
    )


def read_shard(
    path: str | Path, split: str | None = None, kinds: tuple[str, ...] | None = None, video: bool = True
) -> Iterator[Clip]:
    """Yield the clips of one shard, or those of one split ("train", "val", "test") and of some kinds.

    video=False leaves the frames undecoded: an empty array. Raises InputError for a file that is not a whole shard.
    """
    try:
        with tarfile.open(path) as tar:
            members: dict[str, bytes] = {}
            for member in tar:
                key, _, suffix = member.name.partition(".")
                if suffix == "json" and members:
                    yield from _chosen(members, split, kinds, video)
                    members = {}
                members["key"], members[suffix] = key.encode(), tar.extractfile(member).read()
            if members:
                yield from _chosen(members, split, kinds, video)
    except tarfile.TarError as error:
        raise InputError("a whole shard", f"{path}: {error}", "Delete the file and write it again.") from error


def read_clips(
    folder: str | Path, split: str | None = None, kinds: tuple[str, ...] | None = None, video: bool = True
) -> Iterator[Clip]:
    """Yield the clips of every finished shard of a folder; see `read_shard`."""
    for path in find_shards(folder):
        yield from read_shard(path, split, kinds, video)


def readable_clips(
    shards: Iterable[Path], left_out: dict[str, str], split: str | None = None, kinds: tuple[str, ...] | None = None
) -> Iterator[Clip]:
    """Yield the clips of shards as `read_shard` does; what follows a damaged place in a shard is left out, and why is
    put into `left_out` under the shard's path."""
    for path in shards:
        try:
            yield from read_shard(path, split, kinds)
        except Exception as error:  # noqa: BLE001  tar, JSON, NumPy and the decoder raise nearly anything
            left_out[str(path)] = reason(error)


def _chosen(members: dict[str, bytes], split, kinds, video: bool) -> Iterator[Clip]:
    info = json.loads(members["json"])
    if (split is None or info["split"] == split) and (kinds is None or info["kind"] in kinds):
        with np.load(io.BytesIO(members["truth.npz"])) as arrays:
            truth = dict(arrays)
        frames = decode_video(members["video.mp4"]) if video else np.zeros((0, 0, 0, 3), np.uint8)
        audio = decode_audio(members["audio.wav"]) if "audio.wav" in members else None
        yield Clip(members["key"].decode(), info, frames, audio, truth)


def _members(clip: Clip) -> dict[str, bytes]:
    truth = io.BytesIO()
    np.savez(truth, **clip.truth)
    members = {"json": json.dumps(clip.info, sort_keys=True).encode()}
    members["video.mp4"] = encode_video(clip.frames, clip.info["fps"])
    if clip.audio is not None:
        members["audio.wav"] = encode_audio(clip.audio)
    members["truth.npz"] = truth.getvalue()
    return members


def encode_video(frames: np.ndarray, fps: float) -> bytes:
    """Encode frames uint8 [T, H, W, 3] RGB as MP4; the same frames give the same bytes.

    One thread, so that they do not depend on the machine's cores. No macroblock tree: for pictures of some 32 pixels
    x264 bases it on memory that it has not written.
    """
    import av

    sink = io.BytesIO()
    with av.open(sink, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=int(fps))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.thread_count = "yuv444p", 1
        stream.options = {"crf": str(CRF), "preset": "veryfast", "mbtree": "0"}
        for picture in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        container.mux(stream.encode())
    return sink.getvalue()


def decode_video(content: bytes) -> np.ndarray:
    """Decode an MP4 to frames uint8 [T, H, W, 3] RGB."""
    import av

    with av.open(io.BytesIO(content)) as container:
        container.streams.video[0].thread_count = 1
        return np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])


def encode_audio(samples: np.ndarray) -> bytes:
    """Encode samples float32 [N] in -1..1 as 16-bit mono WAV at 16 kHz."""
    sink = io.BytesIO()
    with wave.open(sink, "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(SAMPLE_RATE)
        file.writeframes(np.round(np.clip(samples, -1, 1) * 32767).astype("<i2").tobytes())
    return sink.getvalue()


def decode_audio(content: bytes) -> np.ndarray:
    """Decode 16-bit mono WAV to samples float32 [N]."""
    with wave.open(io.BytesIO(content)) as file:
        return np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32767
