"""Real videos through the same door: a folder of videos -> shards like those of `synth`.

    python -m starcaster_core clips --videos DIR --out DIR --frames 48 --size 128

Every video is read twice, so that its length costs no memory. The first time every frame at 25 fps gets the five
landmarks of its face, or the reason why it is of no use; the second time the stretches that are of use are cropped the
FFHQ way, steadied over time, and cut into clips. One shard a video, written whole or not at all, so a run that was
stopped goes on where it was. `report.json` says of every video how many seconds became clips and why others did not; a
video that cannot be read is recorded there and left out.

The truth of a real clip: landmarks float32 [T, 5, 2] (`landmark_names`) and mouth_box float32 [T, 4] in pixels of the
crop, embedding float32 [128] (dlib, mean over the clip); its camera is unknown and given as frontal.
"""

from __future__ import annotations

import argparse
import errno
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from zlib import crc32

import numpy as np

from ..conventions import FPS, SAMPLE_RATE
from ..errors import InputError, reason
from ..files import open_media
from .shards import Clip, shard_path, write_shard
from .splits import split_of

CONTAINERS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".mpg", ".mpeg")
SEARCH_SIDE = 640  # pixels; frames are searched for faces at this size
SEARCH_EVERY = 5  # frames; in between the landmarks follow the face
SMALLEST_FACE = 0.08  # of the searched frame's longer side: smaller faces are blurred when enlarged
CUT = 0.35  # share of pixels that change their colour bin from one frame to the next
JUMP = 0.4  # of the face's width: faces do not move further within a frame
STEADY = 5.0  # frames; the crop follows the face through a Gaussian of this width
LANDMARKS = ("right_eye_outer", "right_eye_inner", "left_eye_inner", "left_eye_outer", "nose_base")


@dataclass(frozen=True)
class Stretch:
    """Frames start .. start + T - 1 of one take with one face: points float64 [T, 5, 2] in fractions of the picture's
    longer side."""

    start: int
    points: np.ndarray


def frames_at(path: Path, fps: float = FPS) -> Iterator[np.ndarray]:
    """uint8 [H, W, 3], one every 1 / fps seconds from the first picture on, whatever the video's own rate."""
    with open_media(path) as container:
        if not container.streams.video:
            raise InputError("a video", f"{path.name}, which has no pictures", "Leave it out.")
        rate = container.streams.video[0].average_rate or fps
        shown, count, first, time = None, 0, None, 0.0
        for frame in container.decode(video=0):
            time = frame.time if frame.time is not None else time + 1 / float(rate)
            first = time if first is None else first
            while shown is not None and (count + 0.5) / fps <= time - first:
                yield shown
                count += 1
            shown = frame.to_ndarray(format="rgb24")
        while shown is not None and (count == 0 or (count + 0.5) / fps <= time - first + 1 / float(rate)):
            yield shown  # until the last picture's own end
            count += 1


