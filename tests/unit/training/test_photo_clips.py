"""Clips out of photos: lips as the render's, views as the camera's, files as the denoiser reads them."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starcaster_core.camera.poses import world_from_cam
from starcaster_core.data.shards import Clip, shard_path, write_shard
from starcaster_core.errors import InputError
from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.lip_warp import mouth_gap
from starcaster_core.training.gap_reader import draw_known_mouths
from starcaster_core.training.latents import KINDS, load_clips
from starcaster_core.training.photo_clips import FARTHEST, cycle_clips, encode_photos, lip_motion, photo_clip

PORTRAIT = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets" / "portrait.png"
NAMES = ("right_mouth", "left_mouth", "upper_lip_bottom", "lower_lip_top")
SIZE, FRAMES = 64, 6
OPENING = np.linspace(0, 0.4, FRAMES)  # mouth widths


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(PORTRAIT) as image:
        return np.array(image.convert("RGB").resize((512, 512)))


@pytest.fixture(scope="module")
def points(photo) -> np.ndarray:
    return find_landmarks(photo).points[:, :2].astype(np.float64) / len(photo)


def clip(kind: str = "temporal", yaw: float = 0.0) -> Clip:
    """A dark red render whose mouth opens more and more; for other kinds the camera goes to the side."""
    landmarks = np.zeros((FRAMES, 4, 2), np.float32)
    landmarks[:, 0], landmarks[:, 1] = (24, 44), (40, 44)
    landmarks[:, 2] = (32, 44)
    landmarks[:, 3, 0], landmarks[:, 3, 1] = 32, 44 + 16 * OPENING
    moving = kind != "temporal"
    truth = {
        "landmarks": landmarks,
        "world_from_cam": world_from_cam(np.linspace(0, yaw, FRAMES) * moving, np.zeros(FRAMES)),
        "mouth_box": np.tile(np.float32([20, 38, 44, 54]), (FRAMES, 1)),
    }
    info = {"landmark_names": list(NAMES), "kind": kind, "fps": 25.0, "size": SIZE, "split": "train", "identity": 0}
    frames = np.full((FRAMES, SIZE, SIZE, 3), (60, 10, 10), np.uint8)
    return Clip("0", info, frames, None if kind == "spatial" else np.zeros(FRAMES * 640, np.float32), truth)


def test_lips_open_as_far_as_the_renders(photo, points):
    frames, known = photo_clip(photo, points, clip())
    found = [find_landmarks(np.array(Image.fromarray(frame).resize((512, 512)))) for frame in frames]
    width = np.linalg.norm(points[61] - points[291])
    gaps = np.array([mouth_gap(one.points) / 512 for one in found]) / width
    assert np.corrcoef(gaps, OPENING)[0, 1] > 0.97
    assert gaps[0] < 0.08 and gaps[-1] > 0.2  # the landmarker sees wide mouths less open than they are
    assert not known["head_motion"].any()
    inside = [box[0] < one.points[14, 0] / 512 < box[2] and box[1] < one.points[14, 1] / 512 < box[3]
              for box, one in zip(known["mouth"], found)]  # fmt: skip
    assert all(inside)
    eyes = known["eyes"].mean(dim=0)
    assert eyes[1] < points[33, 1] < eyes[3] and eyes[0] < points[33, 0] < points[263, 0] < eyes[2]


def test_between_the_lips_is_what_the_render_has_there(photo, points):
    frames, _ = photo_clip(photo, points, clip())
    column = frames[-1, :, int(points[14, 0] * 256)].astype(int)
    inside = (np.abs(column - (60, 10, 10)).max(axis=1) < 25).sum() / 256
    assert inside / np.linalg.norm(points[61] - points[291]) == pytest.approx(OPENING[-1], abs=0.08)


@pytest.mark.parametrize("yaw", [-40.0, 40.0])
def test_a_camera_to_the_side_shows_that_side_and_stays_near(photo, points, yaw):
    frames, known = photo_clip(photo, points, clip("spatial", yaw))
    shown = find_landmarks(np.array(Image.fromarray(frames[-1]).resize((512, 512)))).pose.yaw
    before = find_landmarks(photo).pose.yaw
    assert np.sign(shown - before) == np.sign(yaw) and abs(shown - before) > 5
    x, z = known["camera"][-1, 3], known["camera"][-1, 11]
    assert torch.rad2deg(torch.atan2(x, z)).item() == pytest.approx(np.sign(yaw) * FARTHEST, abs=0.1)


def test_a_mouth_seen_from_the_side_counts_as_from_the_front():
    aside = clip()
    aside.truth["world_from_cam"] = world_from_cam(np.full(FRAMES, 60.0), np.zeros(FRAMES))
    assert np.allclose(lip_motion(aside)[0], OPENING / 2, atol=1e-3)


def test_photos_are_encoded_once_beside_the_renders(photo, tmp_path):
    photos, data, out = tmp_path / "photos", tmp_path / "data", tmp_path / "latents"
    photos.mkdir(), data.mkdir()
    Image.fromarray(photo).save(photos / "a.jpg", quality=95)
    Image.fromarray(np.zeros_like(photo)).save(photos / "nobody.jpg")
    write_shard(shard_path(data, 0), [clip(), clip("joint", 30.0)])
    model = load_checkpoint("mini", torch.float32)
    assert encode_photos(photos, data, out, model) == 1
    clips = load_clips(out)
    assert clips.latents.shape == (1, FRAMES, 16, 16, 16)
    assert clips.kind.tolist() == [KINDS.index("temporal")] and clips.identity.item() >= 1_000_000
    assert (clips.mouth[..., 2] > clips.mouth[..., 0]).all()
    assert encode_photos(photos, data, out, model) == 0


def test_mouths_that_the_model_draws_of_photos_come_with_the_renders_opening(photo, points, tmp_path):
    photos, data = tmp_path / "photos", tmp_path / "data"
    photos.mkdir(), data.mkdir()
    Image.fromarray(photo).save(photos / "a.jpg", quality=95)
    write_shard(shard_path(data, 0), [clip("joint", 30.0), clip()])
    mouths, gaps = draw_known_mouths(load_checkpoint("mini", torch.float32), photos, data, 2)
    assert mouths.shape == (FRAMES, 3, 40, 48) and mouths.float().std() > 5
    width = np.linalg.norm(points[61] - points[291])
    np.testing.assert_allclose(gaps, OPENING * width, atol=0.002)


def test_photos_without_clips_to_follow_are_refused(photo, tmp_path):
    write_shard(shard_path(tmp_path, 0), [clip("spatial")])
    with pytest.raises(InputError, match="training clips"):
        next(cycle_clips(tmp_path, ("temporal",)))
    clips = cycle_clips(tmp_path)
    assert [next(clips).info["kind"] for _ in range(3)] == ["spatial"] * 3
