"""Which people, voices and sentences are for training and which are held out: by a hash of their name, for ever."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import lru_cache

from ..conventions import SPLITS

BOUNDS = {"identity": (90, 95), "sentence": (90, 95), "voice": (76, 88), "photo": (90, 90), "speaker": (85, 85)}
# percent; voices are few


def split_of(kind: str, name: str | int) -> str:
    """Return "train", "val" or "test" of an identity seed, a sentence, or a voice (its variant alone)."""
    if kind == "voice":
        name = str(name).partition("+")[2]
    place = int(hashlib.sha256(f"{kind}:{name}".encode()).hexdigest(), 16) % 100
    return SPLITS[sum(place >= bound for bound in BOUNDS[kind])]


@lru_cache(maxsize=64)
def members(kind: str, names: Sequence, split: str) -> tuple:
    """Return those of `names` (a tuple or a range) that belong to `split`, in order."""
    return tuple(name for name in names if split_of(kind, name) == split)
