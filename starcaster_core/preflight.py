"""Whether a render can be made at all, by numbers known before the model is loaded: disk and memory.

Needs are counted low, so that only the impossible is refused.
"""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path

from .errors import InputError

# Bytes a pixel that a video takes at least. Shipped MP4s take 0.003 to 0.05.
LEAST = {"mp4": 0.001, "webm": 0.0005, "mov": 0.1, "gif": 0.05, "png": 0.2}


def check_disk(path: str | os.PathLike, frames: int, width: int, height: int, format: str | None = None) -> None:
    """Raise InputError where the disk has no room for a video.

    path: the file to write, in a folder that may be missing. format: of FORMATS, None takes the path's suffix.
    """
    path = Path(os.path.abspath(path))
    needed = frames * width * height * LEAST.get(format or path.suffix.lower().lstrip("."), 0)
    free = free_disk(path)
    if free is not None and needed > free:
        raise InputError(
            f"at least {in_gb(needed)} of free disk for {frames} frames of {width}x{height}",
            in_gb(free),
            "Make room, write to another disk, or choose a smaller format, size or length.",
        )


def check_memory(needed: float, what: str, fix: str, free: float | None = None) -> None:
    """Raise InputError where `needed` bytes are more than is free. free: None asks the system."""
    free = free_memory() if free is None else free
    if free is not None and needed > free:
        raise InputError(f"{in_gb(needed)} of free memory for {what}", in_gb(free), fix)


def free_disk(path: Path) -> int | None:
    """Return the free bytes of the disk that a path is or will be on; None where they cannot be told."""
    with suppress(OSError):
        usage = shutil.disk_usage(next(parent for parent in path.parents if parent.exists()))
        return usage.free if usage.total else None  # what is no disk, as /proc
    return None


def free_memory() -> int | None:
    """Return the bytes of main memory that programs can still get, swap included; None where Linux does not tell."""
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kilobytes = {line.split(":")[0]: int(line.split()[1]) for line in lines}
        return 1024 * (kilobytes.get("MemAvailable", 0) + kilobytes.get("SwapFree", 0)) or None
    return None


def in_gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB"