def colours(picture: np.ndarray) -> np.ndarray:
    """A histogram [64] of a coarse look at the picture, summing to 1."""
    step = max(1, max(picture.shape[:2]) // 96)
    bins = (picture[::step, ::step] // 64).reshape(-1, 3).astype(int) @ [16, 4, 1]
    return np.bincount(bins, minlength=64) / len(bins)


class Tracker:
    """Follows the one face of a take, frame after frame."""

    def __init__(self):
        self.before: np.ndarray | None = None  # colours of the frame before
        self.face = None
        self.count = 0

    def __call__(self, picture: np.ndarray) -> tuple[np.ndarray | None, str, bool]:
        """-> (landmarks [5, 2] in pixels or None, why there are none, whether a take ended just before this frame)"""
        from ..identity.faces import face_at

        now = colours(picture)
        cut = self.before is not None and np.abs(now - self.before).sum() / 2 > CUT
        self.before = now
        if cut:
            self.face, self.count = None, 0
        search = self.face is None or self.count % SEARCH_EVERY == 0
        self.count += 1
        last = self.face
        if search:
            self.face, reason = self.find(picture)
        else:
            moved = face_at(picture, last.box)
            box = moved.box + np.tile(moved.points.mean(axis=0) - last.points.mean(axis=0), 2)
            self.face, reason = replace(moved, box=box), ""
        if self.face is None:
            return None, reason, cut
        if last is not None:
            cut |= bool(np.linalg.norm(self.face.points.mean(axis=0) - last.points.mean(axis=0)) > JUMP * last.size)
        return self.face.points, "", cut

    @staticmethod
    def find(picture: np.ndarray):
        from ..identity.faces import CERTAIN, detect

        faces = [face for face in detect(picture) if face.score >= CERTAIN]
        if not faces:
            return None, "no face"
        if len(faces) > 1:
            return None, "several faces"
        if faces[0].size < SMALLEST_FACE * max(picture.shape[:2]):
            return None, "face too small"
        return faces[0], ""


def shrink(picture: np.ndarray) -> np.ndarray:
    """The picture, its longer side at most SEARCH_SIDE"""
    from ..identity.faces import resized

    return resized(picture, min(1, SEARCH_SIDE / max(picture.shape[:2])))


def find_stretches(path: Path, shortest: int) -> tuple[list[Stretch], Counter]:
    """Every take of at least `shortest` frames with exactly one face, and how many frames were dropped for what."""
    tracker, dropped = Tracker(), Counter()
    stretches: list[Stretch] = []
    points: list[np.ndarray] = []
    index = -1

    def finish(end: int) -> None:
        if len(points) >= shortest:
            stretches.append(Stretch(end - len(points), np.stack(points)))
        else:
            dropped["take too short"] += len(points)
        points.clear()

    for index, picture in enumerate(frames_at(path)):
        small = shrink(picture)
        found, reason, cut = tracker(small)
        if cut or found is None:
            finish(index)
        if found is None:
            dropped[reason] += 1
        else:
            points.append(found / max(small.shape[:2]))
    finish(index + 1)
    return stretches, dropped


def steady(points: np.ndarray, width: float = STEADY) -> np.ndarray:
    """points [T, 5, 2] seen through a Gaussian over time, mirrored at both ends."""
    reach = min(int(3 * width), len(points) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / width) ** 2)
    padded = np.concatenate(
        [2 * points[:1] - points[reach:0:-1], points, 2 * points[-1:] - points[-2 : -reach - 2 : -1]]
    )
    windows = np.lib.stride_tricks.sliding_window_view(padded, len(kernel), axis=0)
    return windows @ (kernel / kernel.sum())


def make_clips(
    path: Path, name: str, stretches: list[Stretch], samples: np.ndarray, frames: int, size: int
) -> Iterator[Clip]:
    """Cuts stretches into clips of `frames` frames. samples: the video's sound, float32 [N] at 16 kHz."""
    from ..identity.align import ffhq_transform, three_points, warp

    pieces = []
    for stretch in stretches:
        smooth = steady(stretch.points)
        for first in range(0, len(smooth) - frames + 1, frames):
            part = slice(first, first + frames)
            pieces.append((stretch.start + first, stretch.points[part], smooth[part]))
    pictures = enumerate(frames_at(path))
    for number, (start, points, smooth) in enumerate(pieces):
        crops, marks = [], []
        for index, picture in pictures:
            if index < start:
                continue
            at, scale = index - start, max(picture.shape[:2])
            transform = ffhq_transform(*three_points(smooth[at] * scale), size)
            crops.append(warp(picture, transform, size))
            marks.append(points[at] * scale @ transform[:2, :2].T + transform[:2, 2])
            if len(crops) == frames:
                break
        first = round(start / FPS * SAMPLE_RATE)
        sound = np.zeros(round(frames / FPS * SAMPLE_RATE), np.float32)
        part = samples[first : first + len(sound)]
        sound[: len(part)] = part
        yield real_clip(name, number, np.stack(crops), np.stack(marks), sound, start)


def real_clip(name: str, number: int, crops: np.ndarray, marks: np.ndarray, sound: np.ndarray, start: int) -> Clip:
    from ..camera.poses import default_intrinsics, world_from_cam
    from ..identity.align import three_points
    from ..identity.embed import embed
    from ..identity.faces import Face

    count, size = len(crops), crops.shape[1]
    embeddings, boxes = [], []
    for index in range(count):
        left, right, mouth = three_points(marks[index])
        width = np.linalg.norm(right - left)
        boxes.append(np.clip(np.concatenate([mouth - 0.55 * width, mouth + 0.55 * width]), 0, size))
        if index % max(1, count // 5) == 0:
            eyes = (left + right) / 2
            middle, half = eyes + 0.55 * (mouth - eyes), 1.05 * np.linalg.norm(mouth - eyes)
            face = Face(np.concatenate([middle - half, middle + half]), marks[index], 0.0)
            embeddings.append(embed(crops[index], face))
    info = {
        "source": name,
        "number": number,
        "seconds": [round(start / FPS, 3), round((start + count) / FPS, 3)],
        "identity": crc32(name.encode()),
        "split": split_of("identity", name),
        "kind": "temporal",
        "fps": FPS,
        "frames": count,
        "size": size,
        "voice": None,
        "text": None,
        "phonemes": [],
        "landmark_names": list(LANDMARKS),
    }
    truth = {
        "world_from_cam": np.repeat(world_from_cam(0, 0)[None], count, axis=0).astype(np.float32),
        "intrinsics": np.repeat(default_intrinsics()[None], count, axis=0),
        "landmarks": marks.astype(np.float32),
        "mouth_box": np.stack(boxes).astype(np.float32),
        "embedding": np.mean(embeddings, axis=0).astype(np.float32),
    }
    return Clip(f"{crc32(name.encode()):08x}-{number:05d}", info, crops, sound, truth)


def read_sound(path: Path) -> np.ndarray:
    """float32 [N] at 16 kHz; raises InputError where there is none"""
    from ..speech.audio import load_audio, to_mono_16k

    waveform, rate = load_audio(path)
    return to_mono_16k(waveform, rate, max_seconds=waveform.shape[1] / rate).numpy()  # however long it is


def process(path: Path, name: str, shard: Path, frames: int, size: int) -> dict:
    """One video into one shard; returns its lines of the report."""
    report: dict = {"video": name, "clips": 0, "dropped_seconds": {}}
    try:
        samples = read_sound(path)
        stretches, dropped = find_stretches(path, frames)
        for stretch in stretches:
            dropped["rest of a take"] += len(stretch.points) % frames
        clips = sum(len(stretch.points) // frames for stretch in stretches)
        if clips:
            write_shard(shard, make_clips(path, name, stretches, samples, frames, size))
    except Exception as error:  # noqa: BLE001  decoders raise nearly anything over a broken file
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS):
            raise  # no fault of the video
        return report | {"refused": reason(error)}
    report["clips"] = clips
    report["seconds"] = round(report["clips"] * frames / FPS, 2)
    report["dropped_seconds"] = {reason: round(count / FPS, 2) for reason, count in dropped.items() if count}
    return report


def read_report(path: Path) -> dict[str, dict]:
    """Read what an earlier run did, by video. InputError for a file that is no report."""
    try:
        return (
            {entry["video"]: entry for entry in json.loads(path.read_text(encoding="utf-8"))} if path.exists() else {}
        )
    except (ValueError, TypeError, KeyError) as error:
        raise InputError("the report of an earlier run", f"{path}, which is none", "Choose an empty --out.") from error


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `clips`."""
    parser.add_argument("--videos", type=Path, required=True, help="folder of videos, searched with its subfolders")
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards and report.json")
    parser.add_argument("--frames", type=int, default=48, help="frames a clip, at 25 a second")
    parser.add_argument("--size", type=int, default=128, help="side of the square crops in pixels")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    videos = sorted(path for path in args.videos.rglob("*") if path.suffix.lower() in CONTAINERS)
    if not videos:
        raise InputError("a folder with videos", f"none in {args.videos}", f"Known endings: {', '.join(CONTAINERS)}.")
    args.out.mkdir(parents=True, exist_ok=True)
    report_file = args.out / "report.json"
    done = read_report(report_file)
    for path in videos:
        name = path.relative_to(args.videos).as_posix()
        if name not in done:
            done[name] = process(path, name, shard_path(args.out, len(done)), args.frames, args.size)
            partial = report_file.with_suffix(".part")
            partial.write_text(json.dumps(list(done.values()), indent=1))
            partial.replace(report_file)
            print(json.dumps(done[name]), flush=True)
    return 0
