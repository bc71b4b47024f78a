"""Mouths cut out of frames: the right pixels, at rest while the lips move, and with gradients."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starcaster_core.errors import InputError
from starcaster_core.models.mouth import CALM, LUMINANCE, SIDE, mouth_crops, steady_squares


def pictures(frames: int, side: int) -> torch.Tensor:
    return torch.rand(1, frames, 3, side, side, generator=torch.Generator().manual_seed(0))


def still_box(frames: int, x: int, y: int, width: int, side: int) -> torch.Tensor:
    return torch.tensor([x, y, x + width, y + width]).float().expand(1, frames, 4) / side


def grey(frames: torch.Tensor) -> np.ndarray:
    return np.einsum("btchw,c->bthw", frames.numpy(), np.array(LUMINANCE))


def test_a_crop_at_the_native_size_is_a_slice():
    frames = pictures(3, 128)
    crops = mouth_crops(frames, still_box(3, 41, 70, SIDE, 128))
    np.testing.assert_allclose(crops, grey(frames)[..., 70 : 70 + SIDE, 41 : 41 + SIDE], atol=2e-5)


@pytest.mark.parametrize("times", [2, 4])  # bilinear sampling alone would pass pixels over at 4
def test_a_crop_of_a_larger_picture_is_a_mean_of_blocks(times):
    frames = pictures(2, 128 * times)
    crops = mouth_crops(frames, still_box(2, 80, 130, times * SIDE, 128 * times))
    blocks = grey(frames)[..., 130 : 130 + times * SIDE, 80 : 80 + times * SIDE]
    blocks = blocks.reshape(1, 2, SIDE, times, SIDE, times).mean(axis=(3, 5))
    np.testing.assert_allclose(crops, blocks, atol=5e-5)


def test_a_wider_crop_has_the_usual_one_in_its_middle():
    frames, boxes = pictures(2, 128), still_box(2, 44, 60, 37, 128)
    wide = mouth_crops(frames, boxes, SIDE + 16)
    torch.testing.assert_close(wide[..., 8:-8, 8:-8], mouth_crops(frames, boxes), atol=2e-5, rtol=0)


def test_gradients_reach_the_mouth_and_nothing_else():
    frames = pictures(2, 128).requires_grad_()
    mouth_crops(frames, still_box(2, 41, 70, SIDE, 128)).square().sum().backward()
    touched = frames.grad.abs().amax(dim=(0, 1, 2)) > 1e-4
    expected = torch.zeros(128, 128, dtype=torch.bool)
    expected[70 : 70 + SIDE, 41 : 41 + SIDE] = True
    assert torch.equal(touched, expected)


def test_beyond_the_frame_its_edge_goes_on():
    frames = torch.full((1, 1, 3, 128, 128), 0.5)
    crops = mouth_crops(frames, still_box(1, 100, 110, SIDE, 128))
    torch.testing.assert_close(crops, torch.full_like(crops, 0.5))


def moving_boxes(lips: torch.Tensor, head: torch.Tensor) -> torch.Tensor:
    """Boxes 0.3 wide: the lower edge goes with the lips, everything with the head (both [T])"""
    zero = torch.zeros_like(lips)
    rest = torch.tensor([0.35, 0.6, 0.65, 0.8])
    return (rest + torch.stack([zero, zero, zero, lips], dim=1) + head[:, None])[None]


def test_squares_follow_the_head_and_not_the_lips():
    t = torch.arange(50.0)
    lips, drift = 0.08 * torch.sin(2 * torch.pi * t / 6) ** 2, 0.002 * t
    talking = steady_squares(moving_boxes(lips, torch.zeros(50)))[0]
    assert (talking.max(dim=0).values - talking.min(dim=0).values).max() < 0.008  # a tenth of the lips'
    turning = steady_squares(moving_boxes(torch.zeros(50), drift))[0]
    middle = (turning[:, 1] + turning[:, 3]) / 2
    torch.testing.assert_close(middle[CALM:-CALM], 0.7 + drift[CALM:-CALM])
    sides = talking[:, 2:] - talking[:, :2]
    torch.testing.assert_close(sides, torch.full_like(sides, 0.3))


def test_frames_and_boxes_that_do_not_fit_are_named():
    with pytest.raises(InputError, match=r"\[1, 2, 4\].*\[1, 3, 4\]"):
        mouth_crops(pictures(2, 64), still_box(3, 0, 0, 20, 64))
    with pytest.raises(InputError, match="square"):
        mouth_crops(pictures(2, 64)[..., :48, :], still_box(2, 0, 0, 20, 64))
