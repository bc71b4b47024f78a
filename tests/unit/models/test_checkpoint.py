"""Files: what is saved comes back, and what is broken is refused with a sentence the user can act on."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file, save_file

from starcaster_core.errors import CheckpointError
from starcaster_core.models import checkpoint
from starcaster_core.models.checkpoint import (
    cpu_precision,
    load_checkpoint,
    random_model,
    read_checkpoint,
    save_checkpoint,
)
from starcaster_core.presets import PRESETS, ModelConfig


@pytest.fixture(scope="module")
def model():
    return random_model(PRESETS["tiny"]).eval()


@pytest.fixture
def file(model, tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, model, {"seed": 7}, dtype=torch.float32)
    return path


def test_a_saved_model_comes_back_the_same(model, file):
    loaded = load_checkpoint(file, dtype=torch.float32)
    assert loaded.config == model.config
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    for (name, mine), (_, its) in zip(model.named_buffers(), loaded.named_buffers()):
        assert torch.equal(mine, its), name
    assert read_checkpoint(file)[2] == {"seed": 7}


def test_configurations_survive_json():
    for config in PRESETS.values():
        import json

        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_configuration_from_before_there_was_a_choice_of_sampler_still_loads():
    old = PRESETS["mini"].to_dict()
    del old["scheduler"]
    assert ModelConfig.from_dict(old) == PRESETS["mini"] and ModelConfig.from_dict(old).scheduler == "dpmpp"


def test_a_missing_file_names_the_folder_to_use(tmp_path):
    with pytest.raises(CheckpointError, match="models/starcaster"):
        load_checkpoint(tmp_path / "nowhere.safetensors")


def test_a_truncated_file_is_refused(file):
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(file)


def test_a_file_cut_in_its_weights_is_refused(file):
    content = file.read_bytes()
    file.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        load_checkpoint(file)


def test_another_models_file_is_refused(tmp_path):
    path = tmp_path / "other.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(CheckpointError, match="some other model"):
        load_checkpoint(path)


@pytest.mark.parametrize("change", ["missing", "unexpected", "misshapen"])
def test_weights_that_do_not_fit_are_named(file, tmp_path, change):
    from safetensors import safe_open

    weights = load_file(file)
    with safe_open(file, "pt") as source:
        metadata = source.metadata()
    name = "unet.conv_in.weight"
    if change == "missing":
        del weights[name]
    elif change == "unexpected":
        name = "unet.stranger"
        weights[name] = torch.zeros(1)
    else:
        weights[name] = weights[name][:1]
    other = tmp_path / "other.safetensors"
    save_file(weights, other, metadata)
    with pytest.raises(CheckpointError, match=name.removeprefix("unet.")):
        load_checkpoint(other)


def test_random_models_leave_the_global_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    random_model(PRESETS["tiny"])
    assert torch.equal(torch.rand(1), expected)


@pytest.mark.parametrize("amx, dot_product, wanted", [(1, 1, "bfloat16"), (0, 1, "bfloat16"), (0, 0, "float32")])
def test_cpus_sample_in_bfloat16_where_they_multiply_it(monkeypatch, amx, dot_product, wanted):
    monkeypatch.setattr(checkpoint, "has_amx", lambda: bool(amx))
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bool(dot_product), raising=False)
    assert cpu_precision() is getattr(torch, wanted)
    assert load_checkpoint("tiny").dtype is getattr(torch, wanted)
