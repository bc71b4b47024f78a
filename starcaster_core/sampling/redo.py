"""Which chunks of a kept render are made again, as users write it: "3", "5-7", "1.2s-3s", "3:42", "3:audio_scale=2"."""

from __future__ import annotations

import math
import re
from dataclasses import replace

from ..errors import InputError
from ..presets import ModelConfig
from .settings import SamplerSettings, count_chunks

PART = re.compile(
    r"(?P<first>\d+(?:\.\d*)?)(?:s?-(?P<last>\d+(?:\.\d*)?))?(?P<seconds>s)?(?::(?P<seed>\d+))?(?P<scales>(?::\w+=[^:]+)*)"
)
SCALES = ("guidance_scale", "camera_scale", "audio_scale", "lambda_audio", "lambda_camera")
FORM = "chunks such as 3 or 5-7, or seconds such as 1.2s-3s, each with :seed or :audio_scale=2 behind it where wanted"


def read_redo(
    text: str, config: ModelConfig, frames: int, settings: SamplerSettings, seed: int
) -> dict[int, SamplerSettings]:
    """Return how the chunks to make again are sampled, by index.

    text: parts with spaces or commas between them. "3" is the third chunk, "5-7" three of them, "2s" the chunk that
    shows that second, "1.2s-3s" all that show any of these. ":7" behind a part is its seed, ":audio_scale=2" one of
    SCALES, several of which may follow; of two parts with one chunk, the last counts. frames: of the whole video.
    settings: of the whole video. seed: for parts without one.
    Raises InputError for other text, chunks and seconds that the video does not have, and values out of range.
    """
    chunks, seconds = count_chunks(frames, config.chunk_frames), config.chunk_frames / config.fps
    redo = {}
    for part in re.split(r"[\s,]+", text.strip()) if text.strip() else ():
        found = PART.fullmatch(part)
        if found is None or (not found["seconds"] and "." in part.partition(":")[0]):
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
        again = replace(settings, seed=own, **read_scales(found["scales"]))  # checks them
        redo |= dict.fromkeys(range(low, high + 1), again)
    return redo


def read_scales(text: str) -> dict[str, float]:
    """Return scales by name, of text such as ":audio_scale=2:lambda_camera=0.5"."""
    scales = {}
    for name, _, value in (part.partition("=") for part in text.split(":")[1:]):
        try:
            scales[name] = float(value)
        except ValueError:
            raise InputError(f"a number for {name}", repr(value), "Correct redo.") from None
        if name not in SCALES:
            raise InputError(f"one of the scales {', '.join(SCALES)}", repr(name), "Correct redo.")
    return scales


def next_seed(seed: int) -> int:
    """Return the seed of chunks made again where none is given."""
    return (seed + 1) % 2**64
