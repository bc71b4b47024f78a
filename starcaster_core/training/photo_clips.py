"""Clips out of photos, for the denoiser: a photo is given what a rendered clip says, how its head moves and its camera.

    python -m starcaster_core.training.photo_clips --photos DIR --data CLIPS --model mini --out LATENTS

Lips open as far as the rendered ones, in mouth widths, the head turns and the camera moves by geometry
(`models/lip_warp.py`, `models/extensions/portrait_warp.py`); what lies between the lips is the render's. Eyes keep
looking as they do in the photo, and the head motion says so. Encoded clips go beside those of renders, 32 photos a
file; files that are there are not made again. Held-out photos (a tenth, by a hash of their names) are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera.path import make_path
from ..camera.poses import RADIUS, angles
from ..command import add_debug, run_command
from ..data.shards import Clip, read_clips
from ..errors import InputError
from ..files import atomic_write
from ..head_motion import POSE_CHANNELS, head_rotations
from ..identity.landmarks import LEFT_LIDS, RIGHT_LIDS
from ..models.checkpoint import load_checkpoint
from ..models.extensions.portrait_warp import camera_at, warp_flow
from ..models.lip_warp import (
    LEFT_CORNER,
    RIGHT_CORNER,
    lip_field,
    lip_lines,
    mouth_width,
)
from ..models.reference_decoder import move_regions
from ..models.starcaster import Starcaster
from ..sampling.settings import Conditions
from ..types import Identity
from .decoder_pairs import decode_jpeg, find_person, photo_files, warp_pictures
from .latents import EYE_MARGIN, KINDS, SPLITS, encode_frames, encode_sound, head_motion_of
from .talking_pairs import STRETCH, move_lips, stretched_mouth
from .warped_lips import warp_lips

SIDE = 256  # of the frames that are made, pixels
A_FILE = 32  # photos
FARTHEST = 15.0  # degrees that cameras go to the side: beyond, the geometry of a photo is not the truth
IDENTITIES = 1_000_000  # numbers of photos begin here, those of renders below
WIDEST = 0.45  # opening of a photo's lips, mouth widths: beyond, geometry tears them
INSIDE = 0.75  # of half a render's mouth: nearer to its corners lips and cheeks show
BELOW_UPPER, ABOVE_LOWER = 0.01, 0.05  # mouth widths off a render's lips: what surely lies between them
WARMTH = (1.05, 0.98, 0.86)  # of red, green and blue: rendered teeth are grey, people's are not
MOUTH_MARGIN = 0.06  # of a picture's side, round the mouth, as in renders
MOUTH, EYES = (61, 291, 0, 17), (33, 133, 362, 263, *sum(RIGHT_LIDS + LEFT_LIDS, ()))


def lip_motion(clip: Clip) -> tuple[np.ndarray, np.ndarray]:
    """Return how far a rendered clip's lips are apart, in mouth widths [T], WIDEST at most, and how wide the mouth is
    over its median [T]."""
    at = dict(zip(clip.info["landmark_names"], clip.truth["landmarks"].transpose(1, 0, 2)))
    widths = np.linalg.norm(at["right_mouth"] - at["left_mouth"], axis=1)
    gaps = np.linalg.norm(at["upper_lip_bottom"] - at["lower_lip_top"], axis=1)
    yaw = np.radians(angles(clip.truth["world_from_cam"].reshape(-1, 4, 4))[0].clip(-60, 60))
    widths = widths / np.cos(yaw)  # as from the front
    width = np.median(widths)
    stretch = np.ones_like(widths) if clip.info["kind"] == "joint" else (widths / width).clip(*STRETCH)
    return (gaps / width).clip(max=WIDEST), stretch


def nearer_cameras(clip: Clip) -> np.ndarray:
    """Return a clip's cameras [T, 25], brought nearer to the front where they go farther than FARTHEST."""
    poses = clip.truth["world_from_cam"].reshape(-1, 4, 4)
    yaw, pitch, distance = angles(poses)
    part = min(1.0, FARTHEST / max(1e-6, np.abs(yaw).max()))
    return make_path(part * yaw, part * pitch, distance / RADIUS, clip.info["fps"]).vectors()


