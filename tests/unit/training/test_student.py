"""The few-step student: who learns, that it is trained as it is sampled, how its judges are weighed, what it leaves."""

from __future__ import annotations

import argparse
import sys
from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core import generate, pipeline
from starcaster_core.conventions import KINDS
from starcaster_core.models.attention_cache import cache_condition
from starcaster_core.models.checkpoint import random_model, save_checkpoint
from starcaster_core.models.discriminator import Discriminator, DiscriminatorConditions
from starcaster_core.models.extensions import FramePose, open_reference, prepare_chunk
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.execution import Network
from starcaster_core.sampling.guidance import Branch
from starcaster_core.sampling.rollout import denoise
from starcaster_core.sampling.settings import SamplerSettings
from starcaster_core.training import adversarial, diffusion, portrait
from starcaster_core.training import student as module
from starcaster_core.training.adversarial import adversarial_losses
from starcaster_core.training.diffusion import DenoisingLoss, draw_batch
from starcaster_core.training.latents import ClipSet
from starcaster_core.training.loop import LoopSettings
from starcaster_core.training.portrait import choose_trainable
from starcaster_core.training.recipe import MOTION, Stage
from starcaster_core.training.student import (
    StudentLoss,
    adapt_stage,
    discriminator_conditions,
    lip_reading_stage,
    new_student,
)

CLIPS, LENGTH, FRAMES = 4, 20, 8
STAGE = Stage(
    "student",
    share=1.0,
    clips=2,
    frames=FRAMES,
    reference=1.0,
    drop_identity=0.0,
    drop_audio=0.0,
    drop_camera=0.0,
    student_steps=4,
)


@pytest.fixture(scope="module")
def clips() -> ClipSet:
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(CLIPS, *shape, generator=generator)

    return ClipSet(
        latents=draw(LENGTH, 16, 8, 8).half(),
        speech=draw(LENGTH, 64).half(),
        camera=draw(LENGTH, 25),
        mouth=torch.tensor([0.25, 0.5, 0.75, 0.75]).expand(CLIPS, LENGTH, 4),
        eyes=torch.tensor([0.3, 0.3, 0.7, 0.45]).expand(CLIPS, LENGTH, 4),
        head_motion=draw(LENGTH, 7),
        embedding=draw(128),
        kind=torch.arange(CLIPS) % 2,
        split=torch.zeros(CLIPS, dtype=torch.long),
        identity=torch.arange(CLIPS),
    )


def batch_of(clips, kind="temporal", stage=STAGE, seed=1):
    return draw_batch(clips, replace(stage, kinds=((kind, 1.0),)), "train", 2, generator(seed))


def generator(seed: int = 1) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def teacher():
    config = replace(PRESETS["tiny"], chunk_frames=FRAMES, guidance_scale=2.5, guidance_end=0.5)
    return random_model(config).eval().requires_grad_(False)


@pytest.fixture
def student(teacher):
    student = new_student(teacher, STAGE)
    choose_trainable(student, STAGE)
    return student


@pytest.fixture
def always_sampled(monkeypatch):
    monkeypatch.setattr(module, "SAMPLED", 1.0)


@pytest.mark.parametrize("kind", KINDS)
def test_student_and_discriminator_learn_and_nobody_else(clips, teacher, student, kind, always_sampled):
    clips = replace(clips, kind=torch.full_like(clips.kind, KINDS.index(kind)))
    loss = StudentLoss(student, STAGE)
    loss.progress = 1.0
    loss(batch_of(clips, kind), generator())[0].backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    taught = {name for name, p in student.named_parameters() if p.grad is not None and p.grad.any()}
    streams = {"temporal": ["audio"], "spatial": ["camera"], "joint": ["audio", "camera"]}[kind]
    parts = ("conv_in", "lora", "portrait_copy.gate", "identity_tokens", "motion_modules")
    for part in (*parts, *(f"attn2.{stream}" for stream in streams)):
        assert any(part in name for name in taught), part
    assert not any(name.startswith(("vae.", "speech_encoder.")) for name in taught)
    learning = {name for name, p in loss.discriminator.named_parameters() if p.grad is not None and p.grad.any()}
    silent = {"temporal": ("camera_in",), "spatial": ("speech_in",), "joint": ()}[kind]
    assert learning == {n for n, _ in loss.discriminator.named_parameters() if not n.startswith(silent)}


