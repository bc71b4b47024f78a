"""Distillation: whom it teaches, what it asks for, that nothing is asked of one who knows, and what it leaves behind."""

from __future__ import annotations

import argparse
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core import generate
from starcaster_core.models.checkpoint import random_model, save_checkpoint
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.schedules import make_scheduler
from starcaster_core.training import student as module
from starcaster_core.training.diffusion import draw_batch
from starcaster_core.training.latents import ClipSet
from starcaster_core.training.portrait import choose_trainable
from starcaster_core.training.recipe import Stage
from starcaster_core.training.student import DistillationLoss, Trajectory, new_student

CLIPS, LENGTH, FRAMES = 4, 12, 8
STAGE = Stage("student", share=1.0, clips=2, frames=FRAMES, context=1.0, student_steps=2)


def random_clips() -> ClipSet:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(CLIPS, *shape, generator=generator)

    return ClipSet(
        latents=draw(LENGTH, 16, 8, 8).half(),
        speech=draw(LENGTH, 64).half(),
        camera=draw(LENGTH, 25),
        mouth=torch.tensor([0.25, 0.5, 0.75, 0.75]).expand(CLIPS, LENGTH, 4),
        embedding=draw(128),
        kind=torch.arange(CLIPS) % 2,
        split=torch.zeros(CLIPS, dtype=torch.long),
        identity=torch.arange(CLIPS),
    )


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    return random_clips()


