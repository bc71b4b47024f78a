"""Which chunks of a kept render are made again, as users write it: "3", "5-7", "1.2s-3s", "3:42"."""

from __future__ import annotations

import math
import re

from ..errors import InputError
from ..presets import ModelConfig
from .settings import SamplerSettings, count_chunks

PART = re.compile(r"(?P<first>\d+(?:\.\d*)?)(?:s?-(?P<last>\d+(?:\.\d*)?))?(?P<seconds>s)?(?::(?P<seed>\d+))?")
FORM = "chunks such as 3 or 5-7, or seconds such as 1.2s-3s, each with :seed behind it where wanted"


def read_redo(text: str, config: ModelConfig, frames: int, seed: int) -> dict[int, int]:
    """Return the seeds of the chunks to make again, by index.

    text: parts with spaces or commas between them. "3" is the third chunk, "5-7" three of them, "2s" the chunk that
    shows that second, "1.2s-3s" all that show any of these. ":7" behind a part is its seed; of two parts with one
    chunk, the last counts. frames: of the whole video. seed: for parts without one.
    Raises InputError for other text, chunks and seconds that the video does not have, and seeds out of range.
    """
    chunks, seconds = count_chunks(frames, config.chunk_frames), config.chunk_frames / config.fps
    redo = {}
    for part in re.split(r"[\s,]+", text.strip()) if text.strip() else ():
        found = PART.fullmatch(part)
        if found is None or (not found["seconds"] and "." in part):
            raise InputError(FORM, repr(part), "Correct redo.")
        first, last = float(found["first"]), float(found["last"] or found["first"])
        if found["seconds"]:
            low, high = math.floor(first / seconds), math.ceil(last / seconds) - 1
            high, whole = max(low, high), f"seconds from 0 to {frames / config.fps:g}"
        else:
            low, high, whole = int(first) - 1, int(last) - 1, f"chunks from 1 to {chunks}"
        if not 0 <= low <= high < chunks or first > last:
            raise InputError(f"{whole} to make again", part, "Correct redo.")
        own = int(found["seed"]) if found["seed"] else seed
        SamplerSettings(seed=own)  # checks it
        redo |= dict.fromkeys(range(low, high + 1), own)
    return redo


def next_seed(seed: int) -> int:
    """Return the seed of chunks made again where none is given."""
    return (seed + 1) % 2**64
