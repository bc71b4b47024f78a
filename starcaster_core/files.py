"""Files that are there whole or not at all, and files of strangers that lead nowhere else."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

LONGEST_NAME = 255  # bytes; what Linux, macOS and Windows file systems take
PART = ".part"
_unfinished: set[str] = set()  # names of temporary files that this process is writing


def part_beside(path: Path) -> Path:
    """Return a temporary path in the folder of `path`: hidden, unique, short whatever the name, and ending in `.part`,
    so that no pattern for finished files matches it. It names its process, for `sweep_parts`."""
    part = path.with_name(f".{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:12]}{PART}")
    _unfinished.add(part.name)
    return part


@contextmanager
def atomic_write(path: str | os.PathLike, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; rename it to `path` at the end of the block.

        with atomic_write("weights.safetensors") as part:
            save_file(weights, part)

    The folder is made if it is missing. Where the block raises, the temporary file is removed and `path` stays as it
    was. durable: the file outlasts a power cut once the block has ended.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_beside(path)
    try:
        yield part
        if durable:
            flush(part)
        os.replace(part, path)
        if durable:
            flush(path.parent)
    finally:
        with suppress(OSError):  # an error here would hide the one that matters
            part.unlink(missing_ok=True)
        _unfinished.discard(part.name)


def flush(path: Path) -> None:
    """Wait until a file or folder is on the disk. Folders are skipped where the system does not open them."""
    folder = path.is_dir()
    if folder and os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY if folder else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def numbered(path: Path, suffix: str | None = None) -> Iterator[Path]:
    """Yield a path and, without end, the same with `_2`, `_3` ... before its suffix."""
    suffix = path.suffix if suffix is None else suffix
    stem = path.name.removesuffix(suffix)
    yield path
    yield from (path.with_name(f"{stem}_{number}{suffix}") for number in count(2))


def sweep_parts(folder: Path) -> int:
    """Remove the temporary files and folders that dead processes of this machine left in a folder; return how many."""
    swept = 0
    with suppress(OSError):
        for part in folder.glob(f".{_machine()}-*{PART}*"):
            process = part.name.split("-")[1]
            if not process.isdecimal() or part.name in _unfinished:
                continue
            if int(process) != os.getpid() and is_running(int(process)):
                continue
            if part.is_dir() and not part.is_symlink():
                shutil.rmtree(part, ignore_errors=True)
            else:
                with suppress(OSError):
                    part.unlink()
            swept += 1
    return swept


def is_running(process: int) -> bool:
    """Return whether there is a process of this number; True where it cannot be told."""
    if os.name == "nt":  # where signal 0 is Ctrl-C
        return True
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _machine() -> str:
    """Return a short name of this machine: a shared folder holds files of other machines' processes."""
    return hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()


@contextmanager
def open_media(path: str | os.PathLike) -> Iterator:
    """Yield a local sound or video file as a PyAV container.

    The file is opened here and no protocol is allowed to FFmpeg, so playlists and the like cannot make it read other
    files or ask the network. Raises OSError and av.FFmpegError.
    """
    import av

    with open(path, "rb") as file, av.open(file, options={"protocol_whitelist": "none"}) as container:
        yield container
