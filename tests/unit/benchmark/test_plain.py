"""What we compare with does the same work: its predictions are ours."""

from __future__ import annotations

import json

import pytest
import torch

from starcaster_core.benchmark.measure import compare_with_plain, plain_tokens, ratio_of, sample_conditions
from starcaster_core.benchmark.plain import PlainComposition
from starcaster_core.cli import main
from starcaster_core.models.attention import LoRA
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
    for merge in (False, True):
        plain.configure(merge_adapters=merge, skip_untrained=merge)
        theirs = plain.predict(latents, timestep, **tokens, guidance_scale=settings.guidance_scale)
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
    assert len(asked) == 2 * (2 if guidance_scale != 1 else 1)  # neither does anything for nothing


@torch.no_grad()
def test_equal_work_is_a_matrix_for_each_adapted_layer_and_no_motion_module_that_changes_nothing(monkeypatch):
    model = load_checkpoint("tiny", dtype=torch.float32)
    modules = list(model.unet.motion_modules())
    for weight in modules[0].proj_out.parameters():
        weight.zero_()
    plain, ran = PlainComposition(model), []
    assert len(plain.untrained) == 1
    plain.untrained[0].proj_out.register_forward_hook(lambda *_: ran.append("motion"))
    for module in model.unet.modules():
        if isinstance(module, LoRA):
            module.register_forward_hook(lambda *_: ran.append("adapter"))
    conditions, _ = sample_conditions(model, model.config.chunk_frames)
    tokens, portrait = plain_tokens(model, conditions)
    plain.read(portrait, tokens["identity"])
    latents = torch.randn(1, 16, 16, 8, 8, generator=torch.Generator().manual_seed(0))
    counts = []
    for merge, skip in ((True, True), (False, True), (True, False)):
        plain.configure(merge, skip)
        ran.clear()
        plain.predict(latents, torch.tensor(500), **tokens, guidance_scale=1.0)
        counts.append((ran.count("motion"), ran.count("adapter") > 0))
    assert counts == [(0, False), (0, True), (1, False)]


def test_the_command_writes_its_figures(tmp_path):
    out = tmp_path / "bench.json"
    assert (
        main(
            [
                "bench",
                "--model",
                "tiny",
                "--chunks",
                "1",
                "--repeats",
                "1",
                "--command-seconds",
                "0.2",
                "--out",
                str(out),
            ]
        )
        == 0
    )
    result = json.loads(out.read_text())
    assert set(result["path"]["seconds"]) == {"identity", "speech", "denoise", "decode", "encode"}
    assert result["plain_diffusers"]["ratio"] > 0
    (command,) = result["generate_command"]
    assert command["seconds_of_video"] == 0.2 and command["seconds"] > sum(result["path"]["seconds"].values()) / 10
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
    # Ours run in one of the variants: once to warm up, once to be timed.
    assert len(ran) == 2 * settings.steps * len(modules)
    assert figures["all_motion_modules_run"]["ratio"] > 0
    assert figures["unmerged_adapters_and_idle_motion"]["ratio"] > 0
