"""Poses, presets, keyframes and the plot of camera paths."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from starcaster_core.camera import (
    FOCAL,
    PRESETS,
    RADIUS,
    CameraMove,
    angles,
    check_range,
    keyframe_path,
    make_path,
    parse_keyframes,
    plot_path,
    preset_path,
    world_from_cam,
)
from starcaster_core.errors import CameraError


def keys(*rows, **last):
    names = ("time", "yaw", "pitch", "distance", "easing")
    entries = [dict(zip(names, row)) for row in rows]
    entries[-1].update(last)
    return json.dumps(entries)


def test_frontal_pose_is_the_agreed_one():
    expected = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, RADIUS], [0, 0, 0, 1]]
    np.testing.assert_allclose(world_from_cam(0, 0), expected, atol=1e-6)


def test_positive_yaw_goes_to_the_subjects_left_and_positive_pitch_up():
    pose = world_from_cam(30, 0)
    assert pose[0, 3] > 0
    nose = np.linalg.inv(pose) @ [0, 0, 0.3, 1]  # in front of the face
    assert nose[0] < 0 and nose[2] > 0  # left in the picture, in front of the camera
    assert world_from_cam(0, 20)[1, 3] > 0
    above = np.linalg.inv(world_from_cam(30, 20)) @ [0, 0.3, 0, 1]
    assert above[1] < 0  # the top of the head is at the top of the picture


@settings(max_examples=60, deadline=None)
@given(st.floats(-179, 179), st.floats(-88, 88), st.floats(0.5, 5))
def test_angles_undo_poses_and_poses_are_rotations_that_look_at_the_head(yaw, pitch, radius):
    pose = world_from_cam(yaw, pitch, radius).astype(np.float64)
    np.testing.assert_allclose(angles(pose), (yaw, pitch, radius), atol=2e-3, rtol=1e-5)
    rotation = pose[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-5)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-5)
    np.testing.assert_allclose(np.linalg.inv(pose) @ [0, 0, 0, 1], [0, 0, radius, 1], atol=1e-4)


def test_against_kornia():
    kornia = pytest.importorskip("kornia.geometry.conversions")
    import torch

    pose = torch.from_numpy(world_from_cam([-40.0, 25], [10.0, -20]))
    cam_from_world, t = kornia.camtoworld_to_worldtocam_Rt(pose[:, :3, :3], pose[:, :3, 3:])
    np.testing.assert_allclose(t[:, :, 0], [[0, 0, RADIUS]] * 2, atol=1e-5)
    opengl, _ = kornia.camtoworld_vision_to_graphics_Rt(pose[:, :3, :3], pose[:, :3, 3:])
    assert (opengl[:, 1, 1] > 0).all() and (opengl[:, 2, 2] > 0).all()  # OpenGL cameras have y up and look along -z


@pytest.mark.parametrize(
    ("pose", "words"),
    [((0, 89.5, 2.7), "pitch"), ((0, 0, 0), "distance"), ((0, 0, -1), "distance"), ((float("nan"), 0, 1), "yaw")],
)
def test_impossible_poses_are_refused(pose, words):
    with pytest.raises(CameraError, match=words):
        world_from_cam(*pose)


def test_the_vector_is_extrinsics_then_intrinsics():
    vectors = make_path([0, 10], [0, 5], [1, 1.1]).vectors()
    assert vectors.shape == (2, 25) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[0, :16].reshape(4, 4), world_from_cam(0, 0))
    np.testing.assert_allclose(vectors[1, 16:], [FOCAL, 0, 0.5, 0, FOCAL, 0.5, 0, 0, 1], atol=1e-6)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("period", [0, 3.0])
def test_presets_start_where_they_should_move_smoothly_and_stay_in_reach(preset, period):
    move = CameraMove(preset, period=period, start_yaw=5, start_pitch=-3, start_distance=1.1)
    path = preset_path(move, 100)
    yaw, pitch, radius = angles(path.world_from_cam)
    np.testing.assert_allclose((yaw[0], pitch[0], radius[0]), (5, -3, 1.1 * RADIUS), atol=1e-3)
    assert np.abs(yaw - 5).max() <= move.yaw + 1e-3 and np.abs(pitch + 3).max() <= move.pitch + 1e-3
    assert np.abs(np.diff(yaw)).max() < 3  # degrees a frame
    assert np.abs(np.diff(yaw, 2)).max() < 0.4
    assert np.abs(np.diff(radius)).max() < 0.02
    moving = np.ptp(yaw) + np.ptp(pitch) + 50 * np.ptp(radius)
    assert (moving < 1e-3) == (preset == "static")
    assert path.warnings == ()


def test_dolly_reaches_its_distance_and_arc_its_angles():
    _, _, radius = angles(preset_path(CameraMove("dolly", distance=0.8, period=2), 50).world_from_cam)
    assert radius.min() == pytest.approx(0.8 * RADIUS, rel=1e-3)
    yaw, pitch, _ = angles(preset_path(CameraMove("arc", yaw=-30, pitch=10, period=1), 50).world_from_cam)
    assert yaw[-1] == pytest.approx(-30, abs=1e-3) and pitch[-1] == pytest.approx(10, abs=1e-3)


def test_bad_moves_are_refused():
    with pytest.raises(CameraError, match="spin"):
        preset_path(CameraMove("spin"), 5)
    with pytest.raises(CameraError, match="period"):
        preset_path(CameraMove(period=-1), 5)
    with pytest.raises(CameraError, match="one frame"):
        preset_path(CameraMove(), 0)
    with pytest.raises(CameraError, match="pitch"):
        preset_path(CameraMove("arc", pitch=95), 200)


def test_leaving_the_trained_range_warns_and_says_where():
    path = preset_path(CameraMove("arc", yaw=80, pitch=-40, period=1), 50)
    assert len(path.warnings) == 2
    assert "yaw reaches 80" in path.warnings[0] and "s, outside" in path.warnings[0]
    assert "pitch reaches -40" in path.warnings[1]
    (close,) = make_path([0], [0], [0.5]).warnings
    assert "distance reaches 0.5" in close
    assert check_range(make_path([70, -70], [35, -35], [0.8, 1.25])) == ()


def test_keyframes_are_met_and_held_outside():
    text = keys((0.4, 10, 0, 1), (1.2, -20, 5, 0.9, "linear"), (2, 0, 0, 1.1))
    yaw, pitch, radius = angles(keyframe_path(text, 75, 25).world_from_cam)
    for time, values in (
        (0, (10, 0, 1)),
        (0.4, (10, 0, 1)),
        (1.2, (-20, 5, 0.9)),
        (2, (0, 0, 1.1)),
        (2.9, (0, 0, 1.1)),
    ):
        frame = round(time * 25)
        np.testing.assert_allclose((yaw[frame], pitch[frame], radius[frame] / RADIUS), values, atol=1e-3)
    assert yaw[40] == pytest.approx(-10, abs=1e-3)  # halfway of the linear part


@pytest.mark.parametrize(
    ("easing", "quarter"), [("linear", 2.5), ("smooth", 1.5625), ("ease_in", 0.625), ("ease_out", 4.375), ("hold", 0)]
)
def test_easings(easing, quarter):
    yaw, _, _ = angles(keyframe_path(keys((0, 0, 0, 1, easing), (1, 10, 0, 1)), 26, 25).world_from_cam[6:7])
    at_quarter, _, _ = angles(keyframe_path(keys((0, 0, 0, 1, easing), (4, 10, 0, 1)), 2, 1).world_from_cam[1:])
    assert at_quarter[0] == pytest.approx(quarter, abs=1e-3) and 0 <= yaw[0] < 5


def test_hold_ends_on_the_frame_of_the_next_keyframe():
    yaw, _, _ = angles(keyframe_path(keys((0, 0, 0, 1, "hold"), (1, 10, 0, 1)), 30, 25).world_from_cam)
    np.testing.assert_allclose(yaw[23:27], [0, 0, 10, 10], atol=1e-3)


def test_one_keyframe_is_a_still_camera():
    path = keyframe_path(keys((3, 15, 0, 1)), 5)
    assert np.ptp(path.world_from_cam, axis=0).max() == 0 and angles(path.world_from_cam)[0][0] == pytest.approx(15)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("nonsense", "not JSON"),
        (None, "not JSON"),
        ("[" * 100000, "not JSON"),
        ("{}", "JSON dict"),
        ("[]", "empty list"),
        ("[1]", "keyframe 1 as a JSON object"),
        (keys((0, 0, 0, 1), (0, 1, 0, 1)), "same time"),
        (keys((1, 0, 0, 1), (0.5, 1, 0, 1)), "earlier"),
        ('[{"time": 0, "yaw": 0, "pitch": 0}]', "distance in keyframe 1, got nothing"),
        ('[{"time": 0, "yaw": NaN, "pitch": 0, "distance": 1}]', "yaw in keyframe 1, got nan"),
        ('[{"time": 0, "yaw": "3", "pitch": 0, "distance": 1}]', "yaw"),
        ('[{"time": 0, "yaw": true, "pitch": 0, "distance": 1}]', "yaw"),
        (f'[{{"time": 0, "yaw": 1{"0" * 400}, "pitch": 0, "distance": 1}}]', "yaw"),
        (keys((-1, 0, 0, 1)), "0 s or later"),
        (keys((0, 0, 0, 1, "bounce")), "bounce"),
        (keys((0, 0, 0, 1), easeing="linear"), "easeing"),
        (keys((0, 0, 95, 1)), "pitch"),
        (keys((0, 0, 0, 0)), "distance"),
    ],
)
def test_bad_keyframes_are_refused(text, words):
    with pytest.raises(CameraError, match=words):
        keyframe_path(text, 5)


def test_keyframes_beyond_the_trained_range_only_warn():
    assert "yaw" in keyframe_path(keys((0, 0, 0, 1), (1, 90, 0, 1)), 50).warnings[0]
    assert parse_keyframes(keys((0, 0, 0, 1)))[0].easing == "smooth"


@pytest.mark.parametrize("frames", [1, 2, 60])
def test_the_plot_shows_the_path(frames):
    picture = plot_path(preset_path(CameraMove("orbit"), frames), 480, 240)
    assert picture.shape == (240, 480, 3) and picture.dtype == np.uint8
    assert picture.mean() < 80  # dark
    assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50
    other = plot_path(preset_path(CameraMove("arc", yaw=-60), frames), 480, 240)
    assert frames == 1 or np.abs(picture.astype(int) - other).max() > 50