def still_gaze(clip: Clip) -> Tensor:
    """Return a clip's head motion [T, len(CHANNELS)]: its pose about the mean of it, eyes open and straight ahead."""
    motion = torch.from_numpy(head_motion_of(clip))
    motion[:, POSE_CHANNELS:] = 0
    motion[:, :POSE_CHANNELS] -= motion[:, :POSE_CHANNELS].mean(dim=0)
    return motion


def saying(model: Starcaster, clip: Clip, rows: slice, identity: Identity) -> Conditions:
    """Return the conditions under which somebody says some frames of a rendered clip, with `still_gaze`."""
    speech = model.encode_speech(torch.from_numpy(clip.audio.copy()))
    speech = replace(speech, features=speech.features[rows], loudness=None)
    motion = still_gaze(clip)[rows]
    return Conditions(identity, speech, None, len(motion), motion)


def rendered_mouth(clip: Clip, row: int, points: np.ndarray, side: int = SIDE) -> Tensor:
    """Return a picture [3, side, side] in 0..1 with the inside of a render's mouth between a photo's lips.

    points [478, 2]: the photo's landmarks, image sides, lips moved. What lies between the one's lips is spread over
    what lies between the other's, column by column: a smile is wider than it is high, and would show the render's lips.
    Upper teeth reach down as far as the render's, however wide the mouth is.
    """
    at = dict(zip(clip.info["landmark_names"], clip.truth["landmarks"][row] / clip.info["size"]))
    frame = torch.from_numpy(clip.frames[row].copy()).permute(2, 0, 1)[None].float() / 255
    ticks = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid(ticks, ticks)
    right, left = points[RIGHT_CORNER, 0], points[LEFT_CORNER, 0]
    across = np.clip((x - (right + left) / 2) / max(1e-6, (left - right) / 2), -1, 1)
    upper, lower = lip_lines(points, x)
    down = np.clip((y - upper) / np.maximum(lower - upper, 1e-6), 0, 1)

    corners = (at["right_mouth"], at["left_mouth"])
    middle, half = (corners[0] + corners[1]) / 2, INSIDE * (corners[1] - corners[0]) / 2
    lens = 1 - (INSIDE * across) ** 2  # the opening's shape
    top, bottom = (at[name][1] - middle[1] for name in ("upper_lip_bottom", "lower_lip_top"))
    width, height = 2 * np.hypot(*half) / INSIDE, bottom - top
    top += min(BELOW_UPPER * width, 0.1 * height)
    bottom -= min(ABOVE_LOWER * width, 0.3 * height)
    x_there = middle[0] + across * half[0]
    y_there = middle[1] + across * half[1] + lens * (top + down * (bottom - top))
    grid = torch.from_numpy(2 * np.stack([x_there, y_there], axis=-1) - 1).float()
    inside = F.grid_sample(frame, grid[None], padding_mode="border", align_corners=False)[0]
    return (inside * inside.new_tensor(WARMTH)[:, None, None]).clamp(max=1)


def talk(photo: Tensor, points: np.ndarray, clip: Clip) -> tuple[Tensor, np.ndarray]:
    """Move a photo's lips as those of a rendered clip.

    photo [1, 3, SIDE, SIDE] in 0..1, its landmarks [478, 2] in image sides -> frames [T, 3, SIDE, SIDE], landmarks [T,
    478, 2].
    """
    field = lip_field(points)
    gaps, stretches = lip_motion(clip)
    gaps = torch.from_numpy(gaps * mouth_width(points)).float()
    lips = warp_lips(photo, field, gaps, torch.cat([stretched_mouth(points, s) for s in stretches]))
    moved = move_lips(points, (gaps - field.gap).numpy(), stretches)
    frames, unknown = lips.frames, lips.layers.unknown
    for row in unknown.amax(dim=(1, 2, 3)).nonzero()[:, 0].tolist():
        frames[row] = torch.lerp(frames[row], rendered_mouth(clip, row, moved[row]), unknown[row])
    return frames, moved


def box_round(points: Tensor, margin: float) -> Tensor:
    """Return boxes x0, y0, x1, y1 [T, 4] round points [T, K, 2], image sides."""
    return torch.cat([points.amin(dim=1) - margin, points.amax(dim=1) + margin], dim=1).clamp(0, 1)


