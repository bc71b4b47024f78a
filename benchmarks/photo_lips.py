"""Do the lips of photos open as the voice wants? Held-out photos say what held-out rendered clips, or real people, say.

    python benchmarks/photo_lips.py --photos PHOTOS --data CLIPS --models mini other.safetensors \\
        --out benchmarks/results/photo-lips.json
    python benchmarks/photo_lips.py --photos PHOTOS --videos VIDEOS --models mini other.safetensors \\
        --out benchmarks/results/recorded-lips.json

The true opening is the renderer's; that of people in VIDEOS is what the landmarker sees of them. It also measures the
finished frames, 512 x 512, in mouth widths; it sees wide mouths less open than they are, so sizes say less than
correlations. CLIPS: shards of `synth` with a `val` split.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from starcaster_core.data.clips import CONTAINERS, frames_at
from starcaster_core.data.shards import read_clips
from starcaster_core.head_motion import CHANNELS
from starcaster_core.identity import make_identity
from starcaster_core.identity.landmarks import FaceLandmarks, find_landmarks, follow_landmarks
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.lip_warp import mouth_gap, mouth_width
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.pipeline import generate_frames
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.speech import load_audio, mono16k
from starcaster_core.training.decoder_pairs import decode_jpeg, photo_files
from starcaster_core.training.photo_clips import lip_motion, still_gaze

FRAMES, VIDEO_FRAMES, PEOPLE = 32, 60, 24
LEAST = 20  # frames in which a face is found, for a photo to count


@dataclass(frozen=True)
class Said:
    """audio: 16 kHz, [N]. opening: how far the speaker's lips are apart, in mouth widths, [T]. motion: the head's, [T,
    len(CHANNELS)]."""

    audio: np.ndarray
    opening: np.ndarray
    motion: torch.Tensor


def by_renders(folder: Path) -> list[Said]:
    """Read held-out rendered clips."""
    clips = read_clips(folder, "val", ("temporal",))
    return [Said(clip.audio, lip_motion(clip)[0], still_gaze(clip)) for clip in clips]


def by_people(folder: Path, count: int) -> list[Said]:
    """Read `count` of a folder's videos of one face with sound each; those that lose sight of it are left out."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in CONTAINERS)
    said = []
    for path in files[:: max(1, len(files) // count)][:count]:
        seen = [opening(found) for found in follow_landmarks(islice(frames_at(path), VIDEO_FRAMES))]
        if not np.isnan(seen).any():
            motion = torch.zeros(len(seen), len(CHANNELS))
            said.append(Said(mono16k(*load_audio(path)).numpy(), np.array(seen), motion))
    return said


def opening(found: FaceLandmarks | None) -> float:
    """Return how far the lips of a face are apart, in mouth widths; NaN where there is none."""
    return float("nan") if found is None else mouth_gap(found.points) / mouth_width(found.points)


def measure(model: Starcaster, photo: np.ndarray, said: Said, most: int) -> dict[str, float] | None:
    """Return the correlation of a talking photo's opening with the speaker's, and the ratio of their standard
    deviations, over `most` frames."""
    count = min(most, len(said.opening))
    speech = model.encode_speech(torch.from_numpy(said.audio.copy()))
    speech = replace(speech, features=speech.features[:count], loudness=None)
    conditions = Conditions(make_identity([photo], 512), speech, None, count, said.motion[:count])
    frames = torch.cat(list(generate_frames(model, conditions, SamplerSettings.of(model.config, seed=1))))
    shown = np.array([opening(find_landmarks(frame)) for frame in (frames * 255).round().byte().numpy()])
    true, seen = said.opening[:count], ~np.isnan(shown)
    if seen.sum() < LEAST:
        return None
    correlation = np.corrcoef(shown[seen], true[seen])[0, 1]
    return {"correlation": float(correlation), "motion": float(shown[seen].std() / true[seen].std())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    by = parser.add_mutually_exclusive_group(required=True)
    by.add_argument("--data", type=Path)
    by.add_argument("--videos", type=Path)
    parser.add_argument("--models", nargs="+", default=["mini"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    files = photo_files(args.photos, "test")
    files = files[:: max(1, len(files) // PEOPLE)][:PEOPLE]
    said = by_people(args.videos, PEOPLE) if args.videos else by_renders(args.data)
    most = VIDEO_FRAMES if args.videos else FRAMES
    results = {}
    for name in args.models:
        model = load_checkpoint(name)
        rows = [
            measure(model, decode_jpeg(file.read_bytes()), said[number % len(said)], most)
            for number, file in enumerate(files)
        ]
        rows = [row for row in rows if row is not None]
        means = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in ("correlation", "motion")}
        results[Path(name).stem] = means | {"photos": len(rows)}
        print(json.dumps({Path(name).stem: results[Path(name).stem]}), flush=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
