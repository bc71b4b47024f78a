"""Every layout a public file comes in gives the same weights under our names; whatever does not fit is named, or
refused."""

from __future__ import annotations

import os

import pytest
import torch

from starcaster_core.errors import CheckpointError
from starcaster_core.models.public.clip import read_identity_encoder
from starcaster_core.models.public.layouts import below
from starcaster_core.models.public.motion import read_motion
from starcaster_core.models.public.unet import read_unet
from starcaster_core.models.public.vae import read_vae
from starcaster_core.models.public.wav2vec2 import read_wav2vec2


@pytest.fixture(scope="module")
def nets(tools):
    return {
        "unet": tools.small_unet(),
        "vae": tools.small_vae(),
        "motion": tools.small_adapter(),
        "clip": tools.small_clip(),
        "wav2vec2": tools.small_wav2vec2(),
    }


READERS = {
    "unet": read_unet,
    "vae": read_vae,
    "motion": read_motion,
    "clip": read_identity_encoder,
    "wav2vec2": read_wav2vec2,
}


def clip_weights(net) -> dict:
    """Under the names that do not depend on transformers' version."""
    return {name.removeprefix("text_model."): value for name, value in net.state_dict().items()}


def expected(kind: str, nets, tools) -> dict:
    weights = clip_weights(nets["clip"]) if kind == "clip" else nets[kind].state_dict()
    return {name: tuple(value.shape) for name, value in weights.items()}


def same(part, net_weights: dict, skip: str = "\0") -> None:
    wanted = {name: value for name, value in net_weights.items() if not name.endswith(skip)}
    assert part.weights.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.equal(part.weights[name].read(), value), name


