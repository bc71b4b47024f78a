"""Training pairs of photos that say what rendered clips say, for the reference decoder.

As in `talking_pairs.py` the model draws the photo and geometry makes the truth. But how far the lips are to open is the
clip's, not what can be seen of the drawn ones, which are softer and less open; and what lies between them is the
render's. So the decoder learns to open lips as far as it is told, and what teeth look like. In some photos sampling
begins with the truth, as a better model would draw it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import Tensor

from ..data.shards import Clip
from ..head_motion import head_rotations
from ..models.lip_warp import lip_field, mouth_width
from ..models.starcaster import Starcaster
from ..types import Identity
from .decoder_pairs import Pair, draw_frames, find_person, missing_photos, write_found
from .photo_clips import cycle_clips, lip_motion, rendered_mouth, saying
from .talking_pairs import FRAMES, most_different, pair_of

STARTS = (0, 0, 2, 3, 4)  # sampling steps that the drawn frames have of the truth: none in two of five photos


def photo_clip_pairs(model: Starcaster, photo: np.ndarray, clip: Clip, rng: np.random.Generator) -> list[Pair]:
    """Make pairs of one aligned photo uint8 [S, S, 3] that says some of a clip; none where no face is found."""
    person = find_person(photo)
    if person is None:
        return []
    found, embedding = person
    points = (found.points[:, :2] / len(photo)).astype(np.float64)
    start = int(rng.integers(0, max(1, len(clip.frames) - FRAMES)))
    rows = slice(start, start + FRAMES)
    conditions = saying(model, clip, rows, Identity(embedding, photo))
    turns, field = head_rotations(conditions.head_motion), lip_field(points)
    gaps, stretches = (values[rows] for values in lip_motion(clip))
    gaps = gaps * mouth_width(points)

    def pair(row: int) -> Pair:
        def mouth(moved: np.ndarray) -> Tensor:
            return rendered_mouth(clip, start + row, moved, len(photo))

        undrawn = np.zeros((1, 1, 3), np.uint8)
        return pair_of(photo, points, field, undrawn, turns[row], float(gaps[row]), float(stretches[row]), mouth)

    pairs = [pair(row) for row in range(conditions.frames)]
    targets = np.stack([each.target for each in pairs])
    drawn = draw_frames(model, conditions, int(rng.integers(2**31)), targets, int(rng.choice(STARTS)))
    return [replace(pairs[row], drawn=drawn[row]) for row in most_different(gaps)]


def make_photo_clip_pairs(
    model: Starcaster, photos: Path, data: Path, out: Path, seed: int, part: tuple[int, int] = (0, 1)
) -> None:
    """Write the pairs of the training photos that are missing. data: folder of rendered shards, whose talking clips the
    photos follow one after the other; part: as `make_photo_pairs`. Raises InputError where there is no such clip."""
    clips = cycle_clips(data, ("temporal",))
    for number, file, path, photo in missing_photos(photos, out, f"say-{seed}", part):
        rng = np.random.default_rng([seed, number, 0x5A1D])
        write_found(path, photo_clip_pairs(model, photo, next(clips), rng), file)
