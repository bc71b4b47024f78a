"""The portrait as it would look from elsewhere: nothing happens where nothing moved, places go where geometry says, and
of rendered heads it comes nearer to the truth than the portrait as it was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core.camera.poses import intrinsics, world_from_cam
from starcaster_core.head_motion import CHANNELS, head_rotations, rotations
from starcaster_core.models.checkpoint import random_model
from starcaster_core.models.extensions import FramePose, open_reference, prepare_chunk
from starcaster_core.models.extensions.portrait_warp import CENTRE, PIVOT, RADII, camera_at, warp_flow, warp_portrait
from starcaster_core.presets import PRESETS


def degrees(*angles) -> torch.Tensor:
    """Yaw, pitch, roll -> [1, 1, 3, 3]"""
    return rotations(torch.tensor(angles, dtype=torch.float64))[None, None]


def camera(yaw: float, pitch: float = 0.0) -> torch.Tensor:
    """[1, 1, 25]"""
    pose, lens = world_from_cam(yaw, pitch).reshape(16), intrinsics(1).reshape(9)
    return torch.from_numpy(np.concatenate([pose, lens]))[None, None]


def picture() -> torch.Tensor:
    """Its red is x, its green is y, as shares of the side"""
    ticks = (torch.arange(128) + 0.5) / 128
    down, right = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([right, down, torch.zeros_like(down)])[None]


def on_the_head(x: float, y: float) -> np.ndarray:
    """The place on the front of the ellipsoid above (x, y) of the world"""
    (cx, cy, cz), (rx, ry, rz) = CENTRE, RADII
    return np.array([x, y, cz + rz * np.sqrt(1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2)])


def project(point: np.ndarray, pose: np.ndarray) -> np.ndarray:
    seen = (point - pose[:3, 3]) @ pose[:3, :3]
    return seen[:2] / seen[2] * intrinsics(1)[0, 0, 0] + 0.5


def colour_at(turned: torch.Tensor, place: np.ndarray) -> np.ndarray:
    column, row = (place * 128).astype(int)
    return turned[0, 0, :2, row, column].numpy()


def test_what_has_not_moved_stays_as_it_is():
    still = warp_portrait(picture(), torch.eye(3).expand(1, 2, 3, 3))
    assert still.shape == (1, 2, 3, 128, 128)
    torch.testing.assert_close(still[:, 1], picture(), atol=2e-3, rtol=0)
    from_the_side = warp_portrait(picture(), torch.eye(3).expand(1, 1, 3, 3), camera(20.0), camera(20.0)[:, 0])
    torch.testing.assert_close(from_the_side[:, 0], picture(), atol=2e-3, rtol=0)


@pytest.mark.parametrize("angles", [(8.0, 0.0, 0.0), (0.0, 6.0, 0.0), (0.0, 0.0, 5.0), (-6.0, 4.0, -3.0)])
@pytest.mark.parametrize("place", [(0.0, 0.0), (0.08, 0.02), (-0.05, -0.1)])
def test_a_place_on_a_turned_head_has_the_portrait_s_colour(angles, place):
    point, front = on_the_head(*place), world_from_cam(0.0, 0.0)
    rotation = degrees(*angles)[0, 0].numpy()
    now = np.array(PIVOT) + rotation @ (point - np.array(PIVOT))
    turned = warp_portrait(picture(), degrees(*angles))
    np.testing.assert_allclose(colour_at(turned, project(now, front)), project(point, front), atol=0.012)


@pytest.mark.parametrize("angles", [(25.0, 0.0), (-15.0, 10.0)])
def test_a_place_seen_from_another_camera_has_the_portrait_s_colour(angles):
    point, front = on_the_head(0.02, 0.01), world_from_cam(0.0, 0.0)
    turned = warp_portrait(picture(), torch.eye(3).expand(1, 1, 3, 3), camera(*angles))
    place = project(point, world_from_cam(*angles))
    np.testing.assert_allclose(colour_at(turned, place), project(point, front), atol=0.012)


def test_far_from_the_head_nothing_moves_and_the_shifts_are_smooth():
    from_front = camera_at()[None]
    assert warp_flow(from_front, degrees(0.0, 0.0, 0.0)[0], from_front).abs().max() < 1e-5
    shift = warp_flow(from_front, degrees(10.0, 0.0, 0.0)[0], from_front)[0]
    assert shift[:, 0, 0].abs().max() < 1e-3 and shift[:, :, 0].abs().max() < 5e-3
    assert shift.abs().max() > 0.02 and shift[:, 1:-1].diff(dim=-1).abs().max() < 0.05


def test_sampling_and_training_turn_by_the_same_numbers():
    motion = torch.zeros(2, 3, len(CHANNELS))
    motion[1, 2, :3] = torch.tensor([1.0, -2.0, 0.5])
    torch.testing.assert_close(head_rotations(motion)[1, 2], degrees(5.5, -5.6, 0.9)[0, 0])
    torch.testing.assert_close(head_rotations(motion)[0], torch.eye(3).expand(3, 3, 3))


@torch.no_grad()
def test_a_model_that_turns_has_a_portrait_for_every_frame_and_another_has_one():
    model = random_model(PRESETS["tiny"]).eval()
    latents = torch.randn(2, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    motion = torch.zeros(2, 4, len(CHANNELS))
    motion[:, 2, 0] = 2.0

    def copied():
        return prepare_chunk(model, open_reference(model, latents), FramePose(motion))["portrait_copy"]

    features, portraits = copied()
    assert len(features) == len(portraits) == 8
    by_frame = portraits.unflatten(0, (2, 4))
    torch.testing.assert_close(by_frame[:, 0], by_frame[:, 3])
    assert not torch.allclose(by_frame[:, 0], by_frame[:, 2], atol=0.05)
    model.config = replace(model.config, extensions=replace(model.config.extensions, warp_portrait=False))
    _, portraits = copied()
    assert torch.equal(portraits, latents[:, :, 0])


@pytest.mark.slow
def test_rendered_heads_come_nearer_to_the_truth():
    """Than the portrait standing still, whose error is what the head's turning makes"""
    from starcaster_core.data.heads.kit import load_kit
    from starcaster_core.data.synth import Settings, make_clip
    from starcaster_core.errors import MissingDependencyError
    from starcaster_core.training.latents import head_degrees

    try:
        load_kit()
    except MissingDependencyError as error:
        pytest.skip(f"no head kit: {error}")
    clip = make_clip(Settings(1, frames=40, size=64, seed=3, kinds=(("temporal", 1.0),), degraded=0.0), 1)
    frames = torch.from_numpy(clip.frames).movedim(-1, 1).float() / 255
    moved = head_degrees(clip.truth["head_rotation"])
    turned = warp_portrait(frames[:1], rotations(torch.from_numpy(moved - moved[0]))[None])[0]
    still_error, turned_error = ((frames - made).square().mean() for made in (frames[:1], turned))
    assert turned_error < 0.7 * still_error
