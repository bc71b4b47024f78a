"""What the user is told of a portrait from the side."""

from __future__ import annotations

import numpy as np
import pytest

from starcaster_core.identity.pose import portrait_warnings
from starcaster_core.types import Identity


@pytest.mark.parametrize("yaw", [0, -20, 31.2, -44])
def test_the_user_is_told_of_a_portrait_from_the_side_and_of_no_other(yaw):
    told = portrait_warnings(Identity(np.ones(128, np.float32), yaw=yaw))
    assert [f"{abs(yaw):.0f} degrees" in sentence for sentence in told] == [True] * (abs(yaw) > 25)
