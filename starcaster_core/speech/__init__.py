"""Sound -> what the mouth has to do, a row of features for each video frame."""

from .audio import LIMIT_SECONDS, audio_warnings, decode_audio, load_audio
from .audio import to_mono_16k as mono16k
from .features import align_layers

__all__ = ["LIMIT_SECONDS", "align_layers", "audio_warnings", "decode_audio", "load_audio", "mono16k"]
