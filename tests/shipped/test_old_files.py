"""Files that users have: every configuration that `mini` was ever published with, its weights' names, saved
identities."""

from __future__ import annotations

import gzip
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from starcaster_core.identity import load_identity
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.presets import ModelConfig

VERSIONS = 5  # configurations in `mini-metadata.json`, the oldest first


@pytest.fixture(scope="module")
def configurations(data) -> list[dict]:
    """What the metadata entry `starcaster` of each published `mini.safetensors` says."""
    return json.loads((data / "mini-metadata.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("version", range(VERSIONS))
def test_every_published_configuration_loads(configurations, version):
    assert len(configurations) == VERSIONS
    config = ModelConfig.from_dict(configurations[version])
    assert config.name == "mini" and config.image_size == 128 and config.latent_size == 16
    assert config.unet.block_out_channels == (64, 128, 192)
    assert config.identity_backend == "dlib" and config.speech_encoder == "phonetic"
    assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_the_last_configuration_still_says_how_to_sample(configurations):
    config = ModelConfig.from_dict(configurations[-1])
    assert config.sampling_defaults == {"steps": 4, "guidance_scale": 1.0, "guidance_end": 1.0, "scheduler": "lcm"}
    assert config.chunk_frames == 16 and config.context_frames == 0 and config.extensions.shared_noise == 1.0


def test_a_file_with_the_published_names_and_shapes_loads(configurations, data, tmp_path):
    """The weights' values do not matter here: names and shapes are those of the published file, one number fills
    each."""
    shapes = json.loads(gzip.decompress((data / "mini-weights.json.gz").read_bytes()))
    weights = {name: torch.full(shape, 0.25, dtype=torch.float16) for name, shape in shapes.items()}
    path = tmp_path / "mini.safetensors"
    save_file(weights, path, {"format": "pt", "starcaster": json.dumps(configurations[-1]), "provenance": "{}"})
    model = load_checkpoint(path, dtype=torch.float32)
    parameters = list(model.parameters())
    assert len(parameters) > 700 and all((parameter == 0.25).all() for parameter in parameters)


@pytest.mark.parametrize("name, yaw", [("with-yaw", -31.5), ("without-yaw", 0.0)])
def test_saved_identities_load(data, name, yaw):
    """`without-yaw` is as files were written before the portrait's yaw was stored."""
    identity = load_identity(data / f"{name}.identity.safetensors")
    assert identity.backend == "dlib" and identity.yaw == yaw
    assert np.array_equal(identity.embedding, np.arange(128, dtype=np.float32) / 128)
    assert identity.portrait.shape == (64, 64, 3) and identity.portrait.dtype == np.uint8
    assert len(np.unique(identity.portrait.reshape(8, 8, 8, 8, 3)[:, 0, :, 0].reshape(-1, 3), axis=0)) == 64
