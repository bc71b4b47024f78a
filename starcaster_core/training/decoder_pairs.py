"""Training pairs of the reference decoder: a portrait, a frame at full size, and that frame as the model draws it.

Renders bring their true correspondence (`data/pairs.py`). A photo becomes a pair by geometry: it is warped to another
head pose, its lips are closed if they are open, and it is bent a little; the one picture is the portrait and the other
the frame. The drawn frame comes from the model itself, which is told the frame's own sound, head motion and camera.
Where that would draw another expression than the photo has, the frame is noised in part and denoised again. Held-out
photos (a tenth, by a hash of their names) are left out.

Photos that talk: `talking_pairs.py`.

One safetensors file a scene: pairs 0, 1, ... with `N.source`, `N.target` (JPEG bytes), `N.drawn` uint8 [S, S, 3],
`N.flow` float16 [2, F, F], `N.visible` and `N.known` uint8 [F, F], `N.regions` float32 [3, 2], `N.rotation` [3, 3],
`N.camera` and `N.portrait_camera` [25] (`models/extensions/portrait_warp.py`), `N.way` float16 [2, F, F] and `N.layers`
[LAYERS, F, F] (`LipField`), `N.gaps` float32 [2], of the lips of portrait and truth, NaN where no face was found,
and `N.told` [1]. What the others mean: `data/pairs.py: Scene`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera.poses import angles
from ..data.pairs import FLOW_SIDE, SIDE, Scene, intrinsics_of, render_scene, unit_names
from ..data.performance import BROWS_DOWN, RESTING_BROWS, Performance
from ..data.splits import split_of
from ..errors import InputError
from ..files import atomic_write
from ..head_motion import POSE_STD, head_rotations, normalise, random_head_motion, rotations
from ..identity.landmarks import FaceLandmarks, find_landmarks, mouth_and_eyes
from ..models.extensions.portrait_warp import camera_at, warp, warp_flow
from ..models.lip_warp import LAYERS, compose, lip_field, mouth_gap
from ..models.starcaster import Starcaster
from ..sampling.execution import Network
from ..sampling.rollout import cache_branches, cache_subject, denoise
from ..sampling.settings import Conditions, SamplerSettings
from ..types import CameraPath, Identity
from .latents import head_degrees
from .warped_lips import moved_places, places_of, sample, warp_lips

QUALITY = 95  # of JPEG, without subsampling of colours
TURN = np.array([10.0, 5.0, 3.0])  # degrees of yaw, pitch, roll: standard deviation of a photo's other pose
BEND = 0.004  # image sides: how far places of a photo are moved besides
OPEN_LIPS = 0.04  # mouth opening, in mouth widths, from which lips count as open
AGREE = 1.0 / 256  # image sides: how well a warp and its inverse agree where a place is seen in both
PEOPLE = 700  # in the rendered scenes
VARIANTS = 4  # pairs of a photo
PLACES = ("regions", "rotation", "camera", "portrait_camera", "gaps", "told")
PHOTO_ENDINGS = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class Pair:
    """source, target uint8 [S, S, 3]; drawn uint8 [s, s, 3]; known: where the target is the truth; told: whether the
    frame's gap is the truth's, asked for or seen there; the others as the module says. `with_lips` finds way and gaps.
    """

    source: np.ndarray
    target: np.ndarray
    drawn: np.ndarray
    flow: np.ndarray
    visible: np.ndarray
    regions: np.ndarray
    rotation: np.ndarray
    camera: np.ndarray
    portrait_camera: np.ndarray
    known: np.ndarray = field(default_factory=lambda: np.ones((FLOW_SIDE, FLOW_SIDE), np.uint8))
    way: np.ndarray = field(default_factory=lambda: np.zeros((2, FLOW_SIDE, FLOW_SIDE), np.float32))
    layers: np.ndarray = field(default_factory=lambda: np.zeros((LAYERS, FLOW_SIDE, FLOW_SIDE), np.float32))
    gaps: np.ndarray = field(default_factory=lambda: np.full(2, np.nan, np.float32))
    told: np.ndarray = field(default_factory=lambda: np.zeros(1, np.float32))

    def with_lips(self) -> Pair:
        """Return the pair with how the portrait's lips open and, unless it is told, how far those of the truth are
        apart, as the landmarker sees it."""
        found = find_landmarks(self.source)
        if found is None:
            return self
        lips = lip_field(found.points / len(self.source))
        gap = self.gaps[1] if self.told.any() else gap_of(self.target)
        gaps = np.array([lips.gap.item(), gap], np.float32)
        told = np.array([not np.isnan(gap)], np.float32)
        return replace(self, way=lips.way[0].numpy(), layers=lips.layers[0].numpy(), gaps=gaps, told=told)


def enlarged(drawn: np.ndarray) -> np.ndarray:
    """Return a drawn frame uint8 [s, s, 3] at full size."""
    from PIL import Image

    return np.array(Image.fromarray(drawn).resize((SIDE, SIDE), Image.Resampling.BICUBIC))


def gap_of(frame: np.ndarray) -> float:
    """Return how far the lips of a frame uint8 [S, S, 3] are apart, image sides; NaN where no face is found."""
    found = find_landmarks(frame)
    return float("nan") if found is None else mouth_gap(found.points) / len(frame)


# Files ----------------------------------------------------------------------------------------------------------------


def write_pairs(path: Path, pairs: list[Pair]) -> None:
    """Write the pairs of one scene, whole or not at all."""
    from safetensors.numpy import save_file

    tensors: dict[str, np.ndarray] = {}
    for index, pair in enumerate(pair.with_lips() for pair in pairs):
        values = {
            "source": np.frombuffer(encode_jpeg(pair.source), np.uint8),
            "target": np.frombuffer(encode_jpeg(pair.target), np.uint8),
            "drawn": pair.drawn,
            "flow": pair.flow.astype(np.float16),
            "visible": (pair.visible > 0.5).astype(np.uint8),
            "known": (pair.known > 0.5).astype(np.uint8),
            "way": pair.way.astype(np.float16),
            "layers": pair.layers.astype(np.float16),
            **{name: np.asarray(getattr(pair, name), np.float32) for name in PLACES},
        }
        tensors |= {f"{index}.{name}": np.ascontiguousarray(value) for name, value in values.items()}
    with atomic_write(path) as part:
        save_file(tensors, str(part))


def read_pair(path: Path, index: int) -> Pair:
    """Read one pair of a scene."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        names = [name for name in Pair.__annotations__ if f"{index}.{name}" in file.keys()]
        found = {name: file.get_tensor(f"{index}.{name}").numpy() for name in names}
    for name in ("source", "target"):
        found[name] = decode_jpeg(found[name].tobytes())
    return Pair(**found)


