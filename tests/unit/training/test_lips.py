"""The lip-reading loss looks at the mouth, only at the mouth, and at the same mouth as in the whole picture."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from starcaster_core.models.autoencoder import PatchAutoencoder
from starcaster_core.models.checkpoint import random_model
from starcaster_core.models.lipreader import LipReader, LipReaderConfig
from starcaster_core.presets import PRESETS
from starcaster_core.training.diffusion import Batch, DenoisingLoss
from starcaster_core.training.lips import LipLoss, cut_windows
from starcaster_core.training.recipe import Stage

BOX = torch.tensor([0.36, 0.62, 0.62, 0.80])  # where a mouth is in a portrait


@pytest.fixture(scope="module")
def loss() -> LipLoss:
    torch.manual_seed(0)
    reader = LipReader(LipReaderConfig(visemes=("rest", "aa"))).eval().requires_grad_(False)
    vae = PatchAutoencoder(PRESETS["mini"].autoencoder).requires_grad_(False)
    torch.nn.init.normal_(vae.patch_out.weight, std=0.1)
    return LipLoss(reader, vae, 1.0)


def some_latents(seed: int = 1) -> torch.Tensor:
    return torch.randn(2, 16, 3, 16, 16, generator=torch.Generator().manual_seed(seed))


def test_a_window_shows_what_the_whole_picture_shows(loss):
    latents, boxes = some_latents(), BOX.expand(2, 3, 4)
    whole = LipLoss(loss.reader, loss.vae, 1.0, window=1.0)
    torch.testing.assert_close(loss.features(latents, boxes), whole.features(latents, boxes), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.7, 0.0), (0.31, 0.64)])
def test_boxes_keep_their_place_in_the_window(corner):
    number = torch.arange(16.0)
    latents = torch.stack([number.expand(16, 16), number[:, None].expand(16, 16)])[None, :, None]  # column, row
    boxes = torch.tensor([*corner, corner[0] + 0.3, corner[1] + 0.3]).expand(1, 1, 4)
    window, inside = cut_windows(latents, boxes, 0.5)
    assert window.shape == (1, 2, 1, 8, 8)
    # A place in the window and the place in the picture it was cut from are the same latent.
    column, row = inside[0, 0, :2] * 8 + window[0, :, 0, 0, 0]
    torch.testing.assert_close(torch.stack([column, row]) / 16, torch.tensor(corner))


def test_it_is_nothing_for_the_truth_and_only_the_mouth_is_asked(loss):
    true, boxes = some_latents(), BOX.expand(2, 3, 4)
    assert loss(true, true, boxes) == 0
    predicted = (true + 0.5 * some_latents(2)).requires_grad_()
    cost = loss(predicted, true, boxes)
    cost.backward()
    felt = predicted.grad.abs().amax(dim=(0, 1, 2)) > 0
    rows, columns = felt.nonzero().T
    assert cost > 0 and rows.min() >= 6 and rows.max() <= 15 and columns.min() >= 3 and columns.max() <= 12
    assert felt[10:12, 7:9].all()


@pytest.mark.parametrize("kind", ["temporal", "spatial"])
def test_only_what_is_heard_is_read_off_the_lips(kind, loss):
    config = replace(PRESETS["tiny"], image_size=128)
    model = random_model(config)
    generator = torch.Generator().manual_seed(3)
    rows = torch.randn(1, 8, config.conditioning.speech_dim, generator=generator)
    batch = Batch(
        latents=some_latents()[:1, :, :2],
        context=None,
        reference=some_latents()[:1, :, :1],
        portrait_camera=None if kind == "temporal" else torch.randn(1, 25, generator=generator),
        speech=rows[:, :6] if kind == "temporal" else None,
        camera=None if kind == "temporal" else torch.randn(1, 2, 25, generator=generator),
        mouth=BOX.expand(1, 2, 4),
        eyes=BOX.expand(1, 2, 4),
        head_motion=torch.zeros(1, 2, 7),
        embedding=torch.randn(1, 128, generator=generator),
    )
    stage = Stage(
        "test", share=1.0, frames=2, clips=1, lip_weight=0.5, drop_identity=0.0, drop_audio=0.0, lip_start=0.5
    )

    def ask(lips, progress=0.5):
        denoising = DenoisingLoss(model, stage, lips)
        denoising.progress = progress
        return denoising(batch, torch.Generator().manual_seed(0))

    (without, _), (with_lips, numbers) = ask(None), ask(loss)
    assert ask(loss, progress=0.4)[1]["lips"] == 0
    assert (numbers["lips"] > 0) == (kind == "temporal")
    torch.testing.assert_close(with_lips, without + 0.5 * numbers["lips"])


def test_frame_by_frame_is_the_same_loss_and_gradient(loss):
    true, boxes = some_latents(), BOX.expand(2, 3, 4)
    slowly = LipLoss(loss.reader, loss.vae, 1.0, frame_by_frame=True)

    def ask(how):
        predicted = some_latents(2).requires_grad_()
        cost = how(predicted, true, boxes)
        cost.backward()
        return cost, predicted.grad

    for mine, its in zip(ask(loss), ask(slowly)):
        torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-7)
