"""What each output format is made of."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import InputError


@dataclass(frozen=True)
class Format:
    """One row of the table below.

    container: libavformat's name; video, audio: libavcodec's encoders (audio None: no sound in this format).
    pixels: the pixel format that is encoded. crf, crf_limit: default and highest constant rate factor, None where the
    encoder has none (lower is better and larger). rates: sampling rates kept as they are; others become 48000.
    options: of the video encoder; container_options: of the muxer.
    """

    suffix: str
    container: str
    video: str
    audio: str | None
    pixels: str
    crf: int | None = None
    crf_limit: int = 0
    rates: tuple[int, ...] = (48000,)
    options: dict[str, str] = field(default_factory=dict)
    container_options: dict[str, str] = field(default_factory=dict)


FORMATS = {
    "mp4": Format(
        ".mp4",
        "mp4",
        "libx264",
        "aac",
        "yuv420p",
        crf=18,
        crf_limit=51,
        rates=(44100, 48000),  # an AAC frame lasts 1024 samples: at 16 kHz that would be longer than a video frame
        # metadata tags: so that `prompt` and `workflow` survive, as ComfyUI's own SaveVideo writes them
        container_options={"movflags": "faststart+use_metadata_tags"},
    ),
    "webm": Format(
        ".webm",
        "webm",
        "libvpx-vp9",
        "libopus",
        "yuv420p",
        crf=28,
        crf_limit=63,
        options={"b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"},
    ),
    "mov": Format(
        ".mov",
        "mov",
        "prores_ks",
        "pcm_s16le",
        "yuv422p10le",
        rates=(16000, 22050, 24000, 32000, 44100, 48000),
        options={"profile": "3", "vendor": "apl0"},
        container_options={"movflags": "faststart+use_metadata_tags"},
    ),
    "gif": Format(".gif", "gif", "gif", None, "pal8"),
    "png": Format("", "folder", "png", "wav", "rgb24", rates=(16000, 22050, 24000, 32000, 44100, 48000)),
}


def format_named(name: str | None, path) -> Format:
    """The row called `name`, or the one that the path's suffix asks for when name is None. InputError if there is
    none."""
    if name is None:
        name = path.suffix.lower().lstrip(".") or "png"
    if name not in FORMATS:
        raise InputError(f"one of {', '.join(FORMATS)} as the video format", repr(name), "Pick one of them.")
    return FORMATS[name]
