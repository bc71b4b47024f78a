"""From clips on disk to a model that can be loaded and sampled from: the recipe, end to end, on two tiny clips."""

from __future__ import annotations

import argparse
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from starcaster_core.data.shards import Clip, shard_path, write_shard
from starcaster_core.models.checkpoint import load_checkpoint, random_model, read_checkpoint
from starcaster_core.presets import PRESETS
from starcaster_core.training import portrait
from starcaster_core.training.latents import KINDS, encode_shards, load_clips
from starcaster_core.training.recipes import RECIPES

FRAMES, SIDE = 36, 64


def clip(number: int, kind: str) -> Clip:
    rng = np.random.default_rng(number)
    poses = np.repeat(np.eye(4, dtype=np.float32)[None], FRAMES, axis=0)
    poses[:, 2, 3] = 2.7
    info = {"split": "train", "kind": kind, "fps": 25.0, "identity": number}
    truth = {
        "world_from_cam": poses,
        "intrinsics": np.repeat(np.eye(3, dtype=np.float32)[None], FRAMES, axis=0),
        "mouth_box": np.tile(np.array([16, 40, 48, 56], np.float32), (FRAMES, 1)),
        "embedding": rng.normal(size=128).astype(np.float32),
    }
    frames = rng.integers(0, 256, (FRAMES, 8, 8, 3), dtype=np.uint8).repeat(8, axis=1).repeat(8, axis=2)
    audio = None if kind == "spatial" else (rng.normal(size=FRAMES * 640) * 0.1).astype(np.float32)
    return Clip(f"{number:04d}", info, frames, audio, truth)


@pytest.fixture(scope="module")
def model():
    return random_model(PRESETS["tiny"]).eval().requires_grad_(False)


@pytest.fixture
def latents(tmp_path, model):
    write_shard(shard_path(tmp_path, 0), [clip(0, "temporal"), clip(1, "spatial")])
    count = encode_shards(tmp_path, tmp_path / "latents", model.vae, model.speech_encoder, model.config)
    assert count == 1
    return tmp_path / "latents"


def test_clips_are_encoded_once_and_keep_their_kind(tmp_path, model, latents):
    clips = load_clips(latents)
    assert clips.latents.shape == (2, FRAMES, 16, 8, 8)
    assert clips.speech.shape == (2, FRAMES, 64) and clips.camera.shape == (2, FRAMES, 25)
    assert [KINDS[kind] for kind in clips.kind] == ["temporal", "spatial"]
    torch.testing.assert_close(clips.mouth[0, 0], torch.tensor([0.25, 0.625, 0.75, 0.875]))
    assert encode_shards(tmp_path, latents, model.vae, model.speech_encoder, model.config) == 0


def test_a_recipe_runs_resumes_and_leaves_models_that_can_be_sampled(tmp_path, model, latents, monkeypatch):
    stages = tuple(replace(stage, clips=2) for stage in RECIPES["mini"])
    monkeypatch.setattr(portrait, "RECIPES", {"tiny": stages})
    vae, speech, out = tmp_path / "vae.safetensors", tmp_path / "speech.safetensors", tmp_path / "run"
    save_file({key: value.contiguous() for key, value in model.vae.state_dict().items()}, vae)
    save_file({key: value.contiguous() for key, value in model.speech_encoder.state_dict().items()}, speech)
    parser = argparse.ArgumentParser()
    portrait.add_arguments(parser)
    parser.set_defaults(recipe="tiny")
    words = f"--latents {latents} --autoencoder {vae} --speech {speech} --steps 10 --out {out} --threads 1"
    arguments = parser.parse_args(words.split())
    portrait.run(arguments)

    last = out / f"{stages[-1].name}.safetensors"
    trained = load_checkpoint(last, torch.float32)
    config, weights, made_with = read_checkpoint(last)
    assert config == PRESETS["tiny"] and made_with["clips"] == 2
    assert torch.equal(trained.vae.patch_in.weight, model.vae.patch_in.weight)  # frozen
    assert not torch.equal(trained.unet.conv_in.weight, model.unet.conv_in.weight)

    written = last.stat().st_mtime_ns
    portrait.run(arguments)  # all stages are there: nothing is trained again
    assert last.stat().st_mtime_ns == written