def test_it_samples_as_the_sampler_does(clips, student, monkeypatch):
    """All of the way, with the same noise, is what the sampler makes with the student's own settings."""

    def numbered():
        draws = iter(range(99))
        return lambda shape, *rest: torch.randn(shape, generator=generator(next(draws)))

    batch, loss = batch_of(clips), StudentLoss(student, STAGE)
    batch = replace(batch, **{k: v[:1] for k, v in vars(batch).items() if v is not None})
    unet, tokens = student.unet, student.identity_tokens
    with torch.no_grad():
        identity = unet.cache_identity(tokens(batch.embedding))
        bank = unet.cache_frames(batch.reference, identity)
        condition = cache_condition(
            identity,
            banks=(bank,),
            extensions=prepare_chunk(student, open_reference(student, batch.reference), FramePose(batch.head_motion)),
        )
        monkeypatch.setattr(module, "draw_noise", numbered())
        made = loss.sample(batch.latents, condition, generator(), to_end=True).final
    draw = numbered()
    monkeypatch.setattr(sys.modules[denoise.__module__], "draw_noise", draw)
    settings = SamplerSettings.of(student.config)
    assert (settings.steps, settings.scheduler, settings.guidance_scale) == (4, "lcm", 1.0)
    branches = [Branch(condition, 1.0)]
    sampled = denoise(Network(student), branches, settings, 0, lambda *arguments: None, lambda: False)
    torch.testing.assert_close(made, sampled, rtol=1e-3, atol=1e-3)


def test_it_stops_anywhere_on_its_way_and_only_the_last_step_learns(clips, student, monkeypatch, always_sampled):
    seen, network = [], type(student.unet)
    forward = network.forward

    def spy(self, x, timesteps, condition, **options):
        if timesteps[0] > 0:  # not the reading of the portrait
            seen.append((int(timesteps[0]), torch.is_grad_enabled()))
        return forward(self, x, timesteps, condition, **options)

    monkeypatch.setattr(network, "forward", spy)
    stops, loss = set(), StudentLoss(student, STAGE)
    for seed in range(12):
        seen.clear()
        loss(batch_of(clips), generator(seed))
        timesteps, learning = zip(*seen)
        assert list(timesteps) == [999, 749, 499, 249][: len(seen)]
        assert learning == (False,) * (len(seen) - 1) + (True,)
        stops.add(len(seen))
    assert stops == {1, 2, 3, 4}


def test_the_other_batches_are_its_teachers_lesson_at_its_own_timesteps(clips, student):
    loss, lessons, own, timesteps = StudentLoss(student, STAGE), 0, 0, set()
    for seed in range(30):
        batch = batch_of(clips, seed=seed)
        ((_, guess),) = loss.rollout(batch, generator(seed))
        if isinstance(guess, module.StudentSample):
            own += 1
            continue
        lessons += 1
        timesteps |= set(guess.timesteps.tolist())
        teaching = DenoisingLoss(student, STAGE)
        torch.testing.assert_close(loss.cost(guess, batch, generator()), teaching.error(guess, batch).mean())
    assert lessons > 8 and own > 8 and timesteps == {999, 749, 499, 249}


def test_what_the_next_chunk_looks_back_at_went_all_always_sampled_and_learned_somewhere_on_it(
    clips, student, monkeypatch
):
    stage = replace(STAGE, recursion=2, frames=4, context=1.0)
    shown, loss, learned, second = [], StudentLoss(student, stage), set(), set()
    cache_frames = type(student.unet).cache_frames

    def spy(self, latents, identity):
        shown.append(latents)
        return cache_frames(self, latents, identity)

    monkeypatch.setattr(type(student.unet), "cache_frames", spy)
    for seed in range(16):
        (_, one), (_, other) = loss.rollout(batch_of(clips, stage=stage), generator(seed))
        assert type(one) is module.StudentSample and one.prediction.requires_grad and not one.final.requires_grad
        assert torch.equal(shown[-1], one.final[:, :, -2:])
        assert torch.equal(one.final, one.prediction) == (
            one.timesteps[0] == 249
        )  # where it learned from the last step
        learned.add(one.timesteps[0].item())
        second.add(type(other))
    assert learned == {999, 749, 499, 249} and second == {module.StudentSample, module.Prediction}


