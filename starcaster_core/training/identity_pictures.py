"""Pictures of people beside their embeddings, for the image model (`models/image_model.py`).

    python -m starcaster_core.training.identity_pictures --people 2000 --photos DIR --model mini --out PICTURES

A render's person is seen in PICTURES_EACH lights, poses and moods, nearly from the front, as portraits are. A photo is
seen as it is, mirrored, and both in other light before a plainer background; its mirrored self is a person of its own.
Encoded pictures are written 32 people a file; files that are there are not made again. Held-out people and photos (a
tenth, by a hash of their number or name) are left out.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..command import add_debug, run_command
from ..data.portraits import render_portraits
from ..data.splits import members
from ..errors import InputError
from ..files import atomic_write
from ..identity.landmarks import find_landmarks
from ..identity.pictures import enlarged
from ..models.checkpoint import load_checkpoint
from ..models.image_model import ATTRIBUTES, OPEN_EYES
from ..models.lip_warp import OUTLINE
from ..models.starcaster import Starcaster
from .decoder_pairs import decode_jpeg, find_person, photo_files
from .latents import encode_frames

PICTURES_EACH = 4
A_FILE = 32  # people
RENDERED_SIDE = 256  # pixels
MEASURED_SIDE = 256  # pixels that the landmarker sees at least
RIGHT_CHEEK, LEFT_CHEEK = (50, 205), (280, 425)  # landmarks: beside the nose, and below it
BACKGROUND = 0.15, 0.45  # of a picture's side: width and height of the upper corners
PLAIN, MUTED = 5.0, 25.0  # grey levels: standard deviation and chroma of a studio's background
MOVED = 0.02  # of a photo's side, by which it is shifted, grown or shrunk
HEAD, HIGHER = np.array([1.25, 1.5]), 0.1  # the head with its hair, in those of the face's outline, and how much higher
SOFT = 0.4  # of the head, over which it passes into the background
BLURRED = 12  # pixels a side of a background out of focus
DARK = 0.35  # mean of a picture in 0..1, below which it is brightened


def vary_photo(photo: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a photo uint8 [S, S, 3] as it is, mirrored, and both moved and restaged: [PICTURES_EACH, S, S, 3].

    points [478, 2]: its landmarks, picture sides.
    """
    from ..identity.align import warp

    side, both = len(photo), [photo, np.ascontiguousarray(photo[:, ::-1])]
    changed = []
    for picture, places in zip(both, (points, points * [-1, 1] + [1, 0])):
        scale, (x, y) = 1 + rng.uniform(0, MOVED), rng.uniform(-MOVED, MOVED, 2) * side
        middle = (1 - scale) * side / 2
        x, y = np.clip([x, y], -abs(middle), abs(middle))  # so that no border comes in
        staged = restage(picture, places, rng)
        changed.append(warp(staged, np.array([[scale, 0, middle + x], [0, scale, middle + y], [0, 0, 1]]), side))
    return np.stack(both + changed)


