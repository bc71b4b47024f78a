"""What the user is told of a portrait from the side or from afar, of an open mouth and of shut eyes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from starcaster_core.identity import make_identity, pose, read_picture
from starcaster_core.identity.pose import expression_warnings, portrait_warnings
from starcaster_core.types import Identity


@pytest.mark.parametrize("yaw", [0, -20, 31.2, -44])
def test_the_user_is_told_of_a_portrait_from_the_side_and_of_no_other(yaw):
    told = portrait_warnings(Identity(np.ones(128, np.float32), yaw=yaw))
    assert [f"{abs(yaw):.0f} degrees" in sentence for sentence in told] == [True] * (abs(yaw) > 25)


@pytest.mark.parametrize("side", [100.0, 159.0, 161.0, 800.0])
def test_the_user_is_told_of_a_head_of_few_pixels(side):
    crop = np.diag([512 / side, 512 / side, 1.0])
    told = portrait_warnings(Identity(np.ones(128, np.float32), np.zeros((512, 512, 3), np.uint8), crop=crop))
    assert [f"{side:.0f} pixels" in sentence for sentence in told] == [True] * (side < 160)


def test_the_user_is_told_of_a_wide_mouth_and_of_shut_eyes():
    def face(mouth: float, *lids: float):
        return expression_warnings(SimpleNamespace(mouth_opening=mouth, lid_openings=lids))

    assert face(0.25, 0.2, 0.3) == face(0.0, 0.05, 0.3) == expression_warnings(None) == ()  # a smile; a wink
    (wide,), (shut,) = face(0.5, 0.3, 0.3), face(0.0, 0.05, 0.1)
    assert "wide open" in wide and "shut" in shut


def test_an_identity_carries_what_its_photo_shows(monkeypatch):
    pytest.importorskip("dlib")
    photo = read_picture(Path(pose.__file__).parents[1] / "assets" / "portrait.png")
    assert make_identity([photo], 128).warnings == ()
    monkeypatch.setattr(pose, "WIDE_OPEN", -1.0)
    monkeypatch.setattr(pose, "SHUT", 9.0)
    assert [word in " ".join(make_identity([photo], 128).warnings) for word in ("wide open", "shut")] == [True, True]
