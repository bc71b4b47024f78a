"""From which side a photo was taken: exact on a known head, fair on a rendered one, mirrored by a mirror."""

from __future__ import annotations

import numpy as np
import pytest

from starcaster_core.camera import world_from_cam
from starcaster_core.errors import MissingDependencyError
from starcaster_core.identity.pose import HEAD, portrait_warnings, portrait_yaw, yaw_of_points
from starcaster_core.types import Identity

ROLL = np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])


@pytest.mark.parametrize("yaw", [-50, -10, 0, 25, 45])
@pytest.mark.parametrize("roll", [np.eye(2), ROLL])
def test_the_yaw_of_a_known_head_is_found_however_large_it_is_and_wherever(yaw, roll):
    seen = HEAD @ world_from_cam(yaw, 0.0)[:3, :2] @ roll
    assert yaw_of_points(300 * seen + [120, 80]) == pytest.approx(yaw, abs=1e-3)


@pytest.mark.parametrize("yaw", [0, -20, 31.2, -44])
def test_the_user_is_told_of_a_portrait_from_the_side_and_of_no_other(yaw):
    told = portrait_warnings(Identity(np.ones(128, np.float32), yaw=yaw))
    assert [f"{abs(yaw):.0f} degrees" in sentence for sentence in told] == [True] * (abs(yaw) > 25)


def test_a_mirror_turns_the_other_way():
    pytest.importorskip("dlib")
    data = pytest.importorskip("skimage.data")
    from starcaster_core.identity import detect

    photo = np.ascontiguousarray(data.astronaut()[:260, 110:370])
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    (face,), (other,) = detect(photo), detect(mirrored)
    here, there = portrait_yaw(photo, face), portrait_yaw(mirrored, other)
    assert abs(here) < 20 and here + there == pytest.approx(0, abs=4)


@pytest.mark.parametrize("yaw", [-35, 35])
def test_a_rendered_face_from_the_side_is_known_as_such(yaw):
    pytest.importorskip("dlib")
    from starcaster_core.data.heads.camera import default_intrinsics, look_at_origin
    from starcaster_core.data.heads.look import studio_look
    from starcaster_core.data.synth import the_stage
    from starcaster_core.identity import detect

    try:
        stage = the_stage()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    found = []
    for person in range(3):
        rig = stage.show(person)
        stage.renderer.pose(np.zeros(len(rig.morphs), np.float32))
        picture = stage.renderer.draw(studio_look(), look_at_origin(yaw, 0), default_intrinsics(), size=256)
        found += [portrait_yaw(picture, face) for face in detect(picture)[:1]]
    assert found and np.mean(found) == pytest.approx(yaw, abs=12)
