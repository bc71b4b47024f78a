"""A folder of frames as a VIDEO: core reads such a sequence without its sound, and at 25 frames a second whatever it
has."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

from .comfy_bridge import Input, InputImpl, Types


class FolderVideo(InputImpl.VideoFromFile):
    """frame_00001.png ... and audio.wav, as Video Combine writes them."""

    def __init__(self, folder: Path):
        super().__init__(str(folder / "frame_%05d.png"))
        self._folder = folder

    def get_frame_rate(self) -> Fraction:
        return self._info().fps

    def get_frame_count(self) -> int:
        return self._info().frames

    def get_duration(self) -> float:
        return self._info().seconds

    def get_components(self):
        from PIL import Image

        from ..starcaster_core.speech import load_audio

        info = self._info()
        frames = [np.asarray(Image.open(path).convert("RGB")) for path in sorted(self._folder.glob("frame_*.png"))]
        images = torch.from_numpy(np.stack(frames)).float() / 255
        audio = None
        if info.audio_codec:
            waveform, rate = load_audio(self._folder / "audio.wav")
            audio = Input.Audio({"waveform": waveform[None], "sample_rate": rate})
        return Types.VideoComponents(images=images, audio=audio, frame_rate=info.fps, metadata=entries(info.metadata))

    def as_trimmed(self, start_time=0, duration=0, strict_duration=True):
        """Trim as core does: the frames and the sound of that time; None where a strict duration goes past the end."""
        if not start_time and not duration:
            return self
        whole, seconds = self.get_components(), self.get_duration()
        start = max(seconds + start_time, 0.0) if start_time < 0 else float(start_time)
        end = start + duration if duration else seconds
        if start >= seconds or (strict_duration and end > seconds + 1e-6):
            return None
        first = min(round(start * whole.frame_rate), len(whole.images) - 1)
        last = max(round(end * whole.frame_rate), first + 1)
        audio = whole.audio
        if audio is not None:
            rate = audio["sample_rate"]
            audio = Input.Audio({**audio, "waveform": audio["waveform"][..., round(start * rate) : round(end * rate)]})
        components = Types.VideoComponents(whole.images[first:last], whole.frame_rate, audio, whole.metadata)
        return InputImpl.VideoFromComponents(components)

    def save_to(self, path, *arguments, **settings):
        return InputImpl.VideoFromComponents(self.get_components()).save_to(path, *arguments, **settings)

    def _info(self):
        from ..starcaster_core.video import probe

        return probe(self._folder)


def entries(metadata: dict[str, str]) -> dict:
    """Metadata as core keeps it: what is JSON, read."""

    def one(text: str):
        try:
            return json.loads(text)
        except ValueError:
            return text

    return {key: one(text) for key, text in metadata.items()}