def photo_clip(photo: np.ndarray, points: np.ndarray, clip: Clip) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Return frames uint8 [T, SIDE, SIDE, 3] of a photo that does what a rendered clip does, and what is known of them.

    photo uint8 [S, S, 3], aligned; points [478, 2]: its landmarks, image sides. The second holds camera, mouth, eyes
    and head_motion as in `latents.ClipSet`.
    """
    count, kind = len(clip.frames), clip.info["kind"]
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255
    pixels = F.interpolate(pixels, (SIDE, SIDE), mode="area")
    motion = still_gaze(clip)
    if kind == "spatial":
        frames, moved = pixels.expand(count, -1, -1, -1), np.repeat(points[None], count, axis=0)
    else:
        frames, moved = talk(pixels, points, clip)
    front = camera_at()[None].expand(count, -1)
    camera = front if kind == "temporal" else torch.from_numpy(nearer_cameras(clip))
    turned = warp_flow(camera, head_rotations(motion), front)
    frames = warp_pictures(frames, turned)
    places = torch.from_numpy(moved[:, [*MOUTH, *EYES]]).float()
    places = move_regions(places, turned)
    pictures = (frames.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).numpy()
    return pictures, {
        "camera": camera.float(),
        "mouth": box_round(places[:, : len(MOUTH)], MOUTH_MARGIN),
        "eyes": box_round(places[:, len(MOUTH) :], EYE_MARGIN),
        "head_motion": motion,
    }


def encode_photo(model: Starcaster, photo: np.ndarray, clip: Clip, number: int) -> dict[str, Tensor] | None:
    """Return a row of `latents.ClipSet` of a photo that does what a clip does; None where no face is found."""
    person = find_person(photo)
    if person is None:
        return None
    found, embedding = person
    points = (found.points[:, :2] / len(photo)).astype(np.float64)
    frames, known = photo_clip(photo, points, clip)
    return known | {
        "latents": encode_frames(model, frames).half(),
        "speech": encode_sound(model, clip).half(),
        "embedding": torch.from_numpy(embedding).float(),
        "kind": torch.tensor(KINDS.index(clip.info["kind"])),
        "split": torch.tensor(SPLITS.index("train")),
        "identity": torch.tensor(IDENTITIES + number),
    }


@torch.no_grad()
def encode_photos(photos: Path, data: Path, out: Path, model: Starcaster) -> int:
    """Write the encoded clips of a folder's training photos that are missing; return how many photos were encoded.

    data: folder of rendered shards, whose training clips the photos follow one after the other.
    """
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    files, clips, done = photo_files(photos), cycle_clips(data), 0
    for first in range(0, len(files), A_FILE):
        target = out / f"photos-{first // A_FILE:05d}.safetensors"
        if target.exists():
            continue
        rows = []
        for number, file in enumerate(files[first : first + A_FILE], start=first):
            row = encode_photo(model, decode_jpeg(file.read_bytes()), next(clips), number)
            if row is None:
                print(json.dumps({"no face in": file.name}), flush=True)
            else:
                rows.append(row)
        if rows:
            with atomic_write(target) as part:
                save_file({name: torch.stack([row[name] for row in rows]).contiguous() for name in rows[0]}, str(part))
            done += len(rows)
    return done


def cycle_clips(data: Path, kinds: tuple[str, ...] | None = None) -> Iterator[Clip]:
    """Yield a folder's training clips, or those of some kinds, again and again. Raises InputError where there is
    none."""
    while True:
        clip = None
        for clip in read_clips(data, "train", kinds):
            yield clip
        if clip is None:
            wanted = f"a folder with training clips ({', '.join(kinds or KINDS)})"
            raise InputError(wanted, f"{data} without any", "Make some with `synth`.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned photos")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument("--model", default="mini", help="whose autoencoder and speech encoder encode them")
    parser.add_argument("--out", type=Path, required=True)
    add_debug(parser)
    args = parser.parse_args()
    model = load_checkpoint(args.model, torch.float32)
    print(json.dumps({"photos": encode_photos(args.photos, args.data, args.out, model)}))


if __name__ == "__main__":
    raise SystemExit(run_command("encode photos", main))
