"""The image model: a picture from an embedding alone."""

from dataclasses import replace

import pytest
import torch

from starcaster_core.models.checkpoint import load_checkpoint, random_model, save_checkpoint
from starcaster_core.models.image_model import ATTRIBUTES
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.presets import PRESETS, ModelConfig
from starcaster_core.training.image_model import image_config, with_image_model

TINY = PRESETS["tiny"]


@pytest.fixture(scope="module")
def model() -> Starcaster:
    return random_model(replace(TINY, image_model=image_config(TINY))).eval().requires_grad_(False)


def noisy(count: int) -> torch.Tensor:
    return torch.randn(count, 16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def test_who_is_shown_decides_unless_it_is_hidden(model):
    people = torch.randn(2, 128, generator=torch.Generator().manual_seed(1))
    latents, timesteps = noisy(1).expand(2, -1, -1, -1, -1), torch.tensor([500, 500])
    front = torch.zeros(2, len(ATTRIBUTES))
    seen = model.image_model(latents, timesteps, people, front)
    assert seen.shape == latents.shape and not torch.allclose(seen[0], seen[1], atol=1e-3)
    hidden = model.image_model(latents, timesteps, people, front, torch.tensor([True, True]))
    torch.testing.assert_close(hidden[0], hidden[1])
    one = model.image_model(latents, timesteps, people, front, torch.tensor([False, True]))
    torch.testing.assert_close(one, torch.stack([seen[0], hidden[1]]), rtol=1e-4, atol=1e-5)


def test_how_a_picture_was_taken_counts_unless_it_is_not_known(model):
    latents, t, who = noisy(1).expand(3, -1, -1, -1, -1), torch.full((3,), 500), torch.ones(3, 128)
    attributes = torch.zeros(3, len(ATTRIBUTES))
    attributes[1, 0], attributes[2, 3] = 1.0, torch.nan
    front, aside, unknown = model.image_model(latents, t, who, attributes)
    assert not torch.allclose(front, aside, atol=1e-4) and not torch.allclose(front, unknown, atol=1e-4)
    nothing = torch.full((1, len(ATTRIBUTES)), torch.nan)
    torch.testing.assert_close(model.image_model(latents[:1], t[:1], who[:1], nothing)[0], unknown)


def test_it_has_nothing_that_hears_or_moves(model):
    names = dict(model.image_model.named_parameters())
    assert not [name for name in names if any(part in name for part in ("audio", "camera", "motion", "lora"))]
    ours = {name for name in model.unet.state_dict() if "motion" not in name and "lora" not in name}
    assert {name.removeprefix("unet.") for name in names if name.startswith("unet.")} < ours


def test_a_file_keeps_it_and_a_file_without_one_has_none(model, tmp_path):
    save_checkpoint(tmp_path / "m.safetensors", model, {}, dtype=torch.float32)
    again = load_checkpoint(tmp_path / "m.safetensors", torch.float32)
    asked = noisy(1), torch.tensor([100]), torch.ones(1, 128), torch.zeros(1, len(ATTRIBUTES))
    torch.testing.assert_close(again.image_model(*asked), model.image_model(*asked), rtol=1e-4, atol=1e-5)
    before = TINY.to_dict()
    del before["image_model"], before["unet"]["audio_and_camera"]  # as files of before have it
    assert ModelConfig.from_dict(before) == TINY and Starcaster(TINY).image_model is None


def test_it_begins_with_the_model_s_own_weights():
    plain = random_model(TINY)
    begun = with_image_model(random_model(TINY))
    assert torch.equal(begun.image_model.unet.conv_in.weight, plain.unet.conv_in.weight)
    weight = begun.image_model.identity_tokens.null
    assert torch.equal(weight, plain.identity_tokens.null)
    with torch.no_grad():
        weight.add_(1)
    assert with_image_model(begun).image_model.identity_tokens.null is weight  # one that is there goes on