def test_the_adversarial_gradient_has_its_share_of_the_error_s(clips, student):
    loss, batch = StudentLoss(student, STAGE), batch_of(clips)
    made = torch.randn(batch.latents.shape, generator=generator(), requires_grad=True)
    guess = module.StudentSample(made, batch.latents, made, torch.tensor([499, 499]))
    error = ((made - batch.latents).square() * diffusion.box_weights(batch.eyes, 8, module.EYE_WEIGHT)).mean()
    (by_error,) = torch.autograd.grad(error, made, retain_graph=True)

    def pull(progress: float) -> torch.Tensor:
        loss.progress = progress
        cost = loss.cost(guess, batch, generator())
        torch.testing.assert_close(cost, error)  # worth the error
        return torch.autograd.grad(cost, made)[0]

    torch.testing.assert_close(pull(0.0), by_error)
    by_adversary = pull(1.0) - by_error
    torch.testing.assert_close(by_adversary.norm(), module.ADVERSARIAL_WEIGHT * by_error.norm(), rtol=1e-3, atol=0)
    assert torch.cosine_similarity(by_adversary.flatten(), by_error.flatten(), dim=0).abs() < 0.9
    torch.testing.assert_close(pull(module.ADVERSARIAL_RAMP / 2) - by_error, by_adversary / 2)


def test_where_the_portrait_was_not_shown_the_discriminator_does_not_see_it(clips, student):
    batch = batch_of(clips)
    for shown in (0.0, 1.0):
        loss = StudentLoss(student, replace(STAGE, reference=shown))
        ((chunk, _),) = loss.rollout(batch, generator())
        assert discriminator_conditions(chunk).portrait.any().item() == bool(shown)
    told = discriminator_conditions(chunk)
    assert told.speech.shape == (2, FRAMES, 5 * 64) and told.camera is None
    windows = told.speech[:, 3].unflatten(1, (64, 5))
    torch.testing.assert_close(windows[..., 2], batch.speech[:, 5])  # two frames either way
    torch.testing.assert_close(windows[..., 0], batch.speech[:, 3])


@pytest.mark.parametrize("frames", [1, 4])
def test_a_discriminator_learns_what_is_true_and_the_made_comes_nearer(frames):
    torch.manual_seed(0)
    discriminator = Discriminator(4, speech_dim=6, identity_dim=8, side=8, width=8)
    who = DiscriminatorConditions(
        torch.randn(8, 4, 8, 8), torch.randn(8, 8), torch.randn(8, frames, 6), None, torch.randn(8, frames, 7)
    )
    true = torch.ones(8, 4, frames, 8, 8) + 0.1 * torch.randn(8, 4, frames, 8, 8)
    made = torch.nn.Parameter(torch.zeros_like(true))
    optimizer = torch.optim.Adam([{"params": discriminator.parameters()}, {"params": [made], "lr": 0.02}], lr=3e-3)
    draws, far = generator(), (made - true).square().mean().item()
    for _ in range(60):
        losses = adversarial_losses(discriminator, made, true, who, draws)
        optimizer.zero_grad()
        (losses.student.mean() + losses.discriminator).backward()
        optimizer.step()
    assert (made - true).square().mean() < 0.5 * far


def test_losses_reach_only_those_they_are_for():
    discriminator = Discriminator(4, speech_dim=6, identity_dim=8, side=8, width=8)
    who = DiscriminatorConditions(
        torch.randn(2, 4, 8, 8), torch.randn(2, 8), None, torch.randn(2, 1, 25), torch.randn(2, 1, 7)
    )
    true, made = torch.randn(2, 4, 1, 8, 8), torch.nn.Parameter(torch.randn(2, 4, 1, 8, 8))
    losses = adversarial_losses(discriminator, made, true, who, generator())
    losses.student.mean().backward()
    assert made.grad.any() and all(p.grad is None for p in discriminator.parameters())
    made.grad = None
    losses.discriminator.backward()
    assert made.grad is None and discriminator.conv_in.weight.grad.any()


