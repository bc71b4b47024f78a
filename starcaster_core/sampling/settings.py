"""What a video is to show, and how to sample it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from ..errors import InputError
from ..presets import SCHEDULERS, ModelConfig
from ..types import CameraPath, Identity, Speech

if TYPE_CHECKING:
    from torch import Tensor

ON_FAULT = ("stop", "retry", "warn")  # what happens where a chunk is faulty, see `guards.py`


@dataclass(frozen=True)
class SamplerSettings:
    """How to sample. The defaults are the paper's; `SamplerSettings.of` takes a model's own.

    steps: denoising steps a chunk, 1..1000. scheduler: one of SCHEDULERS.
    guidance_scale: how far to push from "nobody" towards the condition; 1 switches guidance off and halves the time.
    camera_scale, audio_scale: own scales of those streams; None = guidance_scale, and no extra network calls.
    guidance_end: fraction of the steps, 0..1, the noisiest first, that are guided; the others ask the network once,
        under all conditions. What is decided late are details, which gain little from guidance (Kynkaanniemi et al.
        2024).
    lambda_audio, lambda_camera: weights of the two streams in cross-attention, 0..1.
    context_frames: last frames of the previous chunk that are looked back at, 0..chunk length; None = the model's own.
    head_motion: how lively the head turns and looks about, 0..2: 0 keeps it still, 1 is usual. For models with the
        extension of that name, `mini` among them.
    use_reference: show the portrait to the network; off = identity-only mode, where only the embedding is known.
    seed: 0 .. 2^64 - 1.
    """

    seed: int = 0
    steps: int = 25
    scheduler: str = "dpmpp"
    guidance_scale: float = 3.0
    camera_scale: float | None = None
    audio_scale: float | None = None
    guidance_end: float = 1.0
    lambda_audio: float = 1.0
    lambda_camera: float = 1.0
    context_frames: int | None = None
    use_reference: bool = True
    head_motion: float = 1.0

    def __post_init__(self):
        limits = {
            "seed": (0, 2**64 - 1),
            "steps": (1, 1000),
            "guidance_scale": (0, 100),
            "camera_scale": (0, 100),
            "audio_scale": (0, 100),
            "guidance_end": (0, 1),
            "lambda_audio": (0, 1),
            "lambda_camera": (0, 1),
            "context_frames": (0, 64),
            "head_motion": (0, 2),
        }
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name in limits and value is not None:
                low, high = limits[setting.name]
                if not low <= value <= high:  # NaN fails this too
                    raise InputError(f"{setting.name} from {low} to {high}", repr(value), "Choose a value in between.")
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"a scheduler out of {', '.join(SCHEDULERS)}", repr(self.scheduler), "Choose one of them.")

    @property
    def guided_steps(self) -> int:
        return round(self.guidance_end * self.steps)

    @classmethod
    def of(cls, config: ModelConfig, **chosen) -> SamplerSettings:
        """Return a model's own settings, but for those in `chosen` that are not None."""
        return cls(**config.sampling_defaults | {name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class Conditions:
    """What the video is to show, for `frames` frames. A missing stream is not attended to.

    frames: 0 takes the speech's length, else the camera path's. head_motion: [T, len(CHANNELS)] (`head_motion.py`), for
    models with the extension of that name; after its end it stays as it was last. None draws it at random.
    Raises InputError where there is no length.
    """

    identity: Identity
    speech: Speech | None = None
    camera: CameraPath | None = None
    frames: int = 0
    head_motion: Tensor | None = None

    def __post_init__(self):
        if self.frames <= 0:  # as long as the speech, else as the camera path
            source = self.speech or self.camera
            object.__setattr__(self, "frames", source.frames if source else 0)
        if self.frames <= 0:
            raise InputError("a video length", "neither speech nor a camera path nor a number of frames", "Give one.")


def count_chunks(frames: int, chunk_frames: int) -> int:
    """Return how many chunks hold so many frames."""
    return -(-frames // chunk_frames)
