"""What the tests of the shipped model share: the model, its example inputs, and the one place where frames are made."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import starcaster_core
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.sampling.rollout import rollout
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.types import Identity


@torch.no_grad()
def make_frames(model, conditions: Conditions, settings: SamplerSettings) -> np.ndarray:
    """Return the finished video, uint8 [T, S, S, 3] RGB."""
    chunks = rollout(model, conditions, settings)
    frames = torch.cat([model.decode_frames(chunk.latents) for chunk in chunks])
    return (255 * frames.clamp(0, 1)).round().to(torch.uint8).numpy()


@pytest.fixture(scope="session")
def frames_of():
    """frames_of(model, conditions, settings) -> uint8 [T, S, S, 3] RGB"""
    return make_frames


@pytest.fixture(scope="session")
def assets() -> Path:
    return Path(starcaster_core.__file__).parent / "assets"


@pytest.fixture(scope="session")
def data() -> Path:
    return Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def mini():
    return load_checkpoint("mini", dtype=torch.float32)


@pytest.fixture(scope="session")
def people(assets) -> tuple[Identity, Identity]:
    """The persons of the two shipped portraits, cropped at the model's size."""
    pytest.importorskip("dlib")
    from starcaster_core.identity import make_identity, read_picture

    one, other = (make_identity([read_picture(assets / name)], 128) for name in ("portrait.png", "portrait_2.png"))
    return one, other


@pytest.fixture(scope="session")
def voice(assets) -> torch.Tensor:
    """The first two seconds of the shipped voice, 16 kHz samples [N]."""
    from starcaster_core.speech import load_audio, mono16k

    return mono16k(*load_audio(assets / "voice.flac"), 1.92)
