"""Rendered pairs: the flow leads from every place of the frame to where the portrait shows the same."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from starcaster_core.data.heads.kit import load_kit
from starcaster_core.data.pairs import FLOW_SIDE, SIDE, render_scene
from starcaster_core.errors import StarcasterError
from starcaster_core.training.decoder_pairs import warp_picture


@pytest.fixture(scope="module")
def scenes():
    try:
        load_kit()
        return [render_scene(seed=3, number=number) for number in range(3)]
    except (StarcasterError, ImportError) as error:
        pytest.skip(f"no head kit, voice or OpenGL: {error}")


def test_the_flow_brings_the_portrait_onto_the_frame_where_it_is_visible(scenes):
    for scene in scenes:
        assert scene.portrait.shape == (SIDE, SIDE, 3) and scene.flow.shape[1:] == (2, FLOW_SIDE, FLOW_SIDE)
        for frame, flow, visible in zip(scene.frames, scene.flow, scene.visible):
            seen = torch.from_numpy(visible)[None, None].float()
            seen = F.interpolate(seen, (SIDE, SIDE), mode="nearest")[0, 0].numpy() > 0.5
            warped = warp_picture(scene.portrait, torch.from_numpy(flow)[None])
            still, moved = (np.abs(picture.astype(float) - frame)[seen].mean() for picture in (scene.portrait, warped))
            assert seen.mean() > 0.2
            assert moved < 0.6 * still, (scene.person, moved, still)


def test_a_scene_is_a_function_of_its_number(scenes):
    again = render_scene(seed=3, number=0)
    np.testing.assert_array_equal(again.frames, scenes[0].frames)
    assert again.person == scenes[0].person
    assert not np.array_equal(scenes[0].portrait, scenes[1].portrait)
