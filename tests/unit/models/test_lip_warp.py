"""Lips moved by geometry: the inversion is one, and the landmarker sees the mouth as far open as was asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.extensions.portrait_warp import pixel_centres
from starcaster_core.models.lip_warp import CLOSED, SIDE, compose, lip_directions, lip_field, lip_flow, mouth_gap
from starcaster_core.training.decoder_pairs import warp_picture
from starcaster_core.training.talking_pairs import between_lips, put_between

ASSETS = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets"


@pytest.fixture(scope="module")
def portrait() -> np.ndarray:
    with Image.open(ASSETS / "portrait.png") as image:
        return np.array(image.convert("RGB").resize((512, 512)))


@pytest.fixture(scope="module")
def points(portrait):
    return (find_landmarks(portrait).points / len(portrait)).astype(np.float64)


@pytest.fixture(scope="module")
def field(points):
    return lip_field(points)


def test_lips_and_chin_come_to_where_the_opening_wants_them(points, field):
    for gap in (0.0, 0.02, 0.05):
        flow = lip_flow(field.way, field.gap, torch.tensor([gap]))
        change = max(gap, CLOSED) - max(mouth_gap(points), CLOSED)
        moved = points[:, :2] + change * lip_directions(points)
        assert moved[14, 1] - moved[13, 1] == pytest.approx(mouth_gap(points) + change, abs=2e-3)
        for index in (0, 17, 61, 152, 200):  # of the lips' outer edge, a corner, the chin
            at = torch.from_numpy(moved[None, None, None, index]).float()
            back = F.grid_sample(flow, 2 * at - 1, align_corners=False)[0, :, 0, 0].numpy()
            np.testing.assert_allclose(moved[index] + back, points[index, :2], atol=4e-3, err_msg=f"{gap} {index}")


def test_the_landmarker_sees_parted_lips_close():
    """A drawn mouth, dark between the lips: closed by half, then wholly."""
    with Image.open(ASSETS / "portrait_2.png") as image:
        portrait = np.array(image.convert("RGB").resize((512, 512)))
    found = find_landmarks(portrait)
    field = lip_field(found.points / 512)
    opened = lip_flow(field.way, field.gap, field.gap + 0.04)
    moved = found.points[:, :2] / 512 + 0.04 * lip_directions(found.points / 512)
    dark = between_lips(moved)
    wide = put_between(warp_picture(portrait, opened), np.full_like(portrait, 30), dark)
    again = find_landmarks(wide)
    assert mouth_gap(again.points) / 512 > field.gap.item() + 0.025
    field = lip_field(again.points / 512)
    seen = []
    for share in (0.5, 0.0):
        flow = lip_flow(field.way, field.gap, share * field.gap)
        seen.append(mouth_gap(find_landmarks(warp_picture(wide, flow)).points) / 512)
    assert seen[0] == pytest.approx(0.5 * field.gap.item(), abs=0.01)
    assert seen[1] < 0.4 * field.gap.item()


def test_its_own_opening_moves_nothing(field):
    assert lip_flow(field.way, field.gap, field.gap).abs().max() == 0


def test_a_place_of_the_frame_comes_from_where_the_photo_moves_it_to(field):
    gap = field.gap + 0.02
    flow = lip_flow(field.way, field.gap, gap)
    there = 2 * (pixel_centres(SIDE, torch.device("cpu"))[None] + flow.movedim(1, -1)) - 1
    back = 0.02 * F.grid_sample(field.way, there, padding_mode="border", align_corners=False)
    assert flow.abs().max() > 0.01
    assert (flow + back).abs().mean() < 2e-5


def test_eyes_and_the_picture_s_border_stay_where_they_are(points, field):
    eyes = torch.from_numpy(points[None, None, [33, 133, 362, 263], :2]).float()
    assert F.grid_sample(field.way, 2 * eyes - 1, align_corners=False).abs().max() < 0.02
    border = torch.cat([field.way[..., 0], field.way[..., -1], field.way[..., 0, :]], dim=-1)
    assert border.abs().max() == 0


def test_composed_flows_sample_one_after_the_other():
    generator = torch.Generator().manual_seed(0)
    first, then = (
        0.03 * F.interpolate(torch.randn(1, 2, 5, 5, generator=generator), (SIDE, SIDE), mode="bicubic")
        for _ in range(2)
    )
    picture = F.interpolate(torch.rand(1, 3, 8, 8, generator=generator), (SIDE, SIDE), mode="bicubic")

    def sample(x, flow):
        grid = 2 * (pixel_centres(SIDE, torch.device("cpu"))[None] + flow.movedim(1, -1)) - 1
        return F.grid_sample(x, grid, padding_mode="border", align_corners=False)

    difference = sample(picture, compose(first, then)) - sample(sample(picture, then), first)
    assert difference[..., 16:-16, 16:-16].abs().mean() < 5e-3