def test_a_steep_discriminator_costs_and_a_flat_one_does_not(monkeypatch):
    discriminator = Discriminator(4, speech_dim=6, identity_dim=8, side=8, width=8)
    who = DiscriminatorConditions(torch.randn(2, 4, 8, 8), torch.randn(2, 8), None, None, torch.zeros(2, 1, 7))
    true, made = torch.randn(2, 2, 4, 1, 8, 8, generator=generator())

    def cost(steepness: float, slope: float) -> float:
        monkeypatch.setattr(adversarial, "PENALTY_WEIGHT", slope)
        for judge in (discriminator.fine_logits, discriminator.coarse_logits):
            torch.nn.init.normal_(judge.weight, std=steepness, generator=generator())
        return adversarial_losses(discriminator, made, true, who, generator()).discriminator.item()

    assert cost(0.0, slope=1.0) == pytest.approx(np.log(2), abs=1e-5)
    paid = [cost(steepness, slope=1.0) - cost(steepness, slope=0.0) for steepness in (0.3, 3.0)]
    assert 0 < 50 * paid[0] < paid[1] < 200 * paid[0]  # with its square


def test_where_temporal_attention_was_never_trained_frames_are_taken_one_by_one(tmp_path, clips, teacher, monkeypatch):
    """And it stays untrained: rendering goes on skipping it."""
    seen = []
    real = portrait.draw_batch
    monkeypatch.setattr(portrait, "draw_batch", lambda *a: seen.append(real(*a).latents.shape[:3:2]) or real(*a))
    silent = deepcopy(teacher)
    for name, parameter in silent.named_parameters():
        if "motion_modules" in name and "proj_out" in name:
            parameter.data.zero_()
    for number, model in enumerate((teacher, silent)):
        budget = LoopSettings(0, steps=1, show_minutes=9)
        stage = adapt_stage(model, STAGE)
        student = portrait.train_stage(model, clips, stage, budget, tmp_path / str(number), seed=0)
    assert seen == [(2, FRAMES), (2 * FRAMES, 1)]
    assert all(module.is_untrained() for module in student.unet.motion_modules())


def test_frames_one_by_one_are_as_many_as_in_chunks_in_a_row(teacher):
    silent = deepcopy(teacher)
    for module_ in silent.unet.motion_modules():
        torch.nn.init.zeros_(module_.proj_out.weight)
        torch.nn.init.zeros_(module_.proj_out.bias)
    single = adapt_stage(silent, replace(STAGE, clips=1, recursion=2))
    assert (single.clips, single.frames, single.recursion) == (2 * FRAMES, 1, 1)


def test_where_temporal_attention_is_to_be_trained_frames_come_in_chunks(teacher):
    """Whether it was trained before or not."""
    silent = deepcopy(teacher)
    for module_ in silent.unet.motion_modules():
        torch.nn.init.zeros_(module_.proj_out.weight)
        torch.nn.init.zeros_(module_.proj_out.bias)
    chunks = replace(STAGE, trainable=MOTION)
    assert adapt_stage(silent, chunks) == adapt_stage(teacher, chunks) == chunks


def test_a_discriminator_of_few_clips_learns_more_slowly(tmp_path, clips, teacher, monkeypatch):
    paces = []
    monkeypatch.setattr(
        portrait, "train", lambda model, loss, budget, *rest: paces.append(budget.discriminator_lr_factor)
    )
    for frames in (1, FRAMES):
        stage = replace(STAGE, frames=frames, motion=frames > 1)
        portrait.train_stage(teacher, clips, stage, LoopSettings(0, steps=1), tmp_path, seed=0)
    assert paces == [6.0, 2.0]


