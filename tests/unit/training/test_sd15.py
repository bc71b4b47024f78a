"""The paper-scale recipe runs: the same code paths (Stable Diffusion's autoencoder, CLIP identity tokens, 9216 numbers
of sound a frame, ArcFace embeddings, epsilon), narrower networks."""

from __future__ import annotations

from dataclasses import replace

import diffusers
import numpy as np
import pytest
import torch
from torch import nn

from starcaster_core.data.shards import shard_path, write_shard
from starcaster_core.models.checkpoint import random_model
from starcaster_core.models.lipreader import LipReader, LipReaderConfig
from starcaster_core.presets import SD15
from starcaster_core.training import portrait
from starcaster_core.training.latents import encode_shards, load_clips
from starcaster_core.training.loop import LoopSettings
from starcaster_core.training.portrait import train_stage
from starcaster_core.training.recipes.sd15 import SD15_RECIPE
from starcaster_core.types import Speech

transformers = pytest.importorskip("transformers")


def narrower(make, **narrow):
    return lambda **options: make(**options | narrow)


class SomeWav2Vec2(nn.Module):
    def encode(self, samples, fps):
        frames = round(samples.shape[-1] / 16_000 * fps)
        return Speech(torch.randn(frames, 9216, generator=torch.Generator().manual_seed(0)), 0.0, "wav2vec2-base", fps)


class SomeArcFace:
    name = "arcface"

    def detect(self, image):
        return ["a face"]

    def embed(self, image, face):
        return image.astype(np.float32).reshape(-1)[:512]


@pytest.fixture(scope="module")
def model():
    with pytest.MonkeyPatch.context() as patch:
        small = {"block_out_channels": (8, 8, 8, 8), "norm_num_groups": 4, "layers_per_block": 1}
        patch.setattr(diffusers, "AutoencoderKL", narrower(diffusers.AutoencoderKL, **small))
        few = {"num_hidden_layers": 1, "intermediate_size": 32}
        patch.setattr(transformers, "CLIPTextConfig", narrower(transformers.CLIPTextConfig, **few))
        unet = replace(SD15.unet, block_out_channels=(32, 32), attention_levels=(True, True), layers_per_block=1)
        unet = replace(unet, num_attention_heads=(2, 2), motion_num_attention_heads=(2, 2), lora_rank=4)
        model = random_model(replace(SD15, unet=unet, image_size=64))
    model.speech_encoder = SomeWav2Vec2()
    return model


@pytest.fixture(scope="module")
def clips(tmp_path_factory, model, clip):
    folder = tmp_path_factory.mktemp("clips")
    write_shard(shard_path(folder, 0), [clip(0, "temporal"), clip(1, "spatial")])
    encode_shards(folder, folder / "latents", model, SomeArcFace())
    return load_clips(folder / "latents")


def test_clips_become_what_the_large_model_takes(model, clips):
    assert clips.latents.shape == (2, 36, 4, 8, 8) and clips.speech.shape == (2, 36, 9216)
    assert clips.embedding.shape == (2, 512) and not torch.equal(clips.embedding[0], clips.embedding[1])
    assert clips.speech[0].any() and not clips.speech[1].any()  # the frozen instant is silent


@pytest.mark.parametrize("stage", SD15_RECIPE, ids=lambda stage: stage.name)
def test_two_steps_of_every_stage_change_what_it_trains_and_nothing_else(tmp_path, model, clips, stage, monkeypatch):
    monkeypatch.setattr(portrait, "sample_grid", lambda *args, **kwargs: None)
    torch.manual_seed(0)
    reader = LipReader(LipReaderConfig(visemes=("rest", "aa"))).eval().requires_grad_(False)
    stage = replace(stage, clips=1, frames=4, lip_start=0.0, drop_identity=0.0, drop_audio=0.0, drop_camera=0.0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    train_stage(model, clips, stage, LoopSettings(0, steps=2, micro_batches=2), tmp_path, 0, reader, "auto", True)
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed and all(any(part in name for part in stage.trainable) for name in changed)
    assert all(any(part in name for name in changed) for part in stage.trainable)


def test_a_step_is_the_papers_batch_of_64_and_the_stages_are_as_long_as_its():
    assert {stage.clips * stage.parts for stage in SD15_RECIPE} == {64}
    assert [stage.steps for stage in SD15_RECIPE] == [200_000, 10_000, 6_000, 10_000]
    assert [stage.share for stage in SD15_RECIPE] == [stage.steps / 1000 for stage in SD15_RECIPE]
    assert SD15_RECIPE[0].lip_start * SD15_RECIPE[0].steps == 100_000
