"""Every error a user can cause, as one hierarchy.

A message says what was wanted, what came, and what to do; the node pack and the command line show it as it is.
"""

from __future__ import annotations

import errno

ECHO = 400  # characters of what came; a megabyte of somebody's file helps nobody


class StarcasterError(Exception):
    """Base of all errors raised on purpose. `str(error)` is fit to be shown to a user."""

    def __init__(self, wanted: str, got: str, fix: str):
        self.wanted, self.got, self.fix = shown(wanted), shown(got), fix
        super().__init__(f"Wanted {self.wanted}, got {self.got}. {fix}")


class InputError(StarcasterError, ValueError):
    """A value given by the user cannot be used: an image, a setting, a file name."""


class FaceError(InputError):
    """No face, several faces, or a face too small to work with."""


class AudioError(InputError):
    """Sound that is empty, broken or longer than allowed."""


class CameraError(InputError):
    """A camera path that cannot be followed: keyframes out of order, a broken pose."""


class CheckpointError(StarcasterError):
    """A checkpoint that is missing, truncated, or does not fit the model."""


class MissingDependencyError(StarcasterError, ImportError):
    """An optional package or program is needed for what was asked."""


def shown(text: object, longest: int = ECHO) -> str:
    """Return text as it may be put into a message: control characters, bytes that are no text and the like as escapes,
    and the middle left out where there is too much."""
    text = str(text)
    if len(text) > longest:
        text = f"{text[: longest // 2]} ... {text[-longest // 4 :]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def explained(error: BaseException) -> StarcasterError | None:
    """Return what the machine refused (disk, permissions, memory) as a sentence; None for errors of the program."""
    if isinstance(error, StarcasterError):
        return error
    if isinstance(error, OSError):
        name = "the file" if error.filename is None else shown(error.filename, 160)
        wanted, got, fix = _DISK.get(
            error.errno or 0, ("{name} to be usable", str(error.strerror or error), "Check the path and the disk.")
        )
        return StarcasterError(wanted.format(name=name), got, fix)
    if type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error):  # PyTorch's
        fix = "Close other programs, or use a smaller size; on the command line --offload and --float8 need less."
        return StarcasterError("enough memory for the model", "not that much free", fix)
    if isinstance(error, MemoryError):
        return StarcasterError("enough memory", "not that much free", "Use a smaller picture or a shorter sound.")
    return None


def reason(error: Exception) -> str:
    """Return why something was left out, for a report: the sentence of an InputError, else the kind of error with what
    it says."""
    return shown(error if isinstance(error, InputError) else f"{type(error).__name__}: {error}")


_PERMISSION = ("permission to use {name}", "none", "Choose another place, or change the permissions.")
_FULL = ("room on the disk for {name}", "a full disk", "Delete what you do not need, or write to another disk.")
_DISK = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.ENOENT: ("the file or folder {name}", "nothing there", "Check the path."),
    errno.ENOTDIR: ("a folder on the way to {name}", "a file", "Check the path."),
    errno.EISDIR: ("a file at {name}", "a folder", "Check the path."),
    errno.ENAMETOOLONG: ("a shorter name than {name}", "one too long for the disk", "Use at most 255 bytes."),
}
