"""Pictures and sound to files and back, with PyAV and no ffmpeg program."""

from .background import Background
from .formats import FORMATS
from .info import VideoInfo
from .names import check_name, check_output
from .probe import probe
from .writer import TAG, VideoWriter, as_rate, write_video

__all__ = [
    "FORMATS",
    "TAG",
    "Background",
    "VideoInfo",
    "VideoWriter",
    "as_rate",
    "check_name",
    "check_output",
    "probe",
    "write_video",
]
