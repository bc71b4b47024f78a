"""What a model makes, to be looked at: the pictures and videos of docs/gallery.md.

    python scripts/make_gallery.py --data HELD_OUT --model mini

HELD_OUT: clips of people nobody was trained on (`synth --splits val,test`). Written to docs/images:
gallery-people.jpg and .mp4 (16 of them talking), gallery-views.jpg and .mp4 (one, seen from all sides),
gallery-long.jpg and .mp4 (60 seconds in one go), gallery-photos.jpg and .mp4 and photos.webp (photo-like pictures
talking) and gallery-identity.jpg (drawn from their embeddings); these alone without --data. They are thumbnails of
text-to-image and text-to-video templates that ComfyUI itself installs (MIT licence): made by other models from a
sentence, they look like photos and show nobody. `--pictures DIR` keeps them, to be measured.
"""

from __future__ import annotations

import argparse
import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from starcaster_core.camera import CameraMove, preset_path
from starcaster_core.conventions import SAMPLE_RATE
from starcaster_core.data.overview import in_turn
from starcaster_core.data.shards import Clip
from starcaster_core.evaluation.drift import generate_long_video
from starcaster_core.evaluation.videos import (
    choose_clips,
    conditions_of,
    generate_video,
    generate_videos,
    portrait_of,
    to_uint8,
)
from starcaster_core.identity import as_rgb, make_identity, read_picture
from starcaster_core.identity_only import draw_identity
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.pipeline import CROP_SIZE, generate_frames
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.speech import load_audio, mono16k
from starcaster_core.video import write_video

ROOT = Path(__file__).parents[1]
IMAGES, ASSETS = ROOT / "docs" / "images", ROOT / "starcaster_core" / "assets"
PEOPLE, SECONDS = 16, 60
SHOWN = 256  # side of a talking photo in the gallery, pixels
MOVING_SECONDS = 4.0  # of the moving picture in the README
PACKAGES = tuple(f"comfyui_workflow_templates_media_{kind}" for kind in ("image", "video", "api"))
PHOTO_LIKE = (  # nearly frontal ones first
    "video_wan2_2_14B_t2v-1",
    "image_z_image_turbo-1",
    "flux_dev_checkpoint_example-1",
    "image_hidream_o1-1",
    "hidream_i1_full-1",
    "flux1_krea_dev-1",
    "api_stability_ai_stable_image_ultra_t2i-1",
    "image_kandinsky5_t2i-1",
    "api_reve_image_create-1",
    "image_longcat_text_to_image-1",
)
SWEEP = CameraMove("oscillate", yaw=40.0, pitch=10.0, period=4.0)


def people(model: Starcaster, clips: list[Clip], settings: SamplerSettings) -> None:
    """The portrait, then six moments, two people a row; and all of them in turn with their sound."""
    videos = [evaluated.videos["generated"].numpy() for evaluated in generate_videos(model, clips, settings, print)]
    strips = [moments(made, 6, portrait_of(clip)) for made, clip in zip(videos, clips)]
    picture(two_a_row(strips), "people")
    sound = np.concatenate([clip.audio for clip in clips])
    movie([in_turn(videos, 4)], sound, model, "people")


def views(model: Starcaster, clip: Clip, settings: SamplerSettings) -> None:
    """Speech and camera at once."""
    spoken = conditions_of(model, clip)
    path = preset_path(SWEEP, round(SWEEP.period * model.config.fps), model.config.fps)
    made = generate_video(model, Conditions(spoken.identity, spoken.speech, path), settings).numpy()
    picture(moments(made, 9, portrait_of(clip)), "views")
    movie([made], np.resize(clip.audio, round(SWEEP.period * SAMPLE_RATE)), model, "views")


def long(model: Starcaster, clips: list[Clip], settings: SamplerSettings) -> None:
    made = generate_long_video(model, clips, SECONDS, settings)
    picture(moments(made.video.numpy(), 11, portrait_of(clips[0])), "long")
    sound = np.resize(np.concatenate([clip.audio for clip in clips]), SECONDS * SAMPLE_RATE)
    movie([made.video.numpy()], sound, model, "long")


