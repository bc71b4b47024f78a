"""A trained checkpoint becomes one to ship."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from starcaster_core.models.checkpoint import load_checkpoint, random_model, read_checkpoint, save_checkpoint
from starcaster_core.presets import PRESETS
from starcaster_core.training import publish


def test_what_is_shipped_is_half_as_large_and_says_where_it_comes_from(tmp_path, monkeypatch):
    run, shipped = tmp_path / "run", tmp_path / "weights" / "tiny.safetensors"
    preset = PRESETS["tiny"]
    run.mkdir(), shipped.parent.mkdir()
    extensions = replace(preset.extensions, shared_noise=0.3)
    model = random_model(replace(preset, steps=99, guidance_scale=9.0, guidance_end=0.1, extensions=extensions))
    save_checkpoint(run / "3-views.safetensors", model, {"seed": 7, "clips": 3}, dtype=torch.float32)
    (run / "0-frames.csv").write_text("step,minutes,loss\n20,0.5,2\n40,1.25,1\n")
    weights = {key: value.contiguous() for key, value in model.vae.state_dict().items()}
    save_file(weights, run / "autoencoder.safetensors", {"figures": '{"psnr": 33.8}', "seed": "0"})
    monkeypatch.setattr(sys, "argv", ["publish", "--run", str(run), "--out", str(shipped)])
    publish.main()
    stilled = tmp_path / "stilled.safetensors"
    arguments = ["--run", str(run), "--out", str(stilled), "--shared-noise", "1"]
    monkeypatch.setattr(sys, "argv", ["publish", *arguments])
    publish.main()

    config, _, provenance = read_checkpoint(shipped)
    assert config == replace(preset, extensions=extensions), (
        "sampled as the preset says, with the noise it was trained with"
    )
    assert read_checkpoint(stilled)[0].extensions == replace(extensions, shared_noise=1.0)
    assert provenance["last_stage"] == {"seed": 7, "clips": 3}
    assert provenance["log"] == [{"stage": "0-frames", "steps": 40, "minutes": 1.25}]
    assert provenance["autoencoder"] == {"figures": {"psnr": 33.8}, "seed": "0"}
    with safe_open(shipped, "pt") as file:
        assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}
    back = load_checkpoint(str(shipped), torch.float32)
    torch.testing.assert_close(back.unet.conv_in.weight, model.unet.conv_in.weight, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("stage", ["4-student", "decoder"])
def test_a_student_is_shipped_with_the_steps_it_has_learned(stage, tmp_path, monkeypatch):
    made_with = {"stage": {"student_steps": 4}}
    made_with = made_with if stage == "4-student" else {"last_stage": made_with}  # the decoder's stage keeps what was
    model = random_model(replace(PRESETS["tiny"], steps=4, guidance_scale=1.0, guidance_end=1.0, scheduler="ddim"))
    save_checkpoint(tmp_path / f"{stage}.safetensors", model, made_with, dtype=torch.float32)
    weights = {key: value.contiguous() for key, value in model.vae.state_dict().items()}
    save_file(weights, tmp_path / "autoencoder.safetensors")
    shipped = tmp_path / "student.safetensors"
    arguments = ["--run", str(tmp_path), "--stage", stage, "--out", str(shipped)]
    monkeypatch.setattr(sys, "argv", ["publish", *arguments])
    publish.main()
    assert read_checkpoint(shipped)[0] == model.config


def test_a_run_that_went_on_from_a_model_keeps_what_made_that_one(tmp_path, monkeypatch):
    model = random_model(PRESETS["tiny"])
    save_checkpoint(tmp_path / "before.safetensors", model, {"clips": 768})
    save_checkpoint(tmp_path / "3-views.safetensors", model, {"clips": 512}, dtype=torch.float32)
    arguments = ["--run", str(tmp_path), "--begun-from", str(tmp_path / "before.safetensors")]
    monkeypatch.setattr(sys, "argv", ["publish", *arguments, "--out", str(tmp_path / "shipped.safetensors")])
    publish.main()
    provenance = read_checkpoint(tmp_path / "shipped.safetensors")[2]
    assert provenance["begun_from"] == {"clips": 768} and provenance["last_stage"] == {"clips": 512}
    assert "autoencoder" not in provenance


def test_a_run_s_weights_can_be_averaged_with_those_it_went_on_from(tmp_path, monkeypatch):
    before, after = random_model(PRESETS["tiny"]), random_model(PRESETS["tiny"])
    with torch.no_grad():
        before.unet.conv_in.weight.fill_(1.0), after.unet.conv_in.weight.fill_(2.0)
    save_checkpoint(tmp_path / "before.safetensors", before, {"clips": 768})
    save_checkpoint(tmp_path / "3-views.safetensors", after, {"clips": 512}, dtype=torch.float32)
    out = tmp_path / "shipped.safetensors"
    arguments = ["--run", str(tmp_path), "--begun-from", str(tmp_path / "before.safetensors"), "--share", "0.7"]
    monkeypatch.setattr(sys, "argv", ["publish", *arguments, "--out", str(out)])
    publish.main()
    _, weights, provenance = read_checkpoint(out)
    torch.testing.assert_close(weights["unet.conv_in.weight"].float().mean(), torch.tensor(1.7), atol=1e-3, rtol=0)
    assert provenance["share"] == 0.7


def test_a_decoder_that_was_trained_on_keeps_what_made_the_model(tmp_path, monkeypatch):
    model, made_with = random_model(PRESETS["tiny"]), {"last_stage": {"clips": 512}, "reference_decoder": {"seed": 3}}
    save_checkpoint(tmp_path / "before.safetensors", model, {"clips": 768})
    save_checkpoint(tmp_path / "decoder.safetensors", model, made_with, dtype=torch.float32)
    out = tmp_path / "shipped.safetensors"
    arguments = ["--run", str(tmp_path), "--stage", "decoder", "--begun-from", str(tmp_path / "before.safetensors")]
    monkeypatch.setattr(sys, "argv", ["publish", *arguments, "--share", "0.7", "--out", str(out)])
    publish.main()
    made_with["reference_decoder"]["share"] = 0.7
    assert read_checkpoint(out)[2] == made_with
