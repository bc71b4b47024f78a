"""Sound -> what the mouth has to do, a row of features for each video frame."""

from .audio import audio_warnings, decode_audio, load_audio
from .audio import to_mono_16k as mono16k
from .features import align_layers

__all__ = ["align_layers", "audio_warnings", "decode_audio", "load_audio", "mono16k"]
