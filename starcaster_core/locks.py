"""A lock that one process holds at a time, and that a dead one loses."""

from __future__ import annotations

import os
from pathlib import Path

LOCK = "lock"


class FolderLock:
    """The right to a folder. The operating system keeps it and takes it from a process that ends, however that happens.

    `FolderLock.take` returns it, None where another holds it. The file `lock` in the folder names the owner's process.
    """

    def __init__(self, descriptor: int):
        self._descriptor = descriptor

    @classmethod
    def take(cls, folder: Path) -> FolderLock | None:
        """Take the lock of an existing folder. Raises OSError where the folder cannot be written to."""
        path = folder / LOCK
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            _lock(descriptor)
            same = os.path.samestat(os.fstat(descriptor), os.stat(path))  # not removed since it was opened
        except (BlockingIOError, PermissionError, FileNotFoundError):  # held, or removed with its folder
            same = False
        except OSError:
            os.close(descriptor)
            raise
        if not same:
            os.close(descriptor)
            return None
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
        return cls(descriptor)

    def release(self) -> None:
        """Give the lock up; a second time does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)  # which unlocks
            self._descriptor = -1


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
