"""Training pairs of photos that talk, for the reference decoder.

The model draws a photo saying something. The truth is made out of the photo by geometry: its head is turned and its
lips are moved to how far the drawn ones are open (`warped_lips.py`). So the decoder learns on real faces, and on
frames as it will get them, that lips follow the drawn frame. What lies between lips that open further than the photo's
is not known: the drawn frame's colours stand there, and no loss takes them for the truth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.splits import split_of
from ..errors import InputError
from ..head_motion import POSE_STD, head_rotations, random_head_motion
from ..identity.landmarks import LEFT_IRIS, RIGHT_IRIS, FaceLandmarks, find_landmarks, mouth_and_eyes
from ..models.extensions.portrait_warp import camera_at, pixel_centres, warp_flow
from ..models.lip_warp import (
    LEFT_CORNER,
    RIGHT_CORNER,
    LipField,
    compose,
    lip_directions,
    lip_field,
    mouth_gap,
)
from ..models.starcaster import Starcaster
from ..sampling.settings import Conditions
from ..types import Identity, Speech
from .decoder_pairs import (
    FLOW_SIDE,
    Pair,
    as_picture,
    as_pixels,
    draw_frames,
    enlarged,
    find_person,
    missing_photos,
    warp_pictures,
    write_found,
)
from .warped_lips import warp_lips

FRAMES, KEPT = 16, 4  # drawn of a photo; of these, mouths as different as they come become pairs
BIAS = 0.004  # image sides: how far the landmarker sees closed lips apart in soft frames
STRETCH = 0.8, 1.15  # of the mouth's width while it talks
VOICE = Path(__file__).resolve().parent.parent / "assets" / "voice.flac"
AUDIO_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def stretched_mouth(points: np.ndarray, stretch: float) -> Tensor:
    """Return the backward flow [1, 2, F, F] that makes the mouth of landmarks [478, 2] wider by a factor."""
    right, left = points[RIGHT_CORNER], points[LEFT_CORNER]
    middle = torch.from_numpy((right + left) / 2).float()
    half = float(np.linalg.norm(left - right)) / 2
    away = pixel_centres(FLOW_SIDE, torch.device("cpu")) - middle
    near = torch.exp(-((away / (1.4 * half)) ** 4).sum(dim=-1))
    across = (1 / stretch - 1) * away[..., 0] * near
    return torch.stack([across, torch.zeros_like(across)])[None]


def move_lips(points: np.ndarray, change: np.ndarray, stretch: np.ndarray) -> np.ndarray:
    """Return landmarks [..., 478, 2] of a mouth [478, 2] that opens by `change` [...] and is `stretch` [...] times as
    wide."""
    moved = points + change[..., None, None] * lip_directions(points)
    middle = (points[RIGHT_CORNER, 0] + points[LEFT_CORNER, 0]) / 2
    moved[..., 0] = middle + stretch[..., None] * (moved[..., 0] - middle)
    return moved


def pair_of(
    photo: np.ndarray,
    points: np.ndarray,
    field: LipField,
    drawn: np.ndarray,
    turn: Tensor,
    gap: float,
    stretch: float,
    mouth: Callable[[np.ndarray], Tensor] | None = None,
) -> Pair:
    """Return a photo's pair with a drawn frame.

    photo: uint8 [S, S, 3], its landmarks [478, 2] in image sides and their `lip_field`. turn: [3, 3] of the head. gap:
    of the lips, image sides, and how much wider the mouth is. mouth: where the gap is told, makes of the landmarks of
    the moved lips a picture [3, S, S] in 0..1 of what lies between them; None where it was seen in the drawn frame.
    """
    front = camera_at()[None]
    turned = F.interpolate(warp_flow(front, turn[None], front), (FLOW_SIDE, FLOW_SIDE), mode="bilinear")
    before = compose(turned, stretched_mouth(points, stretch))
    lips = warp_lips(as_pixels(photo), field, torch.tensor([gap]), before)
    unknown = lips.layers.unknown
    known = torch.ones(1, 1, FLOW_SIDE, FLOW_SIDE)
    if mouth is None:
        inside = as_pixels(enlarged(drawn))
        known = (F.avg_pool2d(unknown, len(photo) // FLOW_SIDE) < 0.1).float()
    else:
        moved = move_lips(points, np.array(gap - field.gap.item()), np.array(stretch))
        inside = 255 * warp_pictures(mouth(moved)[None], turned)
    target = as_picture(torch.lerp(lips.frames, inside, unknown))
    flow, visible = lips.flow, lips.visible
    at = front[0].numpy()
    pair = Pair(
        photo, target, drawn, flow[0].numpy(), visible[0, 0].numpy(), mouth_and_eyes(points), turn.numpy(), at, at
    )
    pair = replace(pair, known=known[0, 0].numpy())
    return (
        pair
        if mouth is None
        else replace(pair, gaps=np.array([field.gap.item(), gap], np.float32), told=np.ones(1, np.float32))
    )


def talking_pairs(model: Starcaster, photo: np.ndarray, speech: Speech, rng: np.random.Generator) -> list[Pair]:
    """Make pairs of one aligned photo uint8 [S, S, 3] that says some of `speech`; none where no face is found.

    Eyes look straight ahead and stay open.
    """
    person = find_person(photo)
    if person is None:
        return []
    found, embedding = person
    points = (found.points[:, :2] / len(photo)).astype(np.float64)
    start = int(rng.integers(0, max(1, speech.frames - FRAMES)))
    speech = replace(speech, features=speech.features[start : start + FRAMES])
    count = len(speech.features)
    motion = random_head_motion(int(rng.integers(2**31)), 0, count, model.config.fps)
    motion[:, len(POSE_STD) :] = 0
    conditions = Conditions(Identity(embedding, photo), speech, None, count, motion)
    drawn = draw_frames(model, conditions, int(rng.integers(2**31)))
    seen = [(row, find_landmarks(enlarged(frame))) for row, frame in enumerate(drawn)]
    seen = [(row, one) for row, one in seen if one is not None]
    if len(seen) < KEPT:
        return []
    gaps, stretches = lip_motion(points, [one for _, one in seen])
    turns, field = head_rotations(motion), lip_field(points)
    return [
        pair_of(photo, points, field, drawn[seen[k][0]], turns[seen[k][0]], float(gaps[k]), float(stretches[k]))
        for k in most_different(gaps)
    ]


def most_different(gaps: np.ndarray) -> np.ndarray:
    """Return KEPT of the openings [T], by number, from the smallest to the largest."""
    return np.argsort(gaps)[np.linspace(0, len(gaps) - 1, KEPT).round().astype(int)]


def lip_motion(points: np.ndarray, drawn: list[FaceLandmarks]) -> tuple[np.ndarray, np.ndarray]:
    """Return how far the lips of drawn frames are open, in image sides of the photo, and their width over the mean."""

    def between(one: np.ndarray, first: int, second: int) -> float:
        return float(np.linalg.norm(one[first, :2] - one[second, :2]))

    eyes = np.mean([between(one.points, RIGHT_IRIS, LEFT_IRIS) for one in drawn])
    scale = between(points, RIGHT_IRIS, LEFT_IRIS) / eyes
    gaps = np.array([scale * mouth_gap(one.points) for one in drawn]) - BIAS
    widths = np.array([between(one.points, RIGHT_CORNER, LEFT_CORNER) for one in drawn])
    return gaps.clip(min=0), (widths / widths.mean()).clip(*STRETCH)


def voice_files(folder: Path | None) -> list[Path]:
    """Return the recordings of a folder that may be trained on, or the one that ships."""
    if folder is None:
        return [VOICE]
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in AUDIO_ENDINGS)
    if not found:
        raise InputError("a folder with speech", f"none in {folder}", f"Known endings: {', '.join(AUDIO_ENDINGS)}.")
    return [path for path in found if split_of("voice", path.name) == "train"] or found


def make_talking_pairs(
    model: Starcaster, photos: Path, out: Path, seed: int, part: tuple[int, int] = (0, 1), voices: Path | None = None
) -> None:
    """Write the pairs of the training photos that are missing. voices: folder of speech; part: as
    `make_photo_pairs`."""
    from ..speech import load_audio, mono16k

    recordings = voice_files(voices)
    for number, file, path, photo in missing_photos(photos, out, f"talk-{seed}", part):
        rng = np.random.default_rng([seed, number, 0x7A1C])
        voice = recordings[int(rng.integers(len(recordings)))]
        speech = model.encode_speech(mono16k(*load_audio(voice)))
        write_found(path, talking_pairs(model, photo, speech, rng), file)
