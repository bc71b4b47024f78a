"""The yardstick does the same work: its answers are ours."""

from __future__ import annotations

import json

import pytest
import torch

from starcaster_core.benchmark.measure import compare_with_plain, plain_tokens, ratio_of, sample_conditions
from starcaster_core.benchmark.plain import PlainComposition
from starcaster_core.cli import main
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.extensions import FramePose, warped_latents
from starcaster_core.sampling.execution import Network
from starcaster_core.sampling.rollout import cache_branches, cache_subject
from starcaster_core.sampling.settings import SamplerSettings


@pytest.fixture(scope="module")
def model():
    return load_checkpoint("tiny", dtype=torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("guidance_scale", [3.0, 1.0])
def test_the_plain_composition_gives_the_same_prediction(model, guidance_scale, monkeypatch):
    conditions, _ = sample_conditions(model, model.config.chunk_frames)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 16, 8, 8, generator=generator)
    context = torch.randn(1, 16, 2, 8, 8, generator=generator)
    settings, timestep = SamplerSettings(steps=2, guidance_scale=guidance_scale), torch.tensor(500)
    subject = cache_subject(model, conditions, settings)
    branches = cache_branches(model, conditions, settings, subject, model.cache_frames(context, subject.identity), 0)
    ours = Network(model).predict(latents, timestep[None], branches)
    tokens, portrait = plain_tokens(model, conditions)
    plain = PlainComposition(model)
    plain.read(portrait, tokens["identity"])
    if model.config.extensions.warp_portrait:
        pose = FramePose(tokens["head_motion"], model.camera_vectors(conditions.camera, 0, 16))
        plain.show_warped(warped_latents(model, subject.reference, pose))
    plain.look_back(model.like_weights(context), tokens["identity"])
    asked, network = [], plain.unet.forward
    monkeypatch.setattr(plain.unet, "forward", lambda *a, **o: asked.append(1) or network(*a, **o))
    theirs = plain.predict(latents, timestep, **tokens, guidance_scale=settings.guidance_scale)
    torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert len(asked) == (2 if guidance_scale != 1 else 1)  # neither does anything for nothing


def test_the_command_writes_its_figures(tmp_path):
    out = tmp_path / "bench.json"
    assert main(["bench", "--model", "tiny", "--chunks", "1", "--repeats", "1", "--out", str(out)]) == 0
    result = json.loads(out.read_text())
    assert set(result["path"]["seconds"]) == {"identity", "speech", "denoise", "decode", "encode"}
    assert result["plain_diffusers"]["ratio"] > 0
    guided = result["plain_diffusers_guided"]
    assert guided["ratio"] > 0 and guided["guided_steps"] == guided["steps"] == 8
    assert "all_motion_modules_run" not in result["plain_diffusers"], "they all run in a model of random weights"


def test_the_ratio_is_taken_turn_by_turn():
    figures = ratio_of([(1.0, 0.5), (2.0, 1.0), (2.0, 1.0)], [(3.0, 1.0), (4.0, 3.0), (8.0, 4.0)])
    assert (figures["ratio"], figures["ratio_lowest"]) == (3.0, 2.0)
    assert (figures["ratio_of_cpu_seconds"], figures["ratio_of_cpu_seconds_lowest"]) == (3.0, 2.0)


def test_with_idle_motion_modules_the_ratio_of_a_model_without_comes_too():
    model, ran = load_checkpoint("tiny", dtype=torch.float32), []
    modules = list(model.unet.motion_modules())
    for module in modules:
        for weight in module.proj_out.parameters():
            weight.data.zero_()
        module.proj_out.register_forward_hook(lambda *arguments: ran.append(1))
    settings = SamplerSettings(steps=3, guidance_scale=1.0)
    figures = compare_with_plain(model, settings, repeats=1)
    # They run in one of the three ways: once to warm up, once to be timed.
    assert len(ran) == 2 * settings.steps * len(modules)
    assert figures["all_motion_modules_run"]["ratio"] > 0