def old_attention(weights: dict) -> dict:
    """diffusers before 0.18, as the published VAEs are: other names, and nothing else."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, value in weights.items():
        for new, old in names.items():
            if "attentions" in name:
                name = name.replace(f".{new}.", f".{old}.")
        renamed[name] = value
    return renamed


def as_convolutions(weights: dict) -> dict:
    return {
        name: value[..., None, None] if ".mid.attn_1." in name and value.ndim == 2 else value
        for name, value in weights.items()
    }


@pytest.mark.parametrize("kind", ["unet", "vae", "motion"])
def test_diffusers_folders(kind, nets, tools, tmp_path):
    for name, safe in (("safetensors", True), ("pickle", False)):
        nets[kind].save_pretrained(tmp_path / name, safe_serialization=safe)
        part = READERS[kind](tmp_path / name, expected(kind, nets, tools))
        assert part.layout == "diffusers" and part.file.parent.name == name
        same(part, nets[kind].state_dict(), ".pe")


def test_transformers_folders(nets, tools, tmp_path):
    for kind in ("clip", "wav2vec2"):
        nets[kind].save_pretrained(tmp_path / kind)
        part = READERS[kind](tmp_path / kind, expected(kind, nets, tools))
        same(part, clip_weights(nets["clip"]) if kind == "clip" else nets[kind].state_dict())


def test_original_unet_names(nets, tools, tmp_path):
    weights = {tools.original_unet_name(name): value for name, value in nets["unet"].state_dict().items()}
    alone = read_unet(tools.save(tmp_path / "alone.safetensors", weights), tools.shapes_of(nets["unet"]))
    assert alone.layout == "original"
    same(alone, nets["unet"].state_dict())
    whole = {f"model.diffusion_model.{name}": value for name, value in weights.items()}
    whole["first_stage_model.encoder.conv_in.weight"] = whole["cond_stage_model.x"] = whole["betas"] = torch.zeros(1)
    same(
        read_unet(tools.save(tmp_path / "whole.safetensors", whole), tools.shapes_of(nets["unet"])),
        nets["unet"].state_dict(),
    )


def test_vae_names_of_every_age(nets, tools, tmp_path):
    weights, shapes = nets["vae"].state_dict(), tools.shapes_of(nets["vae"])
    same(read_vae(tools.save(tmp_path / "old.safetensors", old_attention(weights)), shapes), weights)
    original = as_convolutions({tools.original_vae_name(name): value for name, value in weights.items()})
    assert any(value.ndim == 4 and ".mid.attn_1." in name for name, value in original.items())
    part = read_vae(tools.save(tmp_path / "original.safetensors", original), shapes)
    assert part.layout == "original"
    same(part, weights)
    whole = {f"first_stage_model.{name}": value for name, value in original.items()}
    whole["model.diffusion_model.out.2.bias"] = torch.zeros(1)
    same(read_vae(tools.save(tmp_path / "whole.safetensors", whole), shapes), weights)


@pytest.mark.parametrize("wrapped", [False, True])
def test_original_motion_modules(nets, tools, tmp_path, wrapped):
    weights = tools.original_motion_names(nets["motion"].state_dict())
    content = {"state_dict": {f"module.{k}": v for k, v in weights.items()}, "epoch": 3} if wrapped else weights
    torch.save(content, tmp_path / "mm_sd_v15_v2.ckpt")
    part = read_motion(tmp_path / "mm_sd_v15_v2.ckpt", tools.shapes_of(nets["motion"]))
    assert part.layout == "original" and part.facts == {"frames": 32, "middle": True}
    same(part, nets["motion"].state_dict(), ".pe")


def test_motion_modules_without_a_middle_block_or_with_fewer_frames(nets, tools, tmp_path):
    without = tools.small_adapter(middle=False, frames=24)
    weights = tools.original_motion_names(without.state_dict())
    part = read_motion(tools.save(tmp_path / "v1.safetensors", weights), tools.shapes_of(nets["motion"]))
    assert part.facts == {"frames": 24, "middle": False}
    same(part, without.state_dict(), ".pe")


def test_other_frame_positions_are_refused(nets, tools, tmp_path):
    weights = {k: v + 1 if k.endswith(".pe") else v for k, v in nets["motion"].state_dict().items()}
    with pytest.raises(CheckpointError, match="sinusoidal"):
        read_motion(tools.save(tmp_path / "other.safetensors", weights), tools.shapes_of(nets["motion"]))


def test_clip_of_older_versions(nets, tools, tmp_path):
    weights = {f"text_model.{name}": value for name, value in clip_weights(nets["clip"]).items()}
    weights["text_model.embeddings.position_ids"] = torch.arange(77)[None]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    same(read_identity_encoder(tmp_path, expected("clip", nets, tools)), clip_weights(nets["clip"]))


def test_wav2vec2_with_heads_and_older_weight_norm(nets, tools, tmp_path):
    weights = {}
    for name, value in nets["wav2vec2"].state_dict().items():
        name = name.replace("parametrizations.weight.original0", "weight_g")
        weights["wav2vec2." + name.replace("parametrizations.weight.original1", "weight_v")] = value
    weights |= {"lm_head.weight": torch.zeros(1), "quantizer.codevectors": torch.zeros(1)}
    weights |= {"project_q.bias": torch.zeros(1), "wav2vec2.masked_spec_embed": torch.zeros(1)}
    torch.save(weights, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=False)  # as old as the model
    same(read_wav2vec2(tmp_path, tools.shapes_of(nets["wav2vec2"])), nets["wav2vec2"].state_dict())


@pytest.mark.parametrize("kind", READERS)
@pytest.mark.parametrize("fault", ["missing", "unexpected", "misshapen"])
def test_what_does_not_fit_is_named(kind, fault, nets, tools, tmp_path):
    weights = dict(clip_weights(nets["clip"]) if kind == "clip" else nets[kind].state_dict())
    name = next(name for name, value in weights.items() if value.ndim > 1 and not name.endswith(".pe"))
    if fault == "missing":
        del weights[name]
    elif fault == "misshapen":
        weights[name] = weights[name][:1]
    else:
        name = "motion_modules.stranger"
        weights[name] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as caught:
        READERS[kind](tools.save(tmp_path / "file.safetensors", weights), expected(kind, nets, tools))
    assert "file.safetensors" in str(caught.value)


@pytest.mark.parametrize("kind", READERS)
def test_another_models_file_is_not_mistaken(kind, nets, tools, tmp_path):
    for other in READERS.keys() - {kind}:
        path = tools.save(tmp_path / f"{other}.safetensors", nets[other].state_dict())
        with pytest.raises(CheckpointError):
            READERS[kind](path, expected(kind, nets, tools))
    with pytest.raises(CheckpointError, match="another model's"):
        READERS[kind](tools.save(tmp_path / "x.safetensors", {"x": torch.zeros(1)}), expected(kind, nets, tools))


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
def test_truncated_files(suffix, nets, tools, tmp_path):
    path = tmp_path / f"motion{suffix}"
    weights = nets["motion"].state_dict()
    tools.save(path, weights) if suffix == ".safetensors" else torch.save(weights, path)
    whole = path.read_bytes()
    for length in (0, 7, 5000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="motion"):
            read_motion(path, tools.shapes_of(nets["motion"]))


class Exploit:
    def __reduce__(self):
        return (os.mkdir, ("exploited",))


@pytest.mark.parametrize("zipped", [True, False])
def test_pickles_with_code_are_not_run(zipped, nets, tools, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = {"state_dict": nets["motion"].state_dict(), "callbacks": Exploit()}
    torch.save(content, "evil.ckpt", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match="not run"):
        read_motion(tmp_path / "evil.ckpt", tools.shapes_of(nets["motion"]))
    assert not (tmp_path / "exploited").exists()


def test_pickles_of_other_things_are_named(tmp_path):
    torch.save({"weights": {"a": torch.zeros(1)}, "step": 3}, tmp_path / "odd.ckpt")
    with pytest.raises(CheckpointError, match=r"weights \(dict\), step \(int\)"):
        read_motion(tmp_path / "odd.ckpt", {})
    torch.save([torch.zeros(1)], tmp_path / "list.ckpt")
    with pytest.raises(CheckpointError, match="list"):
        read_motion(tmp_path / "list.ckpt", {})


def test_missing_paths_and_empty_folders(tmp_path):
    with pytest.raises(CheckpointError, match="nothing is downloaded"):
        read_vae(tmp_path / "nowhere", {})
    with pytest.raises(CheckpointError, match="diffusion_pytorch_model.safetensors"):
        read_vae(tmp_path, {})


def test_below():
    assert below("a.", {"a.b": (1,), "ab": (2,)}) == {"b": (1,)}
