"""A written file as a VIDEO that core's Save Video takes: MP4 holds neither ProRes nor GIF, and core would copy them as
they are."""

from __future__ import annotations

import os
from pathlib import Path

from .comfy_bridge import InputImpl, Types

NOT_FOR_MP4 = (".mov", ".gif")


class FileVideo(InputImpl.VideoFromFile):
    """An mp4, webm, mov or gif file, as Video Combine writes them."""

    def __init__(self, path: Path, start_time: float = 0, duration: float = 0):
        super().__init__(str(path), start_time=start_time, duration=duration)
        self._path, self._start = path, start_time

    def as_trimmed(self, start_time=0, duration=0, strict_duration=True):
        """Trim as core does, to a video that is saved as this one is."""
        trimmed = FileVideo(self._path, self._start + start_time, duration)
        return None if strict_duration and trimmed.get_duration() < duration else trimmed

    def save_to(
        self,
        path,
        format=Types.VideoContainer.AUTO,
        codec=Types.VideoCodec.AUTO,
        metadata=None,
        bit_depth=None,
        crf=None,
    ):
        """Write as core does, but H.264 where an MP4 is wanted of a file whose own codec it cannot hold."""
        to_mp4 = format == Types.VideoContainer.MP4 or (
            isinstance(path, (str, os.PathLike)) and Path(path).suffix.lower() == ".mp4"
        )
        if to_mp4 and self._path.suffix in NOT_FOR_MP4:
            codec = Types.VideoCodec.H264 if codec == Types.VideoCodec.AUTO else codec
            bit_depth = bit_depth or 8  # ProRes has 10, which as H.264 few players show
        return super().save_to(path, format=format, codec=codec, metadata=metadata, bit_depth=bit_depth, crf=crf)
