"""Locks that one process holds at a time, and that a dead one loses: a folder's, and that of an output's name."""

from __future__ import annotations

import hashlib
import os
from contextlib import suppress
from pathlib import Path

from .errors import InputError

LOCK = "lock"
BEING_WRITTEN = ".starcaster-{}.lock"  # beside an output, with a digest of its name


class FolderLock:
    """The right to a folder. The operating system keeps it and takes it from a process that ends, however that happens.

    `FolderLock.take` returns it, None where another holds it. The file `lock` in the folder names the owner's process.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """Take the lock of an existing folder. Raises OSError where the folder cannot be written to."""
        descriptor = _take(folder / LOCK)
        return None if descriptor is None else cls(descriptor)

    def release(self) -> None:
        """Give the lock up; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)  # which unlocks
            self._descriptor = -1


class NameTakenError(InputError):
    """An output's name is that of another render, or of what one has left."""


class OutputName:
    """The name of an output while it is written, so that two renders do not write one file and lose one of them.

    A hidden file beside the output is locked meanwhile; it names the process. What a killed process left is taken over,
    or removed by the next render into the folder. Where the disk knows no locks the name is not reserved.
    """

    def __init__(self, path: Path):
        """Reserve the name of `path`. Raises NameTakenError where it is being written already."""
        self._file = path.with_name(BEING_WRITTEN.format(hashlib.blake2b(_key(path), digest_size=8).hexdigest()))
        self._descriptor: int | None = None
        with suppress(OSError):  # what is wrong with the folder, writing will say
            while (descriptor := _take(self._file)) is None:
                if self._file.exists():  # and not just removed by an owner who is done
                    raise name_taken(path, self._file)
            self._descriptor = descriptor
            self._sweep()

    def release(self) -> None:
        """Give the name up; a second time does nothing."""
        if self._descriptor is not None:
            _remove(self._file, self._descriptor)
            self._descriptor = None

    def _sweep(self) -> None:
        """Remove what dead processes left in the folder."""
        for file in self._file.parent.glob(BEING_WRITTEN.format("*")):
            with suppress(OSError):
                if file != self._file and (descriptor := _take(file)) is not None:
                    _remove(file, descriptor)


def name_taken(path: Path, lock: Path) -> NameTakenError:
    """Return the error of a name that another render is writing to; lock: the file that names its process."""
    owner = ""
    with suppress(OSError, ValueError):
        owner = f" {int(lock.read_text(encoding='ascii'))}"
    got = f"{path.name}, which the process{owner} is writing"
    return NameTakenError("a free output name", got, "Choose another name, or wait until it is done.")


def _key(path: Path) -> bytes:
    """Return what is the same for all spellings of a file's name."""
    return os.fsencode(os.path.normcase(path.name))


def _take(path: Path) -> int | None:
    """Lock a file, made where it is missing, and write the process into it; return its descriptor.

    None where another holds it or removes it just now. Raises OSError where the folder cannot be written to.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        _lock(descriptor)
        same = os.path.samestat(os.fstat(descriptor), os.stat(path))  # not removed since it was opened
    except (BlockingIOError, PermissionError, FileNotFoundError):  # held, or removed, perhaps with its folder
        same = False
    except OSError:
        os.close(descriptor)
        raise
    if not same:
        os.close(descriptor)
        return None
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def _remove(path: Path, descriptor: int) -> None:
    """Remove a file that this process has locked."""
    if os.name == "nt":  # which removes no open file
        os.close(descriptor)
    with suppress(OSError):
        path.unlink()
    if os.name != "nt":  # unlocked after it is gone: nobody takes a file that is about to be removed
        os.close(descriptor)


if os.name == "nt":
    import msvcrt

    def _lock(descriptor: int) -> None:
        os.lseek(descriptor, 1 << 20, os.SEEK_SET)  # beyond the number, which others may read
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        os.lseek(descriptor, 0, os.SEEK_SET)

else:
    import fcntl

    def _lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
