"""Photos that talk: the truth's lips are as the drawn frame has them, and what nobody knows is marked."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starcaster_core.errors import InputError
from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.lip_warp import lip_field, mouth_gap
from starcaster_core.speech import load_audio, mono16k
from starcaster_core.training.decoder_pairs import warp_picture
from starcaster_core.training.talking_pairs import VOICE, pair_of, talking_pairs, voice_files

PORTRAIT = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets" / "portrait.png"


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(PORTRAIT) as image:
        return np.array(image.convert("RGB").resize((512, 512)))


@pytest.fixture(scope="module")
def pairs(photo):
    torch.set_num_threads(1)
    model = load_checkpoint("mini")
    speech = model.encode_speech(mono16k(*load_audio(VOICE)))
    return talking_pairs(model, photo, speech, np.random.default_rng(0))


def test_mouths_as_different_as_they_come_are_taken_and_the_truth_opens_as_asked(photo, pairs):
    drawn = [pair.with_lips().gaps[1] for pair in pairs]
    assert drawn[-1] > drawn[0] + 0.01
    points = find_landmarks(photo).points[:, :2] / 512
    field = lip_field(points)
    gaps = (0.0, 0.01, 0.02, 0.035, 0.05)
    asked = [pair_of(photo, points, field, pairs[0].drawn, torch.eye(3), gap, 1.0).target for gap in gaps]
    assert np.corrcoef(gaps, [mouth_gap(find_landmarks(target).points) for target in asked])[0, 1] > 0.85


def test_the_flow_makes_the_truth_where_it_is_known(photo, pairs):
    for pair in pairs:
        warped = warp_picture(photo, torch.from_numpy(pair.flow)[None])
        known = pair.known.repeat(4, 0).repeat(4, 1) > 0.5
        assert np.abs(warped[known].astype(int) - pair.target[known]).mean() < 1
        assert known.mean() > 0.97
    assert pairs[-1].known.mean() < pairs[0].known.mean()


def test_a_closed_mouth_is_known_everywhere(photo):
    points = find_landmarks(photo).points[:, :2] / 512
    field = lip_field(points)
    drawn = np.zeros((128, 128, 3), np.uint8)
    closed, opened = (pair_of(photo, points, field, drawn, torch.eye(3), gap, 1.0) for gap in (0.0, 0.05))
    assert closed.known.all() and np.abs(closed.target.astype(int) - photo).mean() < 1
    assert 0.001 < 1 - opened.known.mean() < 0.03


def test_what_photos_say_comes_from_a_folder_that_has_speech(tmp_path):
    assert voice_files(None) == [VOICE]
    with pytest.raises(InputError, match="speech"):
        voice_files(tmp_path)