def count_pairs(path: Path) -> int:
    """Return how many pairs a scene has."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return sum(key.endswith(".flow") for key in file.keys())


def encode_jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=QUALITY, subsampling=0)
    return sink.getvalue()


def decode_jpeg(content: bytes) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


# Frames as the model draws them ---------------------------------------------------------------------------------------


@torch.no_grad()
def draw_frames(
    model: Starcaster, conditions: Conditions, seed: int, targets: np.ndarray | None = None, start: int = 0
) -> np.ndarray:
    """Draw the frames of one chunk -> uint8 [T, s, s, 3].

    targets: uint8 [T, S, S, 3], from which sampling begins with step `start`, noised as that step expects; None: noise.
    Raises ValueError for more frames than a chunk of a model with temporal attention has.
    """
    settings, config = SamplerSettings.of(model.config, seed=seed), model.config
    frames = chunk_length(model, conditions.frames)
    model.config = replace(config, chunk_frames=frames)
    model.unet.merge_adapters()
    try:
        subject = cache_subject(model, conditions, settings)
        branches = cache_branches(model, conditions, settings, subject, None, 0)
        begin = None
        if targets is not None:
            held = targets[np.minimum(np.arange(frames), len(targets) - 1)]
            begin = start, model.encode_frames(torch.from_numpy(held).float() / 255)
        latents = denoise(Network(model), branches, settings, 0, lambda *_: None, lambda: False, begin)
    finally:
        model.config = config
        model.unet.unmerge_adapters()
    drawn = model.decode_frames(latents[:, :, : conditions.frames])
    return (drawn * 255).round().byte().numpy()


def chunk_length(model: Starcaster, frames: int) -> int:
    """Return how many frames to draw at once to have so many: these alone where frames know nothing of each other, else
    the model's own chunk, the only length that temporal attention has learned."""
    if model.unet.has_untrained_motion():
        return frames
    if frames > model.config.chunk_frames:
        raise ValueError(f"at most {model.config.chunk_frames} frames, not {frames}")
    return model.config.chunk_frames