def batch_of(clips, kind="temporal"):
    stage = replace(STAGE, kinds=((kind, 1.0),))
    return draw_batch(clips, stage, "train", 2, torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def moving():
    """A teacher whose temporal attention says something"""
    config = replace(PRESETS["tiny"], chunk_frames=FRAMES, guidance_scale=2.5, guidance_end=0.5)
    return random_model(config).eval().requires_grad_(False)


@pytest.fixture(scope="module")
def teacher(moving):
    """One whose temporal attention is silent, as that of `mini` is"""
    model = deepcopy(moving)
    for name, parameter in model.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            parameter.data.zero_()
    return model


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("kind", ["temporal", "spatial"])
def test_only_the_student_is_taught(clips, moving, kind):
    student = new_student(moving, STAGE.student_steps)
    choose_trainable(student, STAGE)
    moving.requires_grad_(True)  # even then
    loss, _ = DistillationLoss(student, moving, STAGE)(batch_of(clips, kind), generator())
    loss.backward()
    moving.requires_grad_(False)
    assert all(parameter.grad is None for parameter in moving.parameters())
    taught = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    stream = {"temporal": "audio", "spatial": "camera"}[kind]
    for part in ("conv_in", "lora", "copy_gate", "identity_tokens", f"attn2.{stream}", "motion_modules"):
        assert any(part in name for name in taught), part
    assert not any(name.startswith(("vae.", "speech_encoder.")) for name in taught)


def test_a_silent_temporal_attention_stays_silent(clips, teacher):
    student = new_student(teacher, STAGE.student_steps)
    choose_trainable(student, STAGE)
    DistillationLoss(student, teacher, STAGE)(batch_of(clips), generator())[0].backward()
    assert all(p.grad is None for name, p in student.named_parameters() if "motion_modules" in name)


def test_who_always_knows_the_answer_has_nothing_to_learn(clips, teacher, monkeypatch):
    """A network that says the same clean latents everywhere is its own student, with or without guidance."""
    answer = torch.randn(2, 16, 1, 8, 8, generator=generator())
    loss = DistillationLoss(new_student(teacher, STAGE.student_steps), teacher, STAGE)
    network = type(teacher.unet)
    monkeypatch.setattr(module, "show", lambda *arguments: module.Scene(None, None))
    monkeypatch.setattr(network, "forward", lambda self, x, *rest, **options: answer.expand_as(x))
    assert loss(batch_of(clips), generator())[0].item() < 1e-8
    monkeypatch.setattr(network, "forward", lambda self, x, *rest, **options: x.tanh())
    assert loss(batch_of(clips), generator())[0].item() > 1e-4


def test_the_student_is_asked_to_go_where_the_teacher_goes(teacher):
    """The clean latents asked for send one DDIM step of diffusers to the end of several of the teacher's."""
    path = Trajectory(teacher, 8)
    x = torch.randn(1, 4, 2, 2, 2, generator=generator())
    arrived = x
    for at in range(2, 6):
        arrived = path.step(arrived, torch.tanh(arrived), at, at + 1)
    sampler = make_scheduler("ddim", teacher.config.noise)
    sampler.set_timesteps(2)
    assert sampler.timesteps.tolist() == path.timesteps[[0, 4]].tolist() == [999, 499]
    sampler.set_timesteps(8)
    assert sampler.timesteps.tolist() == path.timesteps[:-1].tolist() and path.timesteps[-1] == -1
    asked = path.aim(x, arrived, 2, 6)
    both = path.aim(x.repeat(2, 1, 1, 1, 1), arrived, torch.tensor([2, 0]), torch.tensor([6, 4]))
    torch.testing.assert_close(both[:1], asked)  # every clip at a place of its own
    torch.testing.assert_close(both[1:], path.aim(x, arrived, 0, 4))
    torch.testing.assert_close(path.step(x, asked, 2, 6), arrived)
    ours, theirs = path.step(x, asked, 2, 3), sampler.step(asked, sampler.timesteps[2], x).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_at_the_end_of_the_way_the_clean_latents_are_what_the_teacher_made(teacher):
    """The boundary: from any point, a step to the end is the prediction itself, and there nothing is left to predict."""
    path = Trajectory(teacher, 4)
    x, clean = torch.randn(2, 1, 4, 2, 2, 2, generator=generator())
    for start in range(4):
        assert torch.equal(path.step(x, clean, start, 4), clean)
        torch.testing.assert_close(path.aim(x, clean, start, 4), clean)


def test_the_teacher_is_guided_as_in_sampling(clips, moving):
    """From pure noise all the way the teacher walks as in a rollout: same steps, same guidance, same end."""
    from starcaster_core.sampling import SamplerSettings
    from starcaster_core.sampling.execution import Network
    from starcaster_core.sampling.guidance import Branch
    from starcaster_core.sampling.rollout import denoise
    from starcaster_core.sampling.schedules import initial_noise

    batch = batch_of(clips)
    one = replace(batch, **{k: v[:1] for k, v in vars(batch).items() if v is not None})
    loss = DistillationLoss(new_student(moving, STAGE.student_steps), moving, STAGE)
    scene = module.show(moving, one, torch.arange(FRAMES))
    settings = SamplerSettings.of(moving.config, steps=4, scheduler="ddim", seed=5)
    weight = moving.config.guidance_scale
    branches = [Branch(scene.nobody, 1 - weight), Branch(scene.full, weight)]
    expected = denoise(Network(moving), branches, settings, 0, lambda *arguments: None, lambda: False)
    noise = initial_noise(one.latents.shape, moving.config.noise.shared_noise, 5, 0)
    torch.testing.assert_close(loss.walk(noise, torch.tensor([0]), 4, scene), expected, rtol=1e-3, atol=1e-3)


def test_frames_are_looked_at_one_by_one_only_where_temporal_attention_is_silent(moving, teacher):
    silent, speaking = (DistillationLoss(model, model, STAGE) for model in (teacher, moving))
    draws = torch.Generator().manual_seed(0)
    spread = {tuple(silent.choose_frames(16, draws).tolist()) for _ in range(30)}
    assert spread == {tuple(range(first, 16, 4)) for first in range(4)}
    assert speaking.choose_frames(16, draws).tolist() == list(range(16))


def test_the_chunk_before_is_looked_back_at_as_often_as_the_stage_says(clips, teacher, monkeypatch):
    seen, batch = [], batch_of(clips)

    def show(model, batch, frames):
        seen.append(batch.context)
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "show", show)
    for context in (0.0, 0.5, 1.0):
        loss = DistillationLoss(teacher, teacher, replace(STAGE, context=context))
        for seed in range(20):
            with pytest.raises(KeyboardInterrupt):
                loss(batch, torch.Generator().manual_seed(seed))
    shares = [sum(context is not None for context in seen[part : part + 20]) / 20 for part in (0, 20, 40)]
    assert shares[0] == 0 < shares[1] < 1 == shares[2]
    assert torch.equal(seen[-1], batch.context) and seen[-1].shape[2] == teacher.config.context_frames


def test_a_saved_student_is_generated_with_in_its_own_few_steps(tmp_path, teacher, monkeypatch):
    from starcaster_core.identity import save_identity
    from starcaster_core.types import Identity

    save_checkpoint(tmp_path / "student.safetensors", new_student(teacher, 4), {})
    used = []
    monkeypatch.setattr(generate, "rollout", lambda *arguments, **options: used.append(arguments[2]) or [])
    monkeypatch.setattr(generate, "film", lambda *arguments: argparse.Namespace(frames=0, seconds=0))
    save_identity(tmp_path / "who.safetensors", Identity(np.zeros(128, np.float32)))
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    words = f"--identity {tmp_path / 'who.safetensors'} --model {tmp_path / 'student.safetensors'} --out {tmp_path / 'o.mp4'}"
    generate.run(parser.parse_args(words.split()))
    generate.run(parser.parse_args([*words.split(), "--scheduler", "lcm"]))
    assert [(s.steps, s.guidance_scale, s.scheduler) for s in used] == [(4, 1.0, "ddim"), (4, 1.0, "lcm")]