def test_where_frames_come_one_by_one_some_come_in_a_row_for_the_lip_reader(clips, teacher):
    singles = replace(STAGE, frames=1, clips=32)
    draws = [lip_reading_stage(singles, generator(seed)) for seed in range(200)]
    rows = [stage for stage in draws if stage.frames > 1]
    assert {(stage.frames, stage.clips, stage.kinds) for stage in rows} == {(16, 2, (("temporal", 1.0),))}
    assert 0.5 * module.LIP_READING < len(rows) / len(draws) < 2 * module.LIP_READING
    assert all(stage == singles for stage in draws if stage.frames == 1)
    assert lip_reading_stage(STAGE, generator()) == STAGE


def test_a_lip_reader_reads_rows_and_no_single_frames(clips, student):
    class Reader:
        def __call__(self, predicted, true, boxes):
            return (predicted - true).square().mean()

    singles = replace(STAGE, frames=1, clips=4, motion=False, lip_weight=2.0)
    loss = StudentLoss(student, singles, Reader())
    _, numbers = loss(batch_of(clips, stage=singles), generator())
    assert numbers["lips"] == 0.0
    row = batch_of(clips, stage=replace(singles, frames=8, clips=1))
    worth, numbers = loss(row, generator())
    assert numbers["lips"] > 0
    assert worth.item() == pytest.approx(numbers["temporal"] + 2 * numbers["lips"], rel=1e-5)


def test_a_student_looks_back_only_if_it_learned_to(teacher):
    assert new_student(teacher, STAGE).config.context_frames == 0
    blind = deepcopy(teacher)
    blind.config = replace(teacher.config, context_frames=0)
    looking = replace(STAGE, context=0.5, context_frames=(2, 4))
    assert [new_student(model, looking).config.context_frames for model in (teacher, blind)] == [2, 2]


def test_two_processes_begin_with_the_same_discriminator(student):
    one, other = (StudentLoss(student, STAGE).discriminator for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters()))


def test_a_saved_student_is_generated_with_in_its_own_few_steps(tmp_path, teacher, monkeypatch):
    from starcaster_core.identity import save_identity
    from starcaster_core.types import Identity

    save_checkpoint(tmp_path / "student.safetensors", new_student(teacher, STAGE), {})
    used = []
    done = argparse.Namespace(frames=0, seconds=0)
    monkeypatch.setattr(pipeline, "save_video", lambda *arguments, **options: used.append(arguments[3]) or done)
    save_identity(tmp_path / "who.safetensors", Identity(np.zeros(128, np.float32)))
    parser = argparse.ArgumentParser()
    generate.add_arguments(parser)
    files = {"identity": "who.safetensors", "model": "student.safetensors", "out": "o.mp4"}
    words = " ".join(f"--{option} {tmp_path / name}" for option, name in files.items())
    generate.run(parser.parse_args(words.split()))
    generate.run(parser.parse_args([*words.split(), "--scheduler", "ddim"]))
    assert [(s.steps, s.guidance_scale, s.scheduler) for s in used] == [(4, 1.0, "lcm"), (4, 1.0, "ddim")]


@pytest.mark.parametrize("sampled", [0.0, 1.0])
def test_audio_guidance_asks_for_what_lies_farther_from_silence(clips, student, monkeypatch, sampled):
    monkeypatch.setattr(module, "SAMPLED", sampled)
    batch, stage = batch_of(clips), replace(STAGE, audio_guidance=0.5)
    ((_, plain),) = StudentLoss(student, STAGE).rollout(batch, generator())
    loss, calls = StudentLoss(student, stage), []
    without = loss.without_audio
    monkeypatch.setattr(loss, "without_audio", lambda *arguments: calls.append(without(*arguments)) or calls[-1])
    ((_, guided),) = loss.rollout(batch, generator())
    ((_, unheard),) = loss.rollout(batch_of(clips, "spatial"), generator())
    torch.testing.assert_close(guided.prediction, plain.prediction)
    assert (plain.prediction - calls[0]).abs().max() > 0.01 and not guided.target.requires_grad
    torch.testing.assert_close(guided.target, plain.target + 0.5 * (plain.prediction.detach() - calls[0]))
    assert calls[1] is None and torch.equal(unheard.target, batch_of(clips, "spatial").latents)
