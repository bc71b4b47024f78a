"""Do the lips of photos open as the voice wants? Held-out photos say what held-out rendered clips say.

    python benchmarks/photo_lips.py --photos PHOTOS --data CLIPS --models mini other.safetensors \\
        --out benchmarks/results/photo-lips.json

The true opening is the renderer's. The landmarker measures the finished frames, 512 x 512, in mouth widths; it sees
wide mouths less open than they are, so sizes say less than correlations. CLIPS: shards of `synth` with a `val` split.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from starcaster_core.data.shards import Clip, read_clips
from starcaster_core.identity import make_identity
from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.lip_warp import mouth_gap, mouth_width
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.pipeline import generate_frames
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.training.decoder_pairs import decode_jpeg, photo_files
from starcaster_core.training.photo_clips import lip_motion, still_gaze

FRAMES, PEOPLE = 32, 10
LEAST = 20  # frames in which a face is found, for a photo to count


def opening(frame: np.ndarray) -> float:
    """Return how far the lips of a frame uint8 [S, S, 3] are apart, in mouth widths; NaN where no face is found."""
    found = find_landmarks(frame)
    if found is None:
        return float("nan")
    return mouth_gap(found.points) / mouth_width(found.points)


def measure(model: Starcaster, photo: np.ndarray, clip: Clip) -> dict[str, float] | None:
    """Return the correlation of a talking photo's opening with the clip's, and the ratio of their standard
    deviations."""
    speech = model.encode_speech(torch.from_numpy(clip.audio.copy()))
    speech = replace(speech, features=speech.features[:FRAMES], loudness=None)
    conditions = Conditions(make_identity([photo], 512), speech, None, FRAMES, still_gaze(clip)[:FRAMES])
    frames = torch.cat(list(generate_frames(model, conditions, SamplerSettings.of(model.config, seed=1))))
    shown = np.array([opening(frame) for frame in (frames * 255).round().byte().numpy()])
    true, seen = lip_motion(clip)[0][:FRAMES], ~np.isnan(shown)
    if seen.sum() < LEAST:
        return None
    correlation = np.corrcoef(shown[seen], true[seen])[0, 1]
    return {"correlation": float(correlation), "motion": float(shown[seen].std() / true[seen].std())}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", nargs="+", default=["mini"])
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    files = photo_files(args.photos, "test")
    files = files[:: max(1, len(files) // PEOPLE)][:PEOPLE]
    clips = list(read_clips(args.data, "val", ("temporal",)))
    results = {}
    for name in args.models:
        model = load_checkpoint(name)
        rows = [
            measure(model, decode_jpeg(file.read_bytes()), clips[number % len(clips)])
            for number, file in enumerate(files)
        ]
        rows = [row for row in rows if row is not None]
        means = {key: round(float(np.mean([row[key] for row in rows])), 3) for key in ("correlation", "motion")}
        results[Path(name).stem] = means | {"photos": len(rows)}
        print(json.dumps({Path(name).stem: results[Path(name).stem]}), flush=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
