"""Every error a user can cause, as one hierarchy.

A message says what was wanted, what came, and what to do; the node pack and the command line show it as it is.
"""


class StarcasterError(Exception):
    """Base of all errors raised on purpose. `str(error)` is fit to be shown to a user."""

    def __init__(self, wanted: str, got: str, fix: str):
        self.wanted, self.got, self.fix = wanted, got, fix
        super().__init__(f"Wanted {wanted}, got {got}. {fix}")


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