def restage(photo: np.ndarray, points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a photo uint8 [S, S, 3] in other light and before a plainer background: who somebody is should not say
    where. points [478, 2]: landmarks, picture sides."""
    side = len(photo)
    pixels = torch.from_numpy(photo.copy()).permute(2, 0, 1)[None].float() / 255
    outline = points[list(OUTLINE)]
    middle, reach = outline.mean(axis=0), HEAD * np.ptp(outline, axis=0) / 2
    ticks = (np.arange(side) + 0.5) / side
    x, y = np.meshgrid((ticks - middle[0]) / reach[0], (ticks - middle[1]) / reach[1] + HIGHER)
    beyond = torch.from_numpy(np.where(y > 0, np.abs(x), np.hypot(x, y)) - 1).float()
    beyond = (beyond / SOFT).clamp(0, 1)
    small = F.interpolate(pixels, (BLURRED, BLURRED), mode="area")
    blurred = F.interpolate(small, (side, side), mode="bicubic", align_corners=False)
    plain = pixels.mean(dim=(2, 3), keepdim=True) + rng.uniform(-0.1, 0.2)
    behind = torch.lerp(blurred, plain, rng.uniform(0.2, 0.9))
    brightness = pixels.mean().item()
    gamma = rng.uniform(0.45, 0.9) if brightness < DARK else rng.uniform(0.8, 1.25)
    staged = torch.lerp(pixels, behind, beyond).clamp(0, 1) ** gamma
    return (staged[0].permute(1, 2, 0) * 255).round().byte().numpy()


def rendered(people: Iterable[int], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    for person in people:
        yield render_portraits(person, seed, PICTURES_EACH, RENDERED_SIDE)


def photographed(files: Iterable[Path], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the pictures of every photo in which a face is found, once with its own embedding and once with that of the
    mirrored photo."""
    for number, file in enumerate(files):
        photo = decode_jpeg(file.read_bytes())
        for seen in (photo, np.ascontiguousarray(photo[:, ::-1])):
            person = find_person(seen)
            if person is not None:
                points = person[0].points[:, :2] / len(seen)
                yield vary_photo(seen, points, np.random.default_rng([seed, number, 0x9407])), person[1]


def attributes_of(picture: np.ndarray) -> np.ndarray:
    """Return a picture's `image_model.ATTRIBUTES`, float32, as the landmarker sees them; NaN where it sees no face."""
    seen = enlarged(picture, -(-MEASURED_SIDE // len(picture)))
    found = find_landmarks(seen)
    if found is None:
        return np.full(len(ATTRIBUTES), np.nan, np.float32)
    points = found.points[:, :2] / len(seen)
    side_light = np.log2(cheek(picture, points, RIGHT_CHEEK) / cheek(picture, points, LEFT_CHEEK))
    eyes = (max(found.lid_openings) - OPEN_EYES) / 0.1
    face = [found.pose.yaw / 20, found.pose.pitch / 20, side_light, found.mouth_opening / 0.2, eyes]
    return np.float32([*face, *background_of(picture)])


def background_of(picture: np.ndarray) -> tuple[float, float, float]:
    """Return brightness, clutter and colour of what lies beside the head, see `image_model.ATTRIBUTES`."""
    side = len(picture)
    beside, above = round(BACKGROUND[0] * side), round(BACKGROUND[1] * side)
    pixels = np.concatenate([picture[:above, :beside], picture[:above, -beside:]], axis=1).astype(np.float32)
    grey, chroma = pixels.mean(axis=-1), pixels.max(axis=-1) - pixels.min(axis=-1)
    return (grey.mean() - 128) / 64, float(np.log2((grey.std() + 4) / (PLAIN + 4))), (chroma.mean() - MUTED) / 50


def cheek(picture: np.ndarray, points: np.ndarray, corners: tuple[int, int]) -> float:
    """Return the brightness of the rectangle between two landmarks [478, 2], picture sides; at least 1 grey level."""
    places = points[list(corners)] * len(picture)
    (x0, y0), (x1, y1) = (np.clip(edge, 0, len(picture) - 1) for edge in (places.min(axis=0), places.max(axis=0)))
    return max(1.0, float(picture[int(y0) : int(y1) + 1, int(x0) : int(x1) + 1].mean()))


@torch.no_grad()
def write_pictures(people: Iterable[tuple[np.ndarray, np.ndarray]], model: Starcaster, file: Path) -> int:
    """Encode some people's pictures into a file; return how many people there were."""
    from safetensors.torch import save_file

    rows = []
    for pictures, embedding in people:
        latents = encode_frames(model, pictures).half()
        rows.append((latents, torch.from_numpy(embedding).float(), torch.from_numpy(measure(model, latents))))
    if rows:
        with atomic_write(file) as part:
            names = ("latents", "embedding", "attributes")
            save_file({name: torch.stack(column) for name, column in zip(names, zip(*rows))}, part)
    return len(rows)


def measure(model: Starcaster, latents: Tensor) -> np.ndarray:
    """Return the attributes of encoded pictures [N, C, h, w] as the autoencoder shows them: float32 [N,
    len(ATTRIBUTES)]."""
    shown = model.decode_frames(latents.float().transpose(0, 1)[None])
    return np.stack([attributes_of(picture) for picture in (shown * 255).round().byte().numpy()])


def make_pictures(
    out: Path,
    model: Starcaster,
    people: int = 0,
    known: int = 20000,
    photos: Path | None = None,
    seed: int = 1,
    splits: tuple[str, ...] = ("train",),
) -> int:
    """Write what is missing of `people` rendered people, out of those of `splits` below `known`, and of a folder's
    photos; return how many people were written."""
    out.mkdir(parents=True, exist_ok=True)
    files = [file for split in splits for file in (photo_files(photos, split) if photos else ())]
    rng, done = np.random.default_rng([seed, 0xFACE]), 0
    candidates = [person for split in splits for person in members("identity", range(known), split)]
    chosen = rng.permutation(candidates)[:people].tolist()
    for kind, whole, read in (("photos", files, photographed), ("renders", chosen, rendered)):
        for first in range(0, len(whole), A_FILE):
            target = out / f"{kind}-{first // A_FILE:05d}.safetensors"
            if not target.exists():
                done += write_pictures(read(whole[first : first + A_FILE], seed), model, target)
    return done


def load_pictures(folder: Path, kind: str = "") -> dict[str, Tensor]:
    """Return latents float16 [N, PICTURES_EACH, C, h, w], embedding [N, E] and attributes [N, PICTURES_EACH,
    len(ATTRIBUTES)] of a folder's people, of one kind ("photos", "renders") or of all.

    Raises InputError where there are none.
    """
    from safetensors.torch import load_file

    parts = [load_file(file) for file in sorted(folder.glob(f"{kind}*.safetensors"))]
    if not parts:
        raise InputError(
            "encoded pictures of people",
            f"none in {folder}",
            "Run `python -m starcaster_core.training.identity_pictures`.",
        )
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--people", type=int, default=0, help="rendered people")
    parser.add_argument("--known", type=int, default=20000, help="they are drawn from the numbers below")
    parser.add_argument("--photos", type=Path, help="folder of aligned photos")
    parser.add_argument("--model", default="mini", help="whose autoencoder encodes them")
    parser.add_argument("--held-out", action="store_true", help="people and photos kept from training instead")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True)
    add_debug(parser)
    args = parser.parse_args()
    model = load_checkpoint(args.model, torch.float32)
    splits = ("val", "test") if args.held_out else ("train",)
    made = make_pictures(args.out, model, args.people, args.known, args.photos, args.seed, splits)
    print(json.dumps({"people": made}))


if __name__ == "__main__":
    raise SystemExit(run_command("make pictures of people", main))
