"""Lips moved by geometry: the inversion is one, and the landmarker sees the mouth as far open as was asked for."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.interpolate import LinearNDInterpolator

from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.extensions.portrait_warp import pixel_centres
from starcaster_core.models.lip_warp import (
    CLOSED,
    SIDE,
    LipField,
    compose,
    interpolate,
    lip_directions,
    lip_field,
    lip_flow,
    lip_lines,
    mouth_gap,
    mouth_width,
)
from starcaster_core.training.warped_lips import WarpedLips, moved_places, warp_lips

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


def open_mouth(portrait: np.ndarray, field: LipField, gap: torch.Tensor) -> WarpedLips:
    """Move the lips of a picture uint8 [S, S, 3]."""
    pixels = torch.from_numpy(portrait.copy()).permute(2, 0, 1)[None].float()
    return warp_lips(pixels, field, gap, torch.zeros(1, 2, SIDE, SIDE))


def as_picture(frames: torch.Tensor) -> np.ndarray:
    return frames[0].permute(1, 2, 0).clamp(0, 255).round().byte().numpy()


@pytest.fixture(scope="module")
def smile(points) -> np.ndarray:
    """Landmarks whose lips are apart."""
    return points[:, :2] + 0.04 * lip_directions(points[:, :2])


def painted(points: np.ndarray) -> np.ndarray:
    """A picture that is red above the mouth, blue below, and green between the lips, brighter and brighter to the
    right and downwards."""
    ticks = (np.arange(512) + 0.5) / 512
    x, y = np.meshgrid(ticks, ticks)
    upper, lower = lip_lines(points, x)
    picture = np.where((y < upper)[..., None], [200, 0, 0], [0, 0, 200])
    between = (y >= upper) & (y < lower)
    picture[between] = np.stack([0 * x, 100 + 100 * (x + y) / 2, 0 * x], axis=-1)[between]
    return picture.astype(np.uint8)


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
    opened = open_mouth(portrait, field, field.gap + 0.04)
    wide = as_picture(torch.lerp(opened.frames, torch.full_like(opened.frames, 30), opened.layers.unknown))
    again = find_landmarks(wide)
    assert mouth_gap(again.points) / 512 > field.gap.item() + 0.025
    field = lip_field(again.points / 512)
    seen = []
    for share in (0.5, 0.0):
        closer = as_picture(open_mouth(wide, field, share * field.gap).frames)
        seen.append(mouth_gap(find_landmarks(closer).points) / 512)
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


def test_layers_at_the_photo_s_own_opening_are_the_photo(portrait, points, smile):
    for picture, at in ((portrait, points), (painted(smile), smile)):
        field = lip_field(at)
        same = open_mouth(picture, field, field.gap)
        assert same.layers.unknown.max() == 0
        assert np.abs(as_picture(same.frames).astype(int) - picture).max() <= 1


def test_lips_that_open_keep_their_edges_and_show_nothing_of_each_other(points):
    """One surface would smear what lies between red and blue over the mouth."""
    field, closed = lip_field(points), painted(points)
    opened = open_mouth(closed, field, field.gap + 0.06)
    column = int(points[13, 0] * 512)
    unknown = opened.layers.unknown[0, 0, :, column] > 0.5
    assert unknown.sum() / 512 == pytest.approx(0.06, abs=0.01)
    colours = as_picture(opened.frames)[:, column].astype(int)
    first, last = np.flatnonzero(unknown)[[0, -1]]
    margin = 4  # the photo's lips are a little apart, and its pixels are sampled bicubically
    assert np.abs(colours[: first - margin] - [200, 0, 0]).max() < 20
    assert np.abs(colours[last + 1 + margin :] - [0, 0, 200]).max() < 20


def test_teeth_keep_their_place_while_the_lower_lip_falls(smile):
    field, picture = lip_field(smile), painted(smile)
    for change in (0.05, -0.02):
        moved = open_mouth(picture, field, field.gap + change)
        shown = (moved.layers.inside * moved.layers.teeth)[0, 0].numpy() > 0.99
        before = (picture[..., 1] > 0) & shown
        assert before.sum() > 300
        assert np.abs(as_picture(moved.frames)[before].astype(int) - picture[before]).mean() < 3


def test_lips_that_close_meet_and_hide_the_teeth(smile):
    field = lip_field(smile)
    closed = as_picture(open_mouth(painted(smile), field, torch.zeros(1)).frames)
    green = (closed[..., 1] > 60).sum() / (mouth_width(smile) * 512)  # pixels high
    assert green < 0.15 * field.gap.item() * 512


def test_teeth_go_on_where_the_upper_lip_has_risen(smile):
    field = lip_field(smile)
    moved = open_mouth(painted(smile), field, field.gap + 0.06)
    above = moved.layers.inside[0, 0].numpy() > 0.99
    column = np.flatnonzero(above[:, int(smile[13, 0] * 512)])
    assert column[0] / 512 < smile[13, 1] - 0.008  # above where the lip's edge was
    assert (as_picture(moved.frames)[column[2], int(smile[13, 0] * 512)] > [-1, 80, -1]).all()


def test_places_that_move_are_found_where_the_frame_has_them(portrait, points):
    """From the photo to a frame whose lips are moved, and from the frame back."""
    field = lip_field(points)
    way, sure = moved_places(field, field.gap + 0.04)
    opened = open_mouth(portrait, field, field.gap + 0.04)
    grid = 2 * (pixel_centres(SIDE, torch.device("cpu"))[None] + way.movedim(1, -1)) - 1
    back = F.grid_sample(F.avg_pool2d(opened.frames, 4), grid, align_corners=False)
    small = F.avg_pool2d(torch.from_numpy(portrait.copy()).permute(2, 0, 1)[None].float(), 4)
    error = (back - small).abs().mean(dim=1, keepdim=True)[..., 8:-8, 8:-8]
    assert 0.95 < sure.mean() < 1
    assert (error * sure[..., 8:-8, 8:-8]).mean() < 1.5


def test_without_known_lips_nothing_moves(portrait, field):
    nothing = LipField(torch.zeros_like(field.way), field.gap, torch.zeros_like(field.layers))
    opened = open_mouth(portrait, nothing, field.gap + 0.05)
    assert opened.layers.unknown.max() == 0
    assert np.abs(as_picture(opened.frames).astype(int) - portrait).max() <= 1


def test_a_photo_that_shows_little_of_the_teeth_does_not_get_a_whole_row_of_it(points):
    thin = points[:, :2] + (0.016 - mouth_gap(points)) * lip_directions(points[:, :2])
    moved = open_mouth(painted(thin), lip_field(thin), torch.tensor([0.1]))
    column = int(thin[13, 0] * 512)
    inside = np.flatnonzero(moved.layers.inside[0, 0, :, column] > 0.99)
    unknown = moved.layers.unknown[0, 0, :, column].numpy()
    assert unknown[inside[2]] > 0.9 and unknown[inside[-3]] > 0.9
    shown = (unknown[inside] < 0.1).sum() / 512
    assert 0.004 < shown < 0.02


def test_it_interpolates_as_scipy_does():
    rng = np.random.default_rng(0)
    places, values, wanted = rng.random((300, 2)), rng.normal(size=(300, 3)), rng.random((40, 40, 2)) * 1.2 - 0.1
    reference = LinearNDInterpolator(places, values, fill_value=0.0)(wanted)
    assert (reference == 0).any() and (reference != 0).any()
    np.testing.assert_allclose(interpolate(places, values, wanted), reference, atol=1e-12)
