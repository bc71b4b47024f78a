"""The heads are judged by frames the camera sees from the front, and distances are those of the embeddings."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from starcaster_core.camera.poses import world_from_cam
from starcaster_core.data import faces
from starcaster_core.data.shards import Clip


def turning(size: int) -> Clip:
    """Frame k is seen from 10 k degrees and is k grey levels bright."""
    frames = np.stack([np.full((size, size, 3), k, np.uint8) for k in range(10)])
    poses = np.stack([world_from_cam(10.0 * k, 0) for k in range(10)])
    return Clip("0001-000000", {"identity": 3}, frames, None, {"world_from_cam": poses})


def test_only_frames_within_the_limit_are_asked_and_large_enough_for_the_detector():
    chosen = faces.frames_within(turning(64), 3)
    assert [int(frame.mean()) for frame in chosen] == [0, 2, 4]  # 0, 20 and 40 degrees
    assert all(frame.shape == (256, 256, 3) for frame in chosen)
    away = turning(64)
    away.truth["world_from_cam"] = away.truth["world_from_cam"][-1:].repeat(10, axis=0)
    assert faces.frames_within(away, 3) == []


def test_distances_tell_one_person_from_two(tmp_path):
    axis = np.eye(128)
    people = {1: [0.0 * axis[0], 0.3 * axis[0]], 2: [0.8 * axis[1]], 5: [0.6 * axis[2], 0.6 * axis[2]]}
    same, different = faces.distances(people)
    assert sorted(same) == pytest.approx([0.0, 0.3])
    assert sorted(different) == pytest.approx([0.6, 0.8, 1.0])
    assert faces.told(different)["mean"] == pytest.approx(0.8)
    faces.draw_histogram(same, different, tmp_path / "h.png")
    with Image.open(tmp_path / "h.png") as picture:
        assert len(picture.convert("RGB").getcolors(10000)) >= 4  # both lines on the paper


def test_pictures_without_a_face_count_as_missed(tmp_path, monkeypatch):
    monkeypatch.setattr(faces, "read_clips", lambda folder: [turning(64)])
    assert faces.read_faces(tmp_path, 3) == (3, {})