def photos(model: Starcaster, settings: SamplerSettings, kept: Path | None) -> None:
    """Each portrait, then six moments; and all at once, saying the shipped sentence."""
    sound = mono16k(*load_audio(ASSETS / "voice.flac"))
    speech = model.encode_speech(sound)
    videos, strips = [], []
    for name in PHOTO_LIKE:
        found = photo_like(name)
        if kept:
            kept.mkdir(parents=True, exist_ok=True)
            Image.fromarray(found).save(kept / f"{name.removesuffix('-1')}.png")
        who = make_identity([found], CROP_SIZE)
        chunks = generate_frames(model, Conditions(who, speech), settings, size=SHOWN)
        videos.append(np.concatenate([to_uint8(chunk).numpy() for chunk in chunks]))
        portrait = np.asarray(Image.fromarray(who.portrait).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS))
        strips.append(moments(videos[-1], 4, portrait))
    picture(two_a_row(strips), "photos")
    moving(np.concatenate(videos[:4], axis=2)[: round(MOVING_SECONDS * model.config.fps)], model, "photos")
    half = len(videos) // 2
    grid = np.concatenate([np.concatenate(videos[:half], axis=2), np.concatenate(videos[half:], axis=2)], axis=1)
    movie([grid], sound.numpy(), model, "photos")


def from_embeddings(model: Starcaster, settings: SamplerSettings) -> None:
    """Each portrait, two that the model drew from its embedding alone, and two moments of the first of them talking."""
    speech = model.encode_speech(mono16k(*load_audio(ASSETS / "voice.flac"), 1.0))
    strips = []
    for name in PHOTO_LIKE:
        who = make_identity([photo_like(name)], CROP_SIZE)
        drawn = [draw_identity(model, replace(who, portrait=None), seed) for seed in (1, 2)]
        talking = torch.cat(list(generate_frames(model, Conditions(drawn[0], speech), settings)))
        shown = to_uint8(talking[[len(talking) // 3, -1]]).numpy()
        row = [who.portrait, *(one.portrait for one in drawn), *shown]
        small = [np.asarray(Image.fromarray(one).resize((SHOWN, SHOWN), Image.Resampling.LANCZOS)) for one in row]
        strips.append(np.concatenate(small, axis=1))
    picture(two_a_row(strips), "identity")


def photo_like(name: str) -> np.ndarray:
    """Out of ComfyUI's templates, where they are installed, uint8 [H, W, 3]; of a video its first frame"""
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or ():
            path = Path(folder) / "templates" / f"{name}.webp"
            if path.exists():
                return as_rgb(read_picture(path))
    raise SystemExit(f"{name} is in none of {', '.join(PACKAGES)}: pip install comfyui-workflow-templates")


def two_a_row(strips: list[np.ndarray]) -> np.ndarray:
    return np.concatenate([np.concatenate(strips[first : first + 2], axis=1) for first in range(0, len(strips), 2)])


def moments(frames: np.ndarray, count: int, portrait: np.ndarray) -> np.ndarray:
    """The portrait and evenly spaced frames in a row: uint8 [S, (count + 1) * S, 3]"""
    chosen = frames[np.linspace(0, len(frames) - 1, count).round().astype(int)]
    return np.concatenate([portrait, *chosen], axis=1)


def picture(pixels: np.ndarray, name: str) -> None:
    path = IMAGES / f"gallery-{name}.jpg"
    Image.fromarray(pixels).save(path, quality=88)
    print(path)


def moving(frames: np.ndarray, model: Starcaster, name: str) -> None:
    """Write frames uint8 [T, H, W, 3] as an animated WebP, which a page shows by itself."""
    path = IMAGES / f"{name}.webp"
    first, *others = (Image.fromarray(frame) for frame in frames[::2])
    first.save(path, save_all=True, append_images=others, duration=round(2000 / model.config.fps), loop=0, quality=70)
    print(path)


def movie(frames: list[np.ndarray], sound: np.ndarray, model: Starcaster, name: str) -> None:
    path = IMAGES / f"gallery-{name}.mp4"
    write_video(path, frames, model.config.fps, audio=(sound[None], SAMPLE_RATE))
    print(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, nargs="+")
    parser.add_argument("--model", default="mini")
    parser.add_argument("--pictures", type=Path, help="folder for the photo-like pictures")
    args = parser.parse_args()
    model = load_checkpoint(args.model)
    settings = SamplerSettings.of(model.config)
    photos(model, settings, args.pictures)
    from_embeddings(model, settings)
    if not args.data:
        return
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