# Renders --------------------------------------------------------------------------------------------------------------


def head_motion(performance: Performance, names: tuple[str, ...], degrees: np.ndarray) -> Tensor:
    """Return a performance's head motion [T, len(CHANNELS)], the pose counted from `degrees` [3]."""
    weights = dict(zip(names, performance.expression.T))
    right = weights["eyeLookOutLeft"] - weights["eyeLookOutRight"]
    up = weights["eyeLookUpLeft"] - weights["eyeLookDownLeft"]
    brows = weights["browInnerUp"] - RESTING_BROWS - weights["browDownLeft"] / BROWS_DOWN
    pose = head_degrees(performance.head_rotation) - degrees
    gaze = np.stack([right, up], axis=1)
    return torch.from_numpy(normalise(pose, weights["eyeBlinkLeft"], gaze, brows[:, None]))


def scene_pairs(model: Starcaster, scene: Scene, names: tuple[str, ...], rng: np.random.Generator) -> list[Pair]:
    """Let the model draw a scene's frames; half of the time from the frames themselves, noised in part or not at
    all."""
    frames = len(scene.cameras)
    own = head_degrees(scene.portrait_rotation[None])[0]
    motion = head_motion(scene.performance, names, own)
    path, yaw = None, 0.0
    if scene.moving_camera:
        path = CameraPath(scene.cameras, intrinsics_of(frames))
        yaw = float(angles(scene.portrait_camera)[0]) + float(rng.normal(0, 2))
    speech = model.encode_speech(torch.from_numpy(scene.samples)) if scene.heard else None
    conditions = Conditions(Identity(scene.embedding, scene.portrait, yaw=yaw), speech, path, frames, motion)
    seed = int(rng.integers(2**31))
    if rng.random() < 0.5:
        part = replace(conditions, frames=len(scene.rows), head_motion=motion[scene.rows])
        if path is not None:
            part = replace(part, camera=CameraPath(scene.cameras[scene.rows], path.intrinsics[scene.rows]))
        if speech is not None:
            part = replace(part, speech=None)
        steps = SamplerSettings.of(model.config).steps
        drawn = draw_frames(model, part, int(rng.integers(2**31)), scene.frames, int(rng.integers(2, steps + 1)))
    else:
        drawn = draw_frames(model, conditions, seed)[scene.rows]
    before = camera_at(yaw if scene.moving_camera else 0.0).numpy()
    turns = rotations(motion[:, :3].double() * torch.from_numpy(POSE_STD)).numpy()
    return [
        Pair(
            scene.portrait,
            scene.frames[index],
            drawn[index],
            scene.flow[index],
            scene.visible[index],
            scene.regions,
            turns[row],
            path.vectors()[row] if path is not None else before,
            before,
        )
        for index, row in enumerate(scene.rows)
    ]


def make_scenes(model: Starcaster, out: Path, first: int, last: int, seed: int, people: int) -> None:
    """Write the scenes first .. last - 1 that are missing."""
    names = unit_names()
    for number in range(first, last):
        path = out / f"scene-{number:05d}.safetensors"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, number, 0xD3C])
        scene = render_scene(seed, number, people)
        write_pairs(path, scene_pairs(model, scene, names, rng))


# Photos ---------------------------------------------------------------------------------------------------------------


