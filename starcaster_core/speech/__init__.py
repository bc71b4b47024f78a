"""Sound -> what the mouth has to do, a row of features for each video frame."""

from .audio import audio_warnings, load_audio
from .audio import to_mono_16k as mono16k
from .features import align_layers
from .phonetic import PhoneticEncoder

__all__ = ["PhoneticEncoder", "align_layers", "audio_warnings", "load_audio", "mono16k"]
