"""The reference decoder: the photo moved and painted, with random weights."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from starcaster_core.identity.landmarks import find_landmarks, mouth_and_eyes
from starcaster_core.models import reference_decoder as module
from starcaster_core.models.extensions.portrait_warp import camera_at
from starcaster_core.models.lip_warp import LipField, lip_field
from starcaster_core.models.reference_decoder import ReferenceDecoder, geometry_of, move_regions
from starcaster_core.presets import ReferenceDecoderConfig
from starcaster_core.training.warped_lips import warp_lips

SMALL = ReferenceDecoderConfig(feature_widths=(8, 8, 8), hidden=8, appearance=4, fill_width=4, region_width=8)


@pytest.fixture(scope="module")
def decoder() -> ReferenceDecoder:
    torch.manual_seed(0)
    network = ReferenceDecoder(SMALL)
    with torch.no_grad():
        for parameter in network.parameters():  # layers that begin at zero would hide mistakes
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return network.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def picture() -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(1, 3, 32, 32, generator=generator) * 2 - 1
    return F.interpolate(coarse, (512, 512), mode="bicubic").clamp(-1, 1)


REGIONS = torch.tensor([[[0.5, 0.68], [0.4, 0.45], [0.6, 0.45]]])


def drawn_frames(count: int) -> torch.Tensor:
    return torch.rand(count, 3, 128, 128, generator=torch.Generator().manual_seed(2)) * 2 - 1


def geometry(count: int) -> torch.Tensor:
    camera = torch.stack([camera_at(4.0 * k) for k in range(count)])
    return geometry_of(torch.eye(3).expand(count, 3, 3), camera, camera_at()[None].expand(count, -1))


def test_it_begins_with_the_photo_moved_by_geometry(picture):
    torch.manual_seed(0)
    fresh = ReferenceDecoder(SMALL)
    drawn = F.avg_pool2d(picture, 4)
    with torch.no_grad():
        decoded = fresh(drawn, fresh.open_photo(picture, REGIONS), torch.zeros(1, 2, 32, 32), REGIONS)
    torch.testing.assert_close(decoded.warped, picture, rtol=0, atol=1e-4)
    assert (decoded.frame - picture).abs().mean() < 0.02  # the rest is the drawn frame, enlarged
    assert decoded.flow.abs().max() == 0


def test_frames_are_decoded_alike_together_and_one_by_one(decoder, picture):
    photo, drawn, flow = decoder.open_photo(picture, REGIONS), drawn_frames(3), geometry(3)
    regions = move_regions(REGIONS.expand(3, -1, -1), flow)
    together = decoder(drawn, photo, flow, regions).frame
    for k in range(3):
        alone = decoder(drawn[k : k + 1], photo, flow[k : k + 1], regions[k : k + 1]).frame
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-4)


def test_motion_of_frames_in_a_row_is_steadier_and_a_lasting_one_is_followed(decoder, picture):
    photo = decoder.open_photo(picture, REGIONS)
    still = torch.zeros(1, 2, 32, 32).expand(12, -1, -1, -1)
    drawn = drawn_frames(2)[[0] * 4 + [1] * 8]
    flickering = drawn + 0.3 * torch.randn(drawn.shape, generator=torch.Generator().manual_seed(5))

    def flow(frames, **options):
        return decoder(frames, photo, still, REGIONS.expand(12, -1, -1), **options).flow

    changes = [flow(flickering, in_a_row=row).diff(dim=0).abs().mean().item() for row in (True, False)]
    assert changes[0] < 0.6 * changes[1]
    free, steady = flow(drawn), flow(drawn, in_a_row=True)
    torch.testing.assert_close(steady[:4], free[:4])
    went = (steady - free[0]).abs().mean((1, 2, 3)) / (free[-1] - free[0]).abs().mean()
    assert went[4] < 0.5 and went[-1] > 0.95


def test_at_the_border_the_photo_stays_as_it_is(decoder, picture):
    border = torch.zeros(1, 1, 128, 128)
    border[..., 32:-32, 32:-32] = 1
    photo = decoder.open_photo(picture, REGIONS)
    free = decoder(drawn_frames(1), photo, geometry(3)[2:], REGIONS).frame
    kept = decoder(drawn_frames(1), photo, geometry(3)[2:], REGIONS, border=border).frame
    assert (free - picture)[..., :100].abs().mean() > 0.01
    torch.testing.assert_close(kept[..., :100], picture[..., :100], rtol=0, atol=1e-4)


def test_places_of_the_photo_are_found_again_in_the_frame():
    flow = geometry(3)
    places = move_regions(REGIONS.expand(3, -1, -1), flow)
    back = F.grid_sample(flow, 2 * places[:, None] - 1, align_corners=False)[:, :, 0].mT + places
    torch.testing.assert_close(back, REGIONS.expand(3, -1, -1), rtol=0, atol=2e-3)
    # The camera goes to the person's left, which is the picture's right: the face turns to the picture's left.
    assert places[2, 0, 0] < places[1, 0, 0] < places[0, 0, 0]


def test_both_eyes_are_seen_alike_through_a_mirror(decoder, picture):
    """Mirroring photo, drawn frame and places mirrors the frame's eyes: the left one is shown to the network as a right
    one."""
    drawn, regions = drawn_frames(1), REGIONS
    mirrored_regions = regions[:, [0, 2, 1]] * torch.tensor([-1.0, 1.0]) + torch.tensor([1.0, 0.0])
    still = torch.zeros(1, 2, 32, 32)
    network = ReferenceDecoder(SMALL).eval()  # its flow, mask and fill are zero, but for the eyes' own
    network.eye.load_state_dict(decoder.eye.state_dict())
    with torch.no_grad():
        one = network(drawn, network.open_photo(picture, regions), still, regions)
        other = network(drawn.flip(-1), network.open_photo(picture.flip(-1), mirrored_regions), still, mirrored_regions)
    right, left = one.crops["right_eye"][0], other.crops["left_eye"][0].flip(-1)
    torch.testing.assert_close(right, left, rtol=0, atol=1e-3)


def test_larger_photos_give_larger_frames(decoder, picture):
    large = F.interpolate(picture, (1024, 1024), mode="bilinear")
    small = decoder(drawn_frames(1), decoder.open_photo(picture, REGIONS), geometry(1), REGIONS).frame
    frame = decoder(drawn_frames(1), decoder.open_photo(large, REGIONS), geometry(1), REGIONS).frame
    assert frame.shape == (1, 3, 1024, 1024)
    assert (F.avg_pool2d(frame, 2) - small).abs().mean() < 0.02


@pytest.mark.parametrize("centre", [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5)])
def test_crops_lie_inside_the_picture(centre):
    for name in module.REGIONS:
        width, height = size = module.crop_size(name)
        left, top = module.corner_of(torch.tensor([centre]), size)[0].tolist()
        assert 0 <= left <= 512 - width and 0 <= top <= 512 - height and left % 4 == top % 4 == 0


# Lips as layers


LAYERED = replace(SMALL, reader_width=4, lip_layers=True)
PORTRAIT = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets" / "portrait.png"


@pytest.fixture(scope="module")
def portrait():
    """A picture [1, 3, 512, 512], how its lips open, and where mouth and eyes lie."""
    with Image.open(PORTRAIT) as image:
        pixels = np.array(image.convert("RGB").resize((512, 512)))
    points = find_landmarks(pixels).points / 512
    picture = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 127.5 - 1
    return picture, lip_field(points), torch.from_numpy(mouth_and_eyes(points[:, :2]))[None].float()


def test_a_mouth_begins_as_the_photo_s_own_lips_moved_and_only_what_it_does_not_show_is_painted(portrait):
    picture, lips, regions = portrait
    torch.manual_seed(0)
    fresh = ReferenceDecoder(LAYERED).eval()
    drawn, still = F.avg_pool2d(picture, 4), torch.zeros(1, 2, 32, 32)
    with torch.no_grad():
        photo = fresh.open_photo(picture, regions, lips)
        same, opened = (
            fresh(drawn, photo, still, regions, gap=lips.gap + change).crops["mouth"] for change in (0.0, 0.06)
        )
    truth = warp_lips(picture, lips, lips.gap + 0.06, torch.zeros(1, 2, 128, 128))
    crop, unknown = (module.take_crops(x, opened[2], 192, 160) for x in (truth.frames, truth.layers.unknown))
    own = module.take_crops(picture, same[2], 192, 160)
    assert (same[0] - own).abs().mean() < 0.02  # the mask begins at 0.88
    assert 0.01 < unknown.mean() < 0.2
    assert opened[1][unknown > 0.9].max() < 0.1 and opened[1][unknown == 0].min() > 0.8
    difference = (opened[0] - crop).abs().mean(dim=1, keepdim=True)
    assert difference[unknown == 0].mean() < 0.03


def test_layered_mouths_are_decoded_alike_together_and_one_by_one_and_where_lips_are_not_known(portrait):
    picture, lips, regions = portrait
    torch.manual_seed(1)
    network = ReferenceDecoder(LAYERED).eval().requires_grad_(False)
    torch.nn.init.normal_(network.mouth.out.weight, std=0.02)
    photo, drawn, flow = network.open_photo(picture, regions, lips), drawn_frames(3), geometry(3)
    places, gaps = move_regions(regions.expand(3, -1, -1), flow), lips.gap + torch.tensor([-0.01, 0.02, 0.05])
    together = network(drawn, photo, flow, places, gap=gaps).frame
    for k in range(3):
        one = slice(k, k + 1)
        alone = network(drawn[one], photo, flow[one], places[one], gap=gaps[one]).frame
        torch.testing.assert_close(alone[0], together[k], rtol=0, atol=1e-4)
    nothing = LipField(torch.zeros_like(lips.way), lips.gap, torch.zeros_like(lips.layers))
    without, unknown = (network.open_photo(picture, regions, field) for field in (None, nothing))
    one, other = (network(drawn, x, flow, places, gap=gaps).frame for x in (without, unknown))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-3)


def test_what_lies_between_lips_hangs_from_them(portrait):
    """White painted into the upper lip's picture shows below the upper lip, however far the mouth is open."""
    picture, lips, regions = portrait
    network = ReferenceDecoder(LAYERED).eval().requires_grad_(False)
    network.interior[:] = -0.1 / 2
    network.interior[0, :, :4] += 0.2  # a twelfth of the mouth's width
    drawn, still = F.avg_pool2d(picture, 4), torch.zeros(1, 2, 32, 32)
    photo = network.open_photo(picture, regions, lips)
    for gap in (0.04, 0.08):
        made, mask, corner = network(drawn, photo, still, regions, gap=torch.tensor([gap])).crops["mouth"]
        middle = int(regions[0, 0, 0] * 512) - int(corner[0, 0])
        column = made[0, 0, :, middle][mask[0, 0, :, middle] < 0.05]
        white = (column > 0.5).sum() / 512
        assert white == pytest.approx(lips.width.item() / 12, abs=0.01)
        assert column[0] > 0.5 and column[-1] < -0.5