def photo_files(folder: Path, split: str = "train") -> list[Path]:
    """The photos of a split, by a hash of their file names."""
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PHOTO_ENDINGS)
    if not found:
        raise InputError("a folder with photos", f"none in {folder}", f"Known endings: {', '.join(PHOTO_ENDINGS)}.")
    return [path for path in found if split_of("photo", path.name) == split]


def random_field(rng: np.random.Generator, cells: int) -> Tensor:
    """Draw a smooth vector field of unit variance, [1, 2, F, F], with about `cells` bumps a side."""
    coarse = torch.from_numpy(rng.standard_normal((1, 2, cells + 3, cells + 3))).float()
    return F.interpolate(coarse, (FLOW_SIDE, FLOW_SIDE), mode="bicubic", align_corners=True)


def inverse_flow(flow: Tensor, steps: int = 12) -> tuple[Tensor, Tensor]:
    """Invert a backward flow [1, 2, F, F] by fixed-point iteration -> flow [1, 2, F, F] and where it is one, [1, 1, F,
    F]."""
    back = torch.zeros_like(flow)
    for _ in range(steps):
        back = 0.5 * back - 0.5 * warp(flow, back)
    return back, ((back + warp(flow, back)).norm(dim=1, keepdim=True) < AGREE).float()


def warp_picture(picture: np.ndarray, flow: Tensor) -> np.ndarray:
    """Warp uint8 [S, S, 3] by a backward flow [1, 2, F, F]."""
    return as_picture(warp_pictures(as_pixels(picture), flow))


def as_pixels(picture: np.ndarray) -> Tensor:
    """Return a picture uint8 [S, S, 3] as float32 [1, 3, S, S] in 0..255."""
    return torch.from_numpy(picture.copy()).permute(2, 0, 1)[None].float()


