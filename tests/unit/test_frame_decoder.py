"""Frames out of the photo, alone or inside the whole picture."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from starcaster_core.errors import InputError
from starcaster_core.frame_decoder import FrameDecoder
from starcaster_core.models.checkpoint import random_model
from starcaster_core.models.extensions import FramePose
from starcaster_core.presets import PRESETS, ReferenceDecoderConfig
from starcaster_core.types import Identity

SMALL = ReferenceDecoderConfig(feature_widths=(8, 8, 8), hidden=8, appearance=4, fill_width=4, region_width=8)
SHAPE = (401, 603)  # of the photo, odd on purpose


@pytest.fixture(scope="module")
def model():
    return random_model(replace(PRESETS["tiny"], reference_decoder=SMALL)).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def identity() -> Identity:
    rng = np.random.default_rng(3)
    coarse = Image.fromarray(rng.integers(0, 256, (12, 18, 3), dtype=np.uint8))
    photo = np.asarray(coarse.resize(SHAPE[::-1], Image.Resampling.BICUBIC))
    angle, scale = 0.2, 512 / 240  # the crop is 240 pixels wide and leans
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    crop = np.eye(3)
    crop[:2, :2], crop[:2, 2] = linear, 256 - linear @ [300, 190]
    from starcaster_core.identity import warp

    regions = np.float32([[0.5, 0.68], [0.4, 0.45], [0.6, 0.45]])
    return Identity(
        np.ones(128, np.float32), warp(photo, crop, 512), yaw=5.0, pitch=2.0, regions=regions, photo=photo, crop=crop
    )


def latents(frames: int = 2) -> torch.Tensor:
    return torch.randn(1, 16, frames, 8, 8, generator=torch.Generator().manual_seed(0))


def pose(frames: int = 2) -> FramePose:
    return FramePose(torch.randn(1, frames, 7, generator=torch.Generator().manual_seed(1)))


def test_the_face_comes_at_512_or_as_large_as_asked(model, identity):
    assert FrameDecoder(model, identity)(latents(), pose()).shape == (2, 512, 512, 3)
    assert FrameDecoder(model, identity, size=200)(latents(), pose()).shape == (2, 200, 200, 3)
    decode = FrameDecoder(model, identity, size=600)
    frames = decode(latents(), None)
    assert frames.shape == (2, 600, 600, 3) and decode.mask.shape == (600, 600)
    assert 0 <= frames.min() and frames.max() <= 1


def test_a_video_is_decoded_alike_in_one_part_and_in_several(model, identity):
    together, apart = FrameDecoder(model, identity), FrameDecoder(model, identity)
    parts = [slice(0, 1), slice(1, 4), slice(4, 6)]
    whole = together(latents(6), pose(6))
    pieces = [apart(latents(6)[:, :, part], FramePose(pose(6).head_motion[:, part])) for part in parts]
    torch.testing.assert_close(torch.cat(pieces), whole, rtol=0, atol=1e-4)
    unled = FrameDecoder(model, identity)(latents(6)[:, :, parts[1]], FramePose(pose(6).head_motion[:, parts[1]]))
    assert (unled - whole[parts[1]]).abs().max() > 1e-3  # motion goes on from the frames before


def test_outside_the_face_the_picture_is_the_photo_and_there_is_no_seam(model, identity):
    decode = FrameDecoder(model, identity, "picture")
    frames, mask = decode(latents(), pose()), decode.mask
    photo = torch.from_numpy(np.array(identity.photo)) / 255
    assert frames.shape == (2, *SHAPE, 3) and mask.shape == SHAPE
    outside = mask == 0
    assert 0.3 < outside.float().mean() < 0.9
    assert torch.equal(frames[:, outside], photo[outside].expand(2, -1, -1))
    # Where the crop passes into the photo, they are the same to within a grey level: nothing steps.
    passing = (mask > 0) & (mask < 1)
    assert 255 * (frames[:, passing] - photo[passing]).abs().mean() < 1
    inside = mask == 1
    assert 255 * (frames[:, inside] - photo[inside]).abs().mean() > 2  # and the face does move


def test_a_saved_identity_decodes_as_it_did(model, identity, tmp_path):
    from starcaster_core.identity import load_identity, save_identity

    save_identity(tmp_path / "who", identity)
    again = load_identity(tmp_path / "who")
    assert again.photo.shape == identity.photo.shape and (again.yaw, again.pitch) == (5.0, 2.0)
    one, other = (FrameDecoder(model, who)(latents(), pose()) for who in (identity, again))
    assert torch.equal(one, other)


@pytest.mark.parametrize("lost", [{"portrait": None}, {"regions": None}])
def test_without_a_usable_photo_the_model_s_own_frames_come_and_it_says_so(model, identity, lost):
    decode = FrameDecoder(model, replace(identity, **lost))
    assert len(decode.warnings) == 1 and "the model alone" in decode.warnings[0]
    assert torch.equal(decode(latents(), pose()), model.decode_frames(latents()))


def test_without_the_whole_photo_there_is_no_whole_picture(model, identity):
    decode = FrameDecoder(model, replace(identity, photo=None, crop=None), "picture")
    assert "load the photo again" in decode.warnings[0]
    assert not FrameDecoder(model, replace(identity, photo=None, crop=None), size=900).warnings


def test_a_model_without_a_reference_decoder_decodes_as_before(identity):
    plain = random_model(PRESETS["tiny"]).eval().requires_grad_(False)
    decode = FrameDecoder(plain, identity)
    assert not decode.warnings and torch.equal(decode(latents(), pose()), plain.decode_frames(latents()))
    assert "no reference decoder" in FrameDecoder(plain, identity, "picture").warnings[0]


def test_impossible_frames_are_refused(model, identity):
    with pytest.raises(InputError, match="face or picture"):
        FrameDecoder(model, identity, "film")
    with pytest.raises(InputError, match="64 to 2048"):
        FrameDecoder(model, identity, size=4000)
