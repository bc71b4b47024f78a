"""What a model makes, to be looked at: the pictures and videos of docs/gallery.md.

    python scripts/make_gallery.py --data HELD_OUT --model mini

HELD_OUT: clips of people nobody was trained on (`synth --splits val,test`). Written to docs/images:
gallery-people.jpg and .mp4 (16 of them talking), gallery-views.jpg and .mp4 (one, seen from all sides), gallery-long.jpg
and .mp4 (60 seconds in one go).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from starcaster_core.camera import CameraMove, preset_path
from starcaster_core.data.overview import in_turn
from starcaster_core.data.shards import SAMPLE_RATE, Clip
from starcaster_core.evaluation.drift import film_long
from starcaster_core.evaluation.footage import choose_clips, conditions_of, film, generate, portrait_of
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.sampling import Conditions, SamplerSettings
from starcaster_core.video import write_video

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PEOPLE, SECONDS = 16, 60
SWEEP = CameraMove("oscillate", yaw=40.0, pitch=10.0, period=4.0)


def people(model: Starcaster, clips: list[Clip], settings: SamplerSettings) -> None:
    """The portrait, then six moments, two people a row; and all of them in turn with their sound."""
    films = [take.videos["generated"].numpy() for take in film(model, clips, settings, print)]
    strips = [moments(made, 6, portrait_of(clip)) for made, clip in zip(films, clips)]
    rows = [np.concatenate(strips[first : first + 2], axis=1) for first in range(0, len(strips), 2)]
    picture(np.concatenate(rows), "people")
    sound = np.concatenate([clip.audio for clip in clips])
    movie([in_turn(films, 4)], sound, model, "people")


def views(model: Starcaster, clip: Clip, settings: SamplerSettings) -> None:
    """Speech and camera at once."""
    spoken = conditions_of(model, clip)
    path = preset_path(SWEEP, round(SWEEP.period * model.config.fps), model.config.fps)
    made = generate(model, Conditions(spoken.identity, spoken.speech, path), settings).numpy()
    picture(moments(made, 9, portrait_of(clip)), "views")
    movie([made], np.resize(clip.audio, round(SWEEP.period * SAMPLE_RATE)), model, "views")


def long(model: Starcaster, clips: list[Clip], settings: SamplerSettings) -> None:
    take = film_long(model, clips, SECONDS, settings)
    picture(moments(take.video.numpy(), 11, portrait_of(clips[0])), "long")
    sound = np.resize(np.concatenate([clip.audio for clip in clips]), SECONDS * SAMPLE_RATE)
    movie([take.video.numpy()], sound, model, "long")


def moments(frames: np.ndarray, count: int, portrait: np.ndarray) -> np.ndarray:
    """The portrait and evenly spaced frames in a row: uint8 [S, (count + 1) * S, 3]"""
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return np.concatenate([portrait, *chosen], axis=1)


def picture(pixels: np.ndarray, name: str) -> None:
    path = IMAGES / f"gallery-{name}.jpg"
    Image.fromarray(pixels).save(path, quality=88)
    print(path)


def movie(frames: list[np.ndarray], sound: np.ndarray, model: Starcaster, name: str) -> None:
    path = IMAGES / f"gallery-{name}.mp4"
    write_video(path, frames, model.config.fps, audio=(sound[None], SAMPLE_RATE))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--model", default="mini")
    args = parser.parse_args()
    model = load_checkpoint(args.model)
    settings = SamplerSettings.of(model.config)
    found: dict[int, Clip] = {}
    for clip in choose_clips(args.data, 4 * PEOPLE):
        if clip.info["kind"] == "temporal":
            found.setdefault(clip.info["identity"], clip)
    clips = list(found.values())[:PEOPLE]
    people(model, clips, settings)
    views(model, clips[0], settings)
    long(model, clips, settings)


if __name__ == "__main__":
    main()
