"""The patch autoencoder begins as a principal component code and keeps sizes and ranges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from starcaster_core.errors import CheckpointError
from starcaster_core.models.autoencoder import PatchAutoencoder, load_autoencoder, save_autoencoder
from starcaster_core.models.frozen import facts_of
from starcaster_core.presets import PRESETS

CONFIG = PRESETS["tiny"].autoencoder


def smooth_images(count: int, side: int = 64) -> torch.Tensor:
    coarse = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return torch.nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(-1, 1)


@torch.no_grad()
def test_before_training_it_is_the_best_linear_code():
    images = smooth_images(64)
    model = PatchAutoencoder(CONFIG)
    model.set_principal_components(images)
    patches = torch.nn.functional.unfold(images, 8, stride=8).transpose(1, 2).reshape(-1, 192).double()
    centred = patches - patches.mean(dim=0)
    kept = torch.linalg.svd(centred, full_matrices=False)
    best = kept.S[CONFIG.latent_channels :].square().sum() / centred.numel()  # what no 16-channel code can avoid
    error = (model.decode(model.encode(images)) - images).double().square().mean()
    assert best <= error + 1e-9
    assert error < best * 1.1 + 1e-4


@torch.no_grad()
def test_latents_have_unit_variance_on_average():
    images = smooth_images(64)
    model = PatchAutoencoder(CONFIG)
    model.set_principal_components(images)
    latents = model.encode(images)
    assert latents.shape == (64, 16, 8, 8)
    assert abs(latents.var(dim=(0, 2, 3)).mean() - 1) < 0.05


@pytest.mark.parametrize("metadata", [None, {"figures": '{"psnr": 33.8}', "seed": "0"}])
def test_a_saved_autoencoder_is_read_again_and_so_are_files_of_an_earlier_version(tmp_path, metadata):
    """Those had no configuration in them."""
    model, file = PatchAutoencoder(CONFIG), tmp_path / "autoencoder.safetensors"
    save_autoencoder(file, model, {"seed": 0})
    assert facts_of(file) == {"seed": 0}
    if metadata:
        save_file(model.state_dict(), file, metadata)
    again = load_autoencoder(file, CONFIG)
    for mine, its in zip(model.parameters(), again.parameters()):
        assert torch.equal(mine, its) and not its.requires_grad
    with pytest.raises(CheckpointError, match="autoencoder.safetensors"):
        load_autoencoder(file, replace(CONFIG, width=2 * CONFIG.width))
