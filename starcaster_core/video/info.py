"""What is known about a video file."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction


@dataclass(frozen=True)
class VideoInfo:
    """Counted, not guessed from headers.

    frames; fps (frames a second); width, height (pixels); seconds: of picture, frames / fps.
    video_codec, audio_codec: canonical names as "h264" and "aac"; audio_codec is None where there is no sound.
    audio_seconds, sample_rate (Hz), channels: of the sound, 0 where there is none.
    metadata: text entries by key. is_cfr: every frame lasts 1 / fps, within one tick of the container's clock.
    """

    frames: int
    fps: Fraction
    width: int
    height: int
    video_codec: str
    audio_codec: str | None = None
    audio_seconds: float = 0.0
    sample_rate: int = 0
    channels: int = 0
    metadata: dict[str, str] = field(default_factory=dict)
    is_cfr: bool = True

    @property
    def seconds(self) -> float:
        return float(self.frames / self.fps)
