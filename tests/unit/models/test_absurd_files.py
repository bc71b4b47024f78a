"""Checkpoints that claim the absurd, or hold no proper numbers, are refused before anything is built of them."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from starcaster_core.errors import CheckpointError
from starcaster_core.models import checkpoint
from starcaster_core.models.checkpoint import load_checkpoint, random_model, save_checkpoint
from starcaster_core.presets import PRESETS, ModelConfig

TINY = PRESETS["tiny"].to_dict()
ABSURD = [
    ("chunk_frames", 10**6),
    ("chunk_frames", 0),
    ("chunk_frames", 16.0),
    ("chunk_frames", True),
    ("chunk_frames", "16"),
    ("chunk_frames", None),
    ("chunk_frames", [16]),
    ("context_frames", -1),
    ("image_size", 2**20),
    ("fps", float("nan")),
    ("fps", float("inf")),
    ("fps", 0),
    ("steps", 10**9),
    ("guidance_scale", -1.0),
    ("name", "x" * 10**6),
    ("name", "\x1b[2J"),
    ("unet", None),
    ("unet", []),
    ("unet.layers_per_block", 10**7),
    ("unet.layers_per_block", [1, 1]),
    ("unet.block_out_channels", [2**31, 64]),
    ("unet.block_out_channels", [32] * 10**5),
    ("unet.block_out_channels", 32),
    ("unet.attention_levels", [1, 1]),
    ("unet.lora_rank", 10**9),
    ("unet.motion_max_seq_length", 10**9),
    ("autoencoder.downscale", 0),
    ("autoencoder.scaling_factor", 0.0),
    ("autoencoder.decoder_widths", [8, 10**9]),
    ("conditioning.identity_tokens", 10**9),
    ("noise.num_train_timesteps", 10**9),
    ("noise.beta_start", float("nan")),
    ("extensions.shared_noise", 1.5),
    ("version", "2"),
    ("version", 99),
    ("stranger", 1),
    ("unet.stranger", 1),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "model.safetensors"
    save_checkpoint(path, random_model(PRESETS["tiny"]), {}, torch.float32)
    return path


@pytest.fixture
def claiming(tmp_path, monkeypatch):
    """claiming(text) -> a file with this configuration; building a model of it fails the test."""
    monkeypatch.setattr(checkpoint, "Starcaster", lambda config: pytest.fail("the model was built"))
    path = tmp_path / "model.safetensors"

    def write(text: str, **facts: str):
        save_file({"unet.conv_in.weight": torch.zeros(1)}, path, {"starcaster": text, **facts})
        return path

    return write


def changed(name: str, value) -> dict:
    config = copy.deepcopy(TINY)
    *parts, last = name.split(".")
    inner = config
    for part in parts:
        inner = inner[part]
    inner[last] = value
    return config


@pytest.mark.parametrize(("name", "value"), ABSURD, ids=lambda x: str(x)[:30])
def test_an_absurd_configuration_is_refused(claiming, name, value):
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(claiming(json.dumps(changed(name, value))))
    message = str(caught.value)
    assert name.split(".")[-1] in message or "configuration" in message
    assert len(message) < 500 and message.isprintable()


@pytest.mark.parametrize(
    "text", ["", "null", "[]", "1", "{", '"mini"', "[" * 100_000, "{}" + " " * 2**21, '{"name": "x"}']
)
def test_text_that_is_no_configuration_is_refused(claiming, text):
    with pytest.raises(CheckpointError, match="configuration"):
        load_checkpoint(claiming(text))


@pytest.mark.parametrize("provenance", ["", "[]", "[" * 100_000, '{"untrained": 3}'])
def test_a_broken_provenance_is_refused(claiming, provenance):
    with pytest.raises(CheckpointError):
        load_checkpoint(claiming(json.dumps(TINY), provenance=provenance))


LEAF = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=9))
JSON = st.recursive(
    LEAF, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
)
NAMES = [name for name in TINY] + [
    f"{part}.{name}" for part in TINY if isinstance(TINY[part], dict) for name in TINY[part]
]


@given(st.sampled_from(NAMES), JSON)
def test_any_value_anywhere_gives_a_configuration_or_a_plain_error(name, value):
    try:
        config = ModelConfig.from_dict(changed(name, value))
    except (TypeError, ValueError):
        return
    assert ModelConfig.from_dict(config.to_dict()) == config


@given(JSON)
def test_any_json_gives_a_plain_error(value):
    with pytest.raises((TypeError, ValueError)):
        ModelConfig.from_dict(value)


def test_parts_that_do_not_fit_each_other_are_refused(whole, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(load_file(whole), path, {"starcaster": json.dumps(changed("unet.norm_num_groups", 7))})
    with pytest.raises(CheckpointError, match="fit"):
        load_checkpoint(path)


@pytest.mark.parametrize("damage", ["nan", "inf", "-inf", "1e30", "int8", "int64", "bool"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_weights_that_are_no_proper_numbers_are_refused_by_name(whole, tmp_path, damage, dtype):
    weights = {name: weight.to(dtype) for name, weight in load_file(whole).items()}
    name = "unet.conv_out.weight"
    if hasattr(torch, damage) and isinstance(getattr(torch, damage), torch.dtype):
        weights[name] = weights[name].to(getattr(torch, damage))
    else:
        weights[name].view(-1)[17] = float(damage)
    path = tmp_path / "model.safetensors"
    with safe_open(whole, "pt") as file:
        save_file(weights, path, file.metadata())
    with pytest.raises(CheckpointError, match=f"(finite|floating-point) weights.* {name}"):
        load_checkpoint(path)


def test_what_ships_is_within_all_ranges():
    for config in PRESETS.values():
        assert ModelConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    load_checkpoint("mini")
