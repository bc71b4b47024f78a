"""The one way through the package: public names, the rule for a video's length, frames, a file with its sound."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import starcaster_core
from starcaster_core import pipeline
from starcaster_core.errors import InputError
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.types import CameraPath, Identity, Speech

REPO = Path(__file__).resolve().parents[2]
PUBLIC = [
    "CameraMove",
    "Identity",
    "SamplerSettings",
    "StarcasterError",
    "generate_frames",
    "load_model",
    "prepare",
    "save_video",
]


@pytest.fixture(scope="module")
def model():
    return pipeline.load_model("tiny", "cpu")


def speech(frames: int) -> Speech:
    return Speech(torch.zeros(frames, 64), frames / 25, "phonetic")


def test_the_public_names_are_these():
    """Adding one is a promise: list it here, in `starcaster_core.__all__` and in the README. Removing one breaks
    users."""
    assert sorted(starcaster_core.__all__) == PUBLIC
    assert all(getattr(starcaster_core, name) for name in PUBLIC)
    with pytest.raises(AttributeError, match="no attribute 'generate_video'"):
        _ = starcaster_core.generate_video


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, starcaster_core; print(sorted({'torch', 'numpy', 'diffusers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPO, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_length_comes_from_seconds_then_speech_then_camera():
    camera = CameraPath(np.zeros((40, 4, 4), np.float32), np.zeros((40, 3, 3), np.float32))
    assert pipeline.video_length(25.0, speech(30), camera) == (30, [])
    assert pipeline.video_length(25.0, None, camera) == (40, [])
    assert pipeline.video_length(25.0) == (100, [])
    assert pipeline.video_length(25.0, None, None, 0.01) == (1, [])
    assert pipeline.video_length(25.0, speech(30), None, 0.4) == (10, [])


def test_a_video_longer_than_its_speech_says_that_silence_follows():
    frames, (warning,) = pipeline.video_length(25.0, speech(17), None, 3.0)
    assert frames == 75 and "3 s" in warning and "0.68 s" in warning and "silence follows" in warning


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf"), float("nan")])
def test_an_impossible_length_is_refused(seconds):
    with pytest.raises(InputError, match="above 0 seconds"):
        pipeline.video_length(25.0, None, None, seconds)


def test_a_device_that_is_not_there_is_refused_in_a_sentence():
    with pytest.raises(InputError, match="Wanted a device that this machine has"):
        pipeline.choose_device("cuda:99")
    with pytest.raises(InputError, match="'toaster'"):
        pipeline.choose_device("toaster")


def test_frames_come_chunk_by_chunk_and_sampling_is_the_model_s_own(model):
    conditions = Conditions(Identity(np.ones(128, np.float32)), speech(20))
    chunks = list(pipeline.generate_frames(model, conditions))
    assert [tuple(frames.shape) for frames in chunks] == [(16, 64, 64, 3), (4, 64, 64, 3)]
    assert all(0 <= frames.min() and frames.max() <= 1 for frames in chunks)
    own = list(pipeline.generate_frames(model, conditions, SamplerSettings.of(model.config)))
    assert all(torch.equal(a, b) for a, b in zip(chunks, own))


def test_a_portrait_and_a_voice_become_a_video_with_sound(model, tmp_path):
    pytest.importorskip("dlib")
    from starcaster_core.video import probe

    assets = REPO / "starcaster_core" / "assets"
    conditions = pipeline.prepare(model, assets / "portrait.png", assets / "voice.flac", "orbit", seconds=0.4)
    assert conditions.frames == 10 and conditions.camera.frames == 10 and not conditions.warnings
    assert conditions.identity.portrait.shape == (512, 512, 3)
    info = pipeline.save_video(tmp_path / "a.mp4", model, conditions)
    seen = probe(tmp_path / "a.mp4")
    assert info.frames == seen.frames == 10 and seen.audio_codec
