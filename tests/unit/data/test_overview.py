"""What is said of a folder of clips is what is in it."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from starcaster_core.camera.poses import default_intrinsics, world_from_cam
from starcaster_core.data import overview
from starcaster_core.data.shards import SAMPLE_RATE, Clip, shard_path, write_shard
from starcaster_core.video import probe

pytest.importorskip("av")
FRAMES = 10


def clip(number: int, kind: str = "temporal", yaw: float = 0.0, shut: tuple[int, ...] = (), phonemes=()) -> Clip:
    """Lips two pixels apart at 64, but for the frames in `shut`."""
    landmarks = np.full((FRAMES, 4, 2), 32.0, np.float32)
    landmarks[:, 1:, 1] += [2, -14, 10]  # lower lip, bridge of the nose, chin
    for frame in shut:
        landmarks[frame, 1] = landmarks[frame, 0]
    info = {
        "fps": 25.0,
        "kind": kind,
        "split": "train",
        "voice": "en-us+m3" if kind == "temporal" else None,
        "frames": FRAMES,
        "size": 64,
        "identity": number,
        "phonemes": list(phonemes),
        "landmark_names": ["upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin"],
    }
    truth = {
        "world_from_cam": np.repeat(world_from_cam(yaw, 0)[None], FRAMES, axis=0),
        "intrinsics": np.repeat(default_intrinsics()[None], FRAMES, axis=0),
        "landmarks": landmarks,
        "embedding": np.full(128, number * 0.1, np.float32),
    }
    frames = np.full((FRAMES, 64, 64, 3), 20 * number, np.uint8)
    audio = np.zeros(FRAMES * SAMPLE_RATE // 25, np.float32) if kind == "temporal" else None
    return Clip(f"0001-{number:06d}", info, frames, audio, truth)


@pytest.fixture
def folder(tmp_path):
    talking = clip(1, shut=(3,), phonemes=[[0.1, 0.16, "m"], [0.24, 0.3, "p"], [0.3, 0.36, "a"]])
    write_shard(shard_path(tmp_path, 0), [talking, clip(2, "spatial", yaw=30), clip(3, "spatial", yaw=-30)])
    return tmp_path


def test_statistics_count_what_is_there(folder):
    told = json.loads(overview.write_statistics(folder).read_text())
    assert (told["clips"], told["frames"], told["seconds"], told["people"], told["voices"]) == (3, 30, 1.2, 3, 1)
    assert told["kinds"] == {"temporal": 1, "spatial": 2} and told["splits"] == {"train": 3}
    assert told["yaw_degrees"] == {"2.5%": -30, "50%": 0, "97.5%": 30}
    # 128 numbers 0.1 apart: a distance of 0.1 sqrt(128) = 1.131 between neighbours, twice that between 1 and 3
    assert 1.131 < told["identity_distance"]["mean"] < 2.263 and told["identity_distance"]["below_0.45"] == 0


def test_lips_that_stay_open_on_a_bilabial_are_noticed(folder):
    told = overview.statistics(folder)
    assert told["bilabials"] == 2, "the vowel does not count"
    assert told["bilabials_with_closed_lips"] == 0.5


def test_an_empty_folder_has_no_clips(tmp_path):
    assert overview.statistics(tmp_path) == {"clips": 0}


def test_previews_play_with_sound_and_the_sheet_shows_every_clip(folder):
    talking, still = overview.previews(folder, 2)
    assert probe(talking).frames == FRAMES and probe(talking).audio_codec == "aac"
    assert probe(still).audio_codec is None
    overview.contact_sheet(folder, folder / "sheet.png", columns=4)
    sheet = np.asarray(Image.open(folder / "sheet.png"))
    assert sheet.shape == (3 * 64, 4 * 64, 3)
    assert [round(sheet[64 * row + 32, 32].mean() / 20) for row in range(3)] == [1, 2, 3]


def test_the_portraits_show_every_person_once_from_the_front(tmp_path):
    turning = clip(5)
    turning.truth["world_from_cam"] = np.stack([world_from_cam(yaw, 0) for yaw in np.linspace(-40, 50, FRAMES)])
    turning.frames[4] = 255  # yaw 0
    write_shard(shard_path(tmp_path, 0), [turning, clip(2), clip(2, "spatial"), clip(3)])
    assert overview.portraits(tmp_path, tmp_path / "faces.png", columns=2, side=32) == 3
    sheet = np.asarray(Image.open(tmp_path / "faces.png"))
    assert sheet.shape == (2 * 32, 2 * 32, 3)
    cells = [sheet[16, 16], sheet[16, 48], sheet[48, 16], sheet[48, 48]]
    assert [round(cell.mean() / 20) for cell in cells] == [13, 2, 3, 0]
