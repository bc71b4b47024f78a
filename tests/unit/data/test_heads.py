"""The head world: who is drawn from a seed, how a face is framed, where the camera stands."""

from pathlib import Path

import numpy as np
import pytest

from starcaster_core.camera.poses import default_intrinsics, world_from_cam
from starcaster_core.data.heads.camera import project
from starcaster_core.data.heads.kit import find_kit, load_kit
from starcaster_core.data.heads.rig import LANDMARKS, build_rig, ffhq_quad, vertex_normals
from starcaster_core.data.visemes import shape_vector
from starcaster_core.errors import MissingDependencyError

HEAD_ON = np.eye(3, dtype=np.float32)
PEOPLE = (0, 1, 2, 7)


@pytest.fixture(scope="module")
def kit():
    try:
        return load_kit()
    except MissingDependencyError as error:
        pytest.skip(f"no head kit: {error}")


@pytest.fixture(scope="module")
def rigs(kit):
    from starcaster_core.data.heads.identity import sample_identity

    return [build_rig(kit, sample_identity(kit, seed)) for seed in PEOPLE]


def seen(rig, pose, weights=None) -> dict[str, np.ndarray]:
    positions = rig.neutral if weights is None else rig.pose(weights)[0]
    return dict(zip(LANDMARKS, project(rig.landmark_points(positions, HEAD_ON), pose, default_intrinsics())))


def test_a_missing_kit_says_what_to_get(monkeypatch, tmp_path):
    monkeypatch.setenv("STARCASTER_HEADS", str(tmp_path))
    with pytest.raises(MissingDependencyError, match="STARCASTER_HEADS"):
        find_kit()


def test_a_frontal_neutral_view_is_its_own_ffhq_crop(rigs):
    for rig in rigs:
        points = np.array(list(seen(rig, world_from_cam(0, 0)).values()))
        centre, half_side = ffhq_quad(points)
        np.testing.assert_allclose(centre, [0.5, 0.5], atol=1e-4)
        np.testing.assert_allclose(half_side, [0.5, 0.0], atol=1e-4)


def test_the_frontal_camera_stands_where_the_convention_says():
    expected = [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]]
    np.testing.assert_allclose(world_from_cam(0, 0), expected, atol=1e-6)


@pytest.mark.parametrize("yaw, pitch", [(30, 0), (-50, 10), (70, -35)])
def test_poses_are_rotations_that_look_at_the_origin(yaw, pitch):
    pose = world_from_cam(yaw, pitch)
    rotation = pose[:3, :3]
    np.testing.assert_allclose(rotation.T @ rotation, np.eye(3), atol=1e-6)
    assert np.linalg.det(rotation) == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(pose[:3, 3] + 2.7 * rotation[:, 2], 0, atol=1e-5)
    assert np.sign(pose[0, 3]) == np.sign(yaw) and (pitch == 0 or np.sign(pose[1, 3]) == np.sign(pitch))


def test_positive_yaw_shows_the_subjects_left_and_turns_the_nose_left(rigs):
    for rig in rigs:
        front, side = seen(rig, world_from_cam(0, 0)), seen(rig, world_from_cam(30, 0))
        assert side["nose_tip"][0] < front["nose_tip"][0] - 0.02
        assert front["left_eye_outer"][0] > front["right_eye_outer"][0]
        # the near (left) half of the face takes more room than the far one
        near = side["left_eye_outer"][0] - side["nose_bridge"][0]
        far = side["nose_bridge"][0] - side["right_eye_outer"][0]
        assert near > far


def test_a_camera_above_sees_the_nose_lower(rigs):
    for rig in rigs:
        above, front = seen(rig, world_from_cam(0, 25)), seen(rig, world_from_cam(0, 0))
        assert above["nose_tip"][1] - above["nose_bridge"][1] > front["nose_tip"][1] - front["nose_bridge"][1]


def test_an_open_jaw_opens_the_lips_and_closed_lips_meet(kit, rigs):
    for rig in rigs:
        gaps = {}
        for shape in ("rest", "closed", "aa", "hiss"):
            at = seen(rig, world_from_cam(0, 0), shape_vector(shape, kit.unit_names))
            gaps[shape] = at["lower_lip_top"][1] - at["upper_lip_bottom"][1]
        assert gaps["closed"] < 0.005 and gaps["closed"] <= gaps["rest"] + 1e-3
        assert gaps["aa"] > 0.06 and gaps["aa"] > gaps["hiss"] > gaps["closed"]


def test_people_differ_and_a_seed_is_always_the_same_person(kit):
    from starcaster_core.data.heads.identity import sample_identity

    again = sample_identity(kit, 5)
    assert again.targets == sample_identity(kit, 5).targets
    assert again.targets != sample_identity(kit, 6).targets
    np.testing.assert_array_equal(again.skin_tint, sample_identity(kit, 5).skin_tint)


def test_macro_targets_blend_to_one_whole_body(kit):
    from starcaster_core.data.heads.identity import sample_identity

    for seed in range(20):
        targets = sample_identity(kit, seed).targets
        for group in ("universal", "(african|asian|caucasian)"):
            import re

            total = sum(w for name, w in targets.items() if re.match(rf"macrodetails/{group}-", name))
            assert total == pytest.approx(1, abs=0.02)


def test_normals_of_a_flat_square_point_up():
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    normals = vertex_normals(square, np.array([[0, 1, 2], [0, 2, 3]]))
    np.testing.assert_allclose(normals, [[0, 0, 1]] * 4, atol=1e-6)


def test_the_parsed_kit_is_cached_and_reads_the_same(kit, monkeypatch, tmp_path):
    if not (Path(kit.root) / "base.obj").is_file():
        pytest.skip("the kit was cached but is gone")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    load_kit.cache_clear()
    fresh = load_kit()
    assert len(list((tmp_path / "starcaster").glob("heads-*.npz"))) == 1
    np.testing.assert_array_equal(fresh.vertices, kit.vertices)
    np.testing.assert_array_equal(fresh.target_moves, kit.target_moves)
