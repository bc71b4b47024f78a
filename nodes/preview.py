"""The video below Video Combine where a browser does not play the written format."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..starcaster_core.errors import StarcasterError
from ..starcaster_core.video import VideoWriter
from .comfy_bridge import temporary_output

PREVIEW_SIDE = 512  # pixels; the longer side


class Preview:
    """A small MP4 in ComfyUI's temp folder; use it in a `with` block.

    The written file is what counts. So a preview that cannot be written, on a full disk for instance, is given up:
    `path` is then None and `failure` says why.
    """

    def __init__(self, fps: float, sound: tuple | None):
        """fps, sound: as for `VideoWriter`."""
        self.path = temporary_output(".mp4")
        self.failure: Exception | None = None
        self._fps, self._sound = fps, sound
        self._writer: VideoWriter | None = None

    def __enter__(self) -> Preview:
        with self._given_up_on_error():
            self._writer = VideoWriter(self.path, self._fps, self._sound, "mp4").__enter__()
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self._writer is not None:
            with self._given_up_on_error():
                writer, self._writer = self._writer, None
                writer.__exit__(kind, error, trace)

    def beside(self, slices: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
        """Yield the same slices [T, H, W, 3], each also written, at most PREVIEW_SIDE pixels wide and high."""
        for part in slices:
            if self._writer is not None:
                with self._given_up_on_error():
                    self._writer.write(shrunk(part))
            yield part

    @contextmanager
    def _given_up_on_error(self):
        try:
            yield
        except (StarcasterError, OSError) as error:
            self.path, self.failure = None, error
            self.__exit__(type(error), error, error.__traceback__)


def shrunk(part: torch.Tensor) -> torch.Tensor:
    """Resize pictures [T, H, W, 3] to at most PREVIEW_SIDE pixels wide and high, float."""
    height, width = part.shape[1:3]
    scale = min(1.0, PREVIEW_SIDE / max(height, width))
    if scale == 1:
        return part.float()
    size = (max(2, round(height * scale)), max(2, round(width * scale)))
    channels_first = part.movedim(-1, 1).float()
    return torch.nn.functional.interpolate(channels_first, size, mode="bilinear", antialias=True).movedim(1, -1)
