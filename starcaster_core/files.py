"""Files that are there whole or not at all, and files of strangers that lead nowhere else."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LONGEST_NAME = 255  # bytes; what Linux, macOS and Windows file systems take


def part_beside(path: Path) -> Path:
    """Return a temporary path in the folder of `path`: hidden, unique, short whatever the name, and ending in `.part`,
    so that no pattern for finished files matches it."""
    return path.with_name(f".{uuid.uuid4().hex[:12]}.part")


@contextmanager
def atomic_write(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end of the block.

        with atomic_write("weights.safetensors") as part:
            save_file(weights, part)

    The folder is made if it is missing. Where the block raises, the temporary file is removed and `path` stays as it
    was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_beside(path)
    try:
        yield part
        os.replace(part, path)
    finally:
        with suppress(OSError):  # an error here would hide the one that matters
            part.unlink(missing_ok=True)


@contextmanager
def open_media(path: str | os.PathLike) -> Iterator:
    """Yield a local sound or video file as a PyAV container.

    The file is opened here and no protocol is allowed to FFmpeg, so playlists and the like cannot make it read other
    files or ask the network. Raises OSError and av.FFmpegError.
    """
    import av

    with open(path, "rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
        yield container
