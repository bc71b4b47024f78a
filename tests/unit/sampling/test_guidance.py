"""The guidance ladder against its formula, for random numbers."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from starcaster_core.sampling.guidance import nest

scale = st.floats(0, 20).map(lambda x: round(x, 2))
answers = st.lists(st.floats(-5, 5), min_size=4, max_size=4)


@given(scale, scale, scale, answers)
def test_weights_give_the_nested_formula(s_id, s_cam, s_audio, answers):
    null, identity, camera, full = answers
    branches = nest([(1.0, lambda: null), (s_id, lambda: identity), (s_cam, lambda: camera), (s_audio, lambda: full)])
    wanted = null + s_id * (identity - null) + s_cam * (camera - identity) + s_audio * (full - camera)
    assert abs(sum(b.condition * b.weight for b in branches) - wanted) < 1e-9 * (1 + abs(wanted)) + 1e-9


@given(scale)
def test_equal_scales_leave_null_and_full_alone(scale):
    built = []
    ladder = [(scale, lambda name=name: built.append(name)) for name in ("null", "identity", "camera", "full")]
    nest(ladder)
    assert "identity" not in built and "camera" not in built
    assert ("null" in built) == (scale != 1)