def as_picture(pixels: Tensor) -> np.ndarray:
    """Return pixels [1, 3, S, S] in 0..255 as a picture uint8 [S, S, 3]."""
    return pixels[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy()


def warp_pictures(pictures: Tensor, flow: Tensor) -> Tensor:
    """Sample pictures [1 or T, 3, S, S] at place + flow [T, 2, F, F], bicubically: [T, 3, S, S]."""
    return sample(pictures, places_of(flow, pictures.shape[-1]))


def find_person(photo: np.ndarray) -> tuple[FaceLandmarks, np.ndarray] | None:
    """Return the landmarks and the embedding [128] of the face in a photo uint8 [S, S, 3]; None where either is not
    found."""
    from ..identity.embed import embed
    from ..identity.faces import detect

    found, faces = find_landmarks(photo), detect(photo)
    return None if found is None or not faces else (found, embed(photo, faces[0]))


def photo_pairs(model: Starcaster, photo: np.ndarray, rng: np.random.Generator, variants: int) -> list[Pair]:
    """Make pairs of one aligned photo uint8 [S, S, 3]; none where no face is found.

    In two of three the photo is the frame, in the others the portrait.
    """
    person = find_person(photo)
    if person is None:
        return []
    found, embedding = person
    points = found.points / len(photo)
    regions, field = mouth_and_eyes(points), lip_field(points)
    is_open = found.mouth_opening > OPEN_LIPS
    front = camera_at()[None]
    steps = SamplerSettings.of(model.config).steps
    pairs = []
    for _ in range(variants):
        degrees = np.clip(rng.normal(0, 1, 3), -2.2, 2.2) * TURN
        turn = rotations(torch.from_numpy(degrees)[None])
        away = F.interpolate(warp_flow(front, turn, front), (FLOW_SIDE, FLOW_SIDE), mode="bilinear")
        for cells, strength in ((2, 1.0), (5, 0.5)):
            away = away + strength * BEND * rng.uniform(0, 1) * random_field(rng, cells)
        closed = is_open and rng.random() < 0.6
        gap = field.gap * (1 - rng.uniform(0.7, 1.0)) if closed else field.gap
        lips = warp_lips(as_pixels(photo), field, gap, away)
        moved = as_picture(lips.frames)
        back, agrees = inverse_flow(away)
        if closed:  # first the lips' own way, then that of the head
            way, on_lips = moved_places(field, gap)
            back, agrees = compose(way, back), warp(agrees, way) * on_lips
        place = F.grid_sample(back, torch.from_numpy(2 * regions - 1)[None, None], align_corners=False)[0, :, 0].T
        if rng.random() < 0.67:  # from the moved picture to the photo
            source, target, flow, seen, shown = moved, photo, back, agrees, field.gap
            turned, at = turn[0].T, regions + place.numpy()
            motion = -degrees
        else:
            source, target, flow, seen, shown, turned, at, motion = (
                photo,
                moved,
                lips.flow,
                lips.visible if closed else torch.ones_like(agrees),
                gap,
                turn[0],
                regions,
                degrees,
            )
        conditions = Conditions(
            Identity(embedding, source),
            model.encode_speech(torch.zeros(16_000)),
            None,
            1,
            torch.from_numpy(normalise(motion[None], np.zeros(1), np.zeros((1, 2)), np.zeros((1, 1)))),
        )
        freely = not (is_open and target is photo) and not (is_open and not closed) and rng.random() < 0.6
        if freely:
            drawn = draw_frames(model, conditions, int(rng.integers(2**31)))
        else:
            begin = int(rng.integers(1, steps + 1))  # `steps` leaves the autoencoder alone
            conditions = replace(conditions, speech=None)
            drawn = draw_frames(model, conditions, int(rng.integers(2**31)), target[None], begin)
        pairs.append(
            Pair(
                source,
                target,
                drawn[0],
                flow[0].numpy(),
                seen[0, 0].numpy(),
                at,
                turned.numpy(),
                front[0].numpy(),
                front[0].numpy(),
                gaps=np.array([np.nan, shown.item()], np.float32),
                told=np.full(1, closed, np.float32),
            )
        )
    return pairs


def make_photo_pairs(
    model: Starcaster, photos: Path, out: Path, variants: int, seed: int, part: tuple[int, int]
) -> None:
    """Write the pairs of the training photos that are missing. part: (which, of how many) share of the photos."""
    for number, file, path, photo in missing_photos(photos, out, f"photo-{seed}", part):
        rng = np.random.default_rng([seed, number, 0xF0])
        write_found(path, photo_pairs(model, photo, rng, variants), file)


def missing_photos(
    photos: Path, out: Path, prefix: str, part: tuple[int, int]
) -> Iterator[tuple[int, Path, Path, np.ndarray]]:
    """Yield the training photos without pairs: number, file, the pairs' path, uint8 [S, S, 3]. part: (which, of how
    many) share.

    Raises InputError for photos that are not SIDE x SIDE.
    """
    for number, file in enumerate(photo_files(photos)):
        path = out / f"{prefix}-{file.stem}.safetensors"
        if path.exists() or number % part[1] != part[0]:
            continue
        photo = decode_jpeg(file.read_bytes())
        if photo.shape[:2] != (SIDE, SIDE):
            raise InputError(
                f"aligned photos of {SIDE} x {SIDE} pixels",
                f"{file.name}, {photo.shape[1]} x {photo.shape[0]}",
                "Crop them as the Identity Loader does.",
            )
        yield number, file, path, photo


def write_found(path: Path, pairs: list[Pair], photo: Path) -> None:
    """Write a photo's pairs, or say that no face was found in it."""
    if pairs:
        write_pairs(path, pairs)
    else:
        print(json.dumps({"no face in": photo.name}), flush=True)


# Clips of real people ------------------------------------------------------------------------------------------------


def clip_pairs(model: Starcaster, frames: list[np.ndarray], rng: np.random.Generator, count: int = 3) -> list[Pair]:
    """Make pairs of the frames uint8 [H, W, 3] of one person who talks: the first is the portrait. Where places of the
    one lie in the other is not known."""
    from ..identity.align import ffhq_transform, warp
    from ..identity.embed import embed
    from ..identity.faces import detect

    found = find_landmarks(frames[0])
    if found is None:
        return []
    points = found.points[:, :2]
    crop = ffhq_transform(
        (points[33] + points[133]) / 2, (points[362] + points[263]) / 2, (points[61] + points[291]) / 2, SIDE
    )
    source = warp(frames[0], crop, SIDE)
    faces, own = detect(source), find_landmarks(source)
    if not faces or own is None:
        return []
    points = own.points / SIDE
    regions = mouth_and_eyes(points)
    embedding, front, pairs = embed(source, faces[0]), camera_at()[None], []
    steps = SamplerSettings.of(model.config).steps
    for row in rng.choice(np.arange(1, len(frames)), count, replace=False):
        target = warp(frames[row], crop, SIDE)
        moved = find_landmarks(target)
        if moved is None:
            continue
        degrees = np.subtract(moved.pose, own.pose) * [-1, -1, -1]  # the camera's way round is not the head's
        motion = normalise(degrees[None], np.zeros(1), np.zeros((1, 2)), np.zeros((1, 1)))
        conditions = Conditions(Identity(embedding, source), None, None, 1, torch.from_numpy(motion))
        begin = int(rng.integers(2, steps + 1))  # nothing else tells the model how the mouth is
        drawn = draw_frames(model, conditions, int(rng.integers(2**31)), target[None], begin)
        turned = rotations(torch.from_numpy(degrees)[None])[0]
        unknown = np.zeros((2, FLOW_SIDE, FLOW_SIDE)), np.zeros((FLOW_SIDE, FLOW_SIDE))
        pairs.append(
            Pair(source, target, drawn[0], *unknown, regions, turned.numpy(), front[0].numpy(), front[0].numpy())
        )
    return pairs


def make_clip_pairs(model: Starcaster, videos: Path, out: Path, seed: int) -> None:
    """Write the pairs of the training videos of a folder that are missing."""
    from ..data.clips import CONTAINERS, frames_at

    files = sorted(path for path in videos.rglob("*") if path.suffix.lower() in CONTAINERS)
    for number, file in enumerate(files):
        path = out / f"clip-{file.stem}.safetensors"
        if split_of("photo", file.name) != "train" or path.exists():
            continue
        pairs = clip_pairs(model, list(frames_at(file)), np.random.default_rng([seed, number, 0xC1]))
        if pairs:
            write_pairs(path, pairs)


# To be looked at ------------------------------------------------------------------------------------------------------


def make_shown(model: Starcaster, photos: Path, voice: Path, out: Path, people: int, seed: int) -> None:
    """Write what a user would get for photos that are kept from training, to be looked at: two frames of speech each,
    and one with the camera 20 degrees aside. There is no truth: the portrait stands in for it."""
    from ..camera import CameraMove, preset_path
    from ..speech import load_audio, mono16k

    held_out = photo_files(photos, "test")
    speech = model.encode_speech(mono16k(*load_audio(voice)))
    settings = SamplerSettings.of(model.config)
    front = camera_at()
    for file in held_out[:: max(1, len(held_out) // people)][:people]:
        photo = decode_jpeg(file.read_bytes())
        person = find_person(photo)
        if person is None:
            continue
        found, embedding = person
        points = found.points / len(photo)
        regions = mouth_and_eyes(points)
        identity = Identity(embedding, photo, yaw=found.pose.yaw)
        motion = random_head_motion(seed, 40, 16, model.config.fps)
        part = replace(speech, features=speech.features[40:56])
        drawn = draw_frames(model, Conditions(identity, part, None, 16, motion), settings.seed)
        turns = head_rotations(motion).numpy()
        one = Conditions(
            identity, part, preset_path(CameraMove("static", start_yaw=20.0), 16), 16, torch.zeros_like(motion)
        )
        aside = draw_frames(model, one, settings.seed)
        nothing = np.zeros((2, FLOW_SIDE, FLOW_SIDE)), np.zeros((FLOW_SIDE, FLOW_SIDE))
        pairs = [
            Pair(photo, photo, drawn[row], *nothing, regions, turns[row], front.numpy(), front.numpy())
            for row in (3, 10)
        ]
        own = camera_at(found.pose.yaw).numpy()
        pairs.append(Pair(photo, photo, aside[5], *nothing, regions, np.eye(3), one.camera.vectors()[5], own))
        write_pairs(out / f"shown-{file.stem}.safetensors", pairs)