def test_the_width_of_a_mouth_is_that_of_its_landmarks(portrait):
    with Image.open(PORTRAIT) as image:
        points = find_landmarks(np.array(image.convert("RGB").resize((512, 512)))).points / 512
    assert portrait[1].width.item() == pytest.approx(points[308, 0] - points[78, 0], rel=1e-3)


def test_the_mouth_s_network_gives_what_nobody_knows_a_colour_and_no_shape(portrait):
    picture, lips, regions = portrait
    drawn, still = F.avg_pool2d(picture, 4), torch.zeros(1, 2, 32, 32)
    torch.manual_seed(2)
    network = ReferenceDecoder(LAYERED).eval().requires_grad_(False)
    photo, gap = network.open_photo(picture, regions, lips), lips.gap + 0.06
    plain = network(drawn, photo, still, regions, gap=gap).crops["mouth"]
    torch.nn.init.normal_(network.mouth.out.weight[: 3 * 16], std=0.1)
    made = network(drawn, photo, still, regions, gap=gap).crops["mouth"]
    sure = (plain[1] < 0.01).expand_as(made[0])  # painted alone
    change = (made[0] - plain[0])[sure].view(3, -1)
    assert change.shape[1] > 500 and change.abs().max() > 0.01 and change.std(dim=1).max() < 5e-3
    assert (made[0] - plain[0])[:, :, :40].std() > 0.002
