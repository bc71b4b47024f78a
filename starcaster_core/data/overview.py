"""What is in a folder of clips: counts and distances as JSON, a contact sheet, previews with sound."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path

import numpy as np

from ..camera.poses import angles
from ..conventions import SAMPLE_RATE
from ..errors import InputError
from .phonemes import CLASS_NAMES, class_of
from .shards import Clip, read_clips
from .truth import lip_opening

CLOSED = 0.006  # lips less than this share of the picture's side apart are shut: under a pixel at 128
BILABIALS = tuple(CLASS_NAMES.index(name) for name in ("p", "b", "m"))


def closures(clip: Clip) -> list[bool]:
    """Return for every visible p, b and m of the clip whether the lips shut in one of its frames."""
    opening, fps = lip_opening(clip), clip.info["fps"]
    found = []
    for start, end, symbol in clip.info["phonemes"]:
        first, last = int(np.floor(start * fps)), int(np.ceil(end * fps))
        if class_of(symbol) in BILABIALS and 0 < first and last < len(opening):
            found.append(bool(opening[first : last + 1].min() < CLOSED))
    return found


def statistics(folder: Path) -> dict:
    """Summarise all clips: counts, seconds, range of views, lip closures, identity distances; no frame is decoded."""
    counts = {name: Counter() for name in ("kind", "split", "voice")}
    frames, people, closed, yaws, pitches = 0, {}, [], [], []
    seconds = 0.0
    for clip in read_clips(folder, video=False):
        for name, counter in counts.items():
            if clip.info.get(name):
                counter[clip.info[name]] += 1
        count = clip.info["frames"]
        frames, seconds = frames + count, seconds + count / clip.info["fps"]
        people.setdefault(clip.info["identity"], clip.truth["embedding"])
        yaw, pitch, _ = angles(clip.truth["world_from_cam"])
        yaws.append(yaw), pitches.append(pitch)
        if clip.audio is not None and "upper_lip_bottom" in clip.info["landmark_names"]:
            closed += closures(clip)
    if not frames:
        return {"clips": 0}
    yaw, pitch = np.concatenate(yaws), np.concatenate(pitches)
    return {
        "clips": sum(counts["kind"].values()),
        "frames": frames,
        "seconds": round(seconds, 1),
        "kinds": dict(counts["kind"]),
        "splits": dict(counts["split"]),
        "people": len(people),
        "voices": len(counts["voice"]),
        "yaw_degrees": spread(yaw),
        "pitch_degrees": spread(pitch),
        "bilabials": len(closed),
        "bilabials_with_closed_lips": round(float(np.mean(closed)), 4) if closed else None,
        "identity_distance": identity_distances(np.stack(list(people.values()))),
    }


def spread(values: np.ndarray) -> dict[str, float]:
    low, middle, high = np.percentile(values, [2.5, 50, 97.5])
    return {"2.5%": round(float(low), 2), "50%": round(float(middle), 2), "97.5%": round(float(high), 2)}


def identity_distances(embeddings: np.ndarray, pairs: int = 20_000) -> dict[str, float] | None:
    """Return the dlib distances between different people, embeddings [N, 128]; random pairs where there are many."""
    if len(embeddings) < 2:
        return None
    rng = np.random.default_rng(0)
    a, b = rng.integers(len(embeddings), size=(2, pairs))
    a, b = a[a != b], b[a != b]
    distances = np.linalg.norm(embeddings[a] - embeddings[b], axis=1)
    return {"mean": round(float(distances.mean()), 3), "below_0.45": round(float((distances < 0.45).mean()), 4)}


def contact_sheet(folder: Path, path: Path, clips: int = 12, columns: int = 12) -> None:
    """Write a PNG with `columns` frames each of the first clips."""
    from PIL import Image

    rows = []
    for clip in islice(read_clips(folder), clips):
        chosen = np.linspace(0, len(clip.frames) - 1, columns).round().astype(int)
        rows.append(np.hstack(clip.frames[chosen]))
    Image.fromarray(np.vstack(rows)).save(path)


def portraits(folder: Path, path: Path, people: int = 64, columns: int = 8, side: int = 128) -> int:
    """Write a picture with the most frontal frame of each of the first `people` persons; return how many there were."""
    from PIL import Image

    faces: dict[int, Image.Image] = {}
    for clip in read_clips(folder):
        if clip.info["identity"] not in faces:
            yaw, pitch, _ = angles(clip.truth["world_from_cam"])
            frame = clip.frames[int(np.hypot(yaw, pitch).argmin())]
            faces[clip.info["identity"]] = Image.fromarray(frame).resize((side, side), Image.Resampling.LANCZOS)
        if len(faces) == people:
            break
    sheet = Image.new("RGB", (columns * side, -(-len(faces) // columns) * side))
    for index, face in enumerate(faces.values()):
        sheet.paste(face, (index % columns * side, index // columns * side))
    sheet.save(path, quality=88)
    return len(faces)


def four_in_turn(folder: Path, path: Path) -> None:
    """Write a video of the first four people who speak, two by two; each waits for the one before to end."""
    from ..video import write_video

    speaking: dict[int, Clip] = {}
    for clip in read_clips(folder):
        if clip.audio is not None and len(speaking) < 4:
            speaking.setdefault(clip.info["identity"], clip)
    clips = list(speaking.values())
    if len(clips) < 4:
        raise InputError("at least four people who speak", f"{len(clips)} in {folder}", "Make more clips.")
    sound = np.concatenate([clip.audio for clip in clips])[None]
    write_video(path, [in_turn([clip.frames for clip in clips], 2)], clips[0].info["fps"], audio=(sound, SAMPLE_RATE))


def in_turn(videos: list[np.ndarray], columns: int) -> np.ndarray:
    """Show videos one after the other, side by side; each stands still until the one before has ended.

    videos: uint8 [T_i, S, S, 3], a multiple of `columns`. Returns uint8 [sum of T_i, rows * S, columns * S, 3].
    """
    lengths = [len(video) for video in videos]
    starts = np.cumsum([0, *lengths[:-1]])
    at = np.arange(sum(lengths))
    moving = [video[(at - start).clip(0, length - 1)] for video, start, length in zip(videos, starts, lengths)]
    rows = [np.concatenate(moving[first : first + columns], axis=2) for first in range(0, len(moving), columns)]
    return np.concatenate(rows, axis=1)


def previews(folder: Path, count: int) -> list[Path]:
    """Write the first `count` clips as videos with sound into `folder/previews`."""
    from ..video import write_video

    target = folder / "previews"
    target.mkdir(exist_ok=True)
    written = []
    for clip in islice(read_clips(folder), count):
        path = target / f"{clip.key}.mp4"
        sound = None if clip.audio is None else (clip.audio[None], SAMPLE_RATE)
        write_video(path, [clip.frames], clip.info["fps"], audio=sound)
        written.append(path)
    return written


def write_statistics(folder: Path) -> Path:
    path = folder / "stats.json"
    path.write_text(json.dumps(statistics(folder), indent=2) + "\n", encoding="utf-8")
    return path
