"""What travels on an AUDIO, checked: other packs, and videos without sound, send other things than core does."""

from __future__ import annotations

import torch

from ..starcaster_core.errors import AudioError


def sound_of(audio) -> tuple[torch.Tensor, float]:
    """AUDIO -> waveform float32 [C, N] in -1..1 on the CPU, samples a second. Raises AudioError for anything else."""
    from ..starcaster_core.speech.audio import one_recording

    wanted = "an AUDIO with a waveform and a sample rate"
    if audio is None:
        raise AudioError("sound", "none: the video has no sound", "Choose one with sound, or connect a recording.")
    try:
        waveform, rate = audio["waveform"], audio["sample_rate"]
    except (TypeError, KeyError, IndexError) as error:
        raise AudioError(wanted, f"a {type(audio).__name__} without them", "Connect core's Load Audio.") from error
    if not isinstance(waveform, torch.Tensor):
        raise AudioError(wanted, f"a {type(waveform).__name__} as the waveform", "Connect core's Load Audio.")
    try:
        rate = float(rate)
    except (TypeError, ValueError) as error:
        raise AudioError("a sample rate in Hz", repr(rate), "Connect core's Load Audio.") from error
    if not 0 < rate < float("inf"):
        raise AudioError("a sample rate in Hz", f"{rate:g}", "Connect core's Load Audio.")
    return one_recording(waveform), rate
