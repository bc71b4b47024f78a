"""What a training step shows the network: the right sound for the right frames, the right past, the right target."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from starcaster_core.conventions import KINDS
from starcaster_core.errors import InputError
from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.schedules import predict_clean
from starcaster_core.training.diffusion import (
    SNR_LIMIT,
    DenoisingLoss,
    Prediction,
    box_weights,
    draw_batch,
    draw_reference,
)
from starcaster_core.training.latents import ClipSet
from starcaster_core.training.portrait import choose_trainable
from starcaster_core.training.recipe import Stage
from starcaster_core.training.recipes.mini import MINI_RECIPE

CLIPS, LENGTH, FRAMES = 6, 14, 4
STAGE = Stage("test", share=1.0, clips=3, frames=FRAMES, recursion=2, reference=0.5, context=0.5)
ALWAYS = {"drop_identity": 0.0, "drop_audio": 0.0, "drop_camera": 0.0}


@pytest.fixture(scope="module")
def clips():
    """Every row says which clip and frame it is: value = 100 * clip + frame. Even clips temporal, odd ones spatial."""
    number = 100.0 * torch.arange(CLIPS)[:, None] + torch.arange(LENGTH)
    camera = torch.zeros(CLIPS, LENGTH, 25)
    camera[..., 3], camera[..., 11] = number / 1000, 2.7
    return ClipSet(
        latents=number[:, :, None, None, None].expand(-1, -1, 16, 8, 8).half(),
        speech=number[:, :, None].expand(-1, -1, 64).half(),
        camera=camera,
        mouth=torch.tensor([0.25, 0.5, 0.75, 0.75]).expand(CLIPS, LENGTH, 4),
        eyes=torch.tensor([0.3, 0.3, 0.7, 0.45]).expand(CLIPS, LENGTH, 4),
        head_motion=number[:, :, None].expand(-1, -1, 7),
        embedding=torch.arange(CLIPS).float()[:, None].expand(-1, 128),
        kind=torch.arange(CLIPS) % 2,
        split=torch.zeros(CLIPS, dtype=torch.long),
        identity=torch.arange(CLIPS),
    )


@pytest.fixture(scope="module")
def model():
    return random_model(PRESETS["tiny"])


@pytest.fixture(scope="module")
def loss(model):
    return DenoisingLoss(model, STAGE)


def batch_of(clips, seed=0, **changes):
    return draw_batch(clips, replace(STAGE, **changes), "train", 2, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_frames_sound_and_person_belong_together(clips, seed):
    batch = batch_of(clips, seed)
    numbers = batch.latents[:, 0, :, 0, 0]
    assert batch.latents.shape == (3, 16, 2 * FRAMES, 8, 8)
    assert torch.equal(numbers[:, 1:] - numbers[:, :-1], torch.ones(3, 2 * FRAMES - 1))  # consecutive frames
    assert torch.equal(numbers[:, 0] // 100, batch.embedding[:, 0])
    assert torch.equal(batch.reference[:, 0, 0, 0, 0] // 100, batch.embedding[:, 0])
    assert torch.equal(batch.context[:, 0, :, 0, 0], numbers[:, :1] - torch.tensor([2, 1]))
    # Sound: the frames' own rows in the middle, the window's neighbours around them (clamped at the clip's ends).
    assert torch.equal(batch.speech[:, 2:-2, 0], numbers)
    first = 100 * batch.embedding[:, 0]
    assert torch.equal(batch.speech[:, 0, 0], torch.maximum(numbers[:, 0] - 2, first))
    assert batch.camera is None


def test_chunks_follow_one_another_each_with_its_own_sound(clips):
    batch = batch_of(clips)
    first, second = batch.chunks(FRAMES)
    assert torch.equal(first.latents + FRAMES, second.latents)
    assert torch.equal(first.speech[:, 2:-2, 0], first.latents[:, 0, :, 0, 0])
    assert torch.equal(second.speech[:, 2:-2, 0], second.latents[:, 0, :, 0, 0])
    assert torch.equal(first.speech[:, -4:], second.speech[:, :4])  # each hears into the other


def test_a_spatial_batch_sees_its_cameras_and_hears_nothing(clips):
    batch = batch_of(clips, kinds=(("spatial", 1.0),))
    assert batch.speech is None
    for chunk in batch.chunks(FRAMES):
        torch.testing.assert_close(chunk.camera[..., 3] * 1000, chunk.latents[:, 0, :, 0, 0])


def test_a_joint_batch_hears_and_sees_the_same_frames(clips):
    joint = replace(clips, kind=torch.full_like(clips.kind, KINDS.index("joint")))
    batch = batch_of(joint, kinds=(("joint", 1.0),))
    assert batch.portrait_camera.shape == (3, 25)
    for chunk in batch.chunks(FRAMES):
        numbers = chunk.latents[:, 0, :, 0, 0]
        assert torch.equal(chunk.speech[:, 2:-2, 0], numbers)
        torch.testing.assert_close(chunk.camera[..., 3] * 1000, numbers)


def test_a_mouth_counts_more_wherever_something_is_said(clips, loss):
    joint = replace(clips, kind=torch.full_like(clips.kind, KINDS.index("joint")))
    for kind, of in (("temporal", clips), ("joint", joint), ("spatial", clips)):
        batch = batch_of(of, kinds=((kind, 1.0),), recursion=1)
        ones = torch.ones_like(batch.latents)
        error = loss.error(Prediction(ones, 0 * ones, ones, torch.full((3,), 999)), batch)
        assert (error.max() > 2 * error.min()) == (kind != "spatial"), kind


@pytest.mark.parametrize("changes", [{"recursion": 4}, {"kinds": (("joint", 1.0),)}])
def test_clips_that_are_too_short_or_missing_are_asked_for(clips, changes):
    with pytest.raises(InputError, match="clips"):
        batch_of(clips, **changes)


def test_the_reference_is_seen_from_the_front_where_there_is_a_frontal_frame():
    yaw = torch.deg2rad(torch.tensor([[-60.0, -50, 10, 55], [70, 65, 60, 50]]))
    camera = torch.zeros(2, 4, 25)
    camera[..., 3], camera[..., 11] = 2.7 * yaw.sin(), 2.7 * yaw.cos()
    for seed in range(5):
        assert draw_reference(camera, torch.Generator().manual_seed(seed)).tolist() == [2, 3]


def test_the_mouth_counts_more_and_the_mean_stays_one():
    box = torch.tensor([0.25, 0.5, 0.75, 0.75]).expand(2, 3, 4)
    weights = box_weights(box, 16, 4.0)
    assert weights.shape == (2, 1, 3, 16, 16)
    assert torch.allclose(weights.mean(dim=(-1, -2)), torch.ones(2, 1, 3))
    inside, outside = weights[0, 0, 0, 10, 8], weights[0, 0, 0, 2, 8]
    assert torch.isclose(inside / outside, torch.tensor(4.0))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_frames_are_trained_with_the_noise_they_are_sampled_with(share):
    config = PRESETS["tiny"]
    model = random_model(replace(config, extensions=replace(config.extensions, shared_noise=share)))
    nothing, draws = torch.zeros(2, 16, 8, 16, 16), torch.Generator().manual_seed(0)
    noisy, timesteps, _ = DenoisingLoss(model, STAGE).add_noise(nothing, draws)
    one, other = noisy[0, :, 2].flatten(), noisy[0, :, 5].flatten()
    assert torch.corrcoef(torch.stack([one, other]))[0, 1].item() == pytest.approx(share, abs=0.05)
    _, sigma = DenoisingLoss(model, STAGE).scales(timesteps)
    torch.testing.assert_close(noisy[0].std(), sigma[0].squeeze(), rtol=0.05, atol=0.0)


def test_a_power_below_one_draws_noisier_timesteps(loss, monkeypatch):
    def mean_timestep(power):
        monkeypatch.setattr(loss, "stage", replace(STAGE, timestep_power=power))
        _, timesteps, _ = loss.add_noise(torch.zeros(4000, 1, 1, 1, 1), torch.Generator().manual_seed(0))
        assert timesteps.min() >= 0 and timesteps.max() <= 999
        return timesteps.float().mean().item()

    assert mean_timestep(1.0) == pytest.approx(500, abs=15)
    assert mean_timestep(0.5) == pytest.approx(667, abs=15)  # density 2 t


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "epsilon"])
def test_noise_and_target_fit_the_definition(loss, monkeypatch, kind):
    monkeypatch.setattr(loss, "kind", kind)
    clean = torch.randn(4, 16, 2, 8, 8)
    last = 700 if kind == "epsilon" else None  # pure noise says nothing of x0
    noisy, timesteps, target = loss.add_noise(clean, torch.Generator().manual_seed(0), last)
    alpha, sigma = loss.scales(timesteps)
    implied = {
        "sample": target,
        "v_prediction": alpha * noisy - sigma * target,
        "epsilon": (noisy - sigma * target) / alpha,
    }
    torch.testing.assert_close(implied[kind], clean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        predict_clean(target, noisy, timesteps, loss.alphas_cumprod, kind), clean, rtol=1e-4, atol=1e-4
    )
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha))


def test_an_error_in_the_clean_latents_counts_as_one_in_v_up_to_a_limit(loss, monkeypatch):
    timesteps = torch.tensor([5, 600, 999])
    alpha, sigma = loss.scales(timesteps)
    monkeypatch.setattr(loss, "kind", "sample")
    nearly_clean, between, noise = loss.noise_weights(timesteps).flatten().tolist()
    assert nearly_clean == SNR_LIMIT and noise == pytest.approx(1.0)
    assert between == pytest.approx((alpha[1] ** 2 / sigma[1] ** 2).item() + 1, rel=1e-4)
    monkeypatch.setattr(loss, "kind", "v_prediction")
    assert loss.noise_weights(timesteps) == 1


def test_a_step_is_the_same_for_the_same_generator(clips, loss):
    batch = batch_of(clips)
    values = {loss(batch, torch.Generator().manual_seed(4))[0].item() for _ in range(2)}
    assert len(values) == 1


TRAINED = [stage for stage in MINI_RECIPE if not stage.student_steps]  # a student: test_student.py


@pytest.mark.parametrize("stage", TRAINED, ids=lambda stage: stage.name)
def test_every_stage_gives_gradients_to_what_it_trains_and_none_to_the_frozen_parts(clips, stage):
    model = random_model(PRESETS["tiny"])
    stage = replace(stage, clips=2, frames=min(stage.frames, FRAMES), reference=float(stage.reference > 0), **ALWAYS)
    choose_trainable(model, stage)
    loss = DenoisingLoss(model, stage)
    for kind, _ in stage.kinds:
        generator = torch.Generator().manual_seed(0)
        batch = draw_batch(clips, replace(stage, kinds=((kind, 1.0),)), "train", 2, generator)
        loss(replace(batch, latents=batch.latents / 500), generator)[0].backward()
    reached = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    assert not any(name.startswith(("vae.", "speech_encoder.")) for name in reached)
    parts = ("conv_in", "reference_in", "portrait_copy.gate", "lora", "attn2.audio", "attn2.camera", "motion_modules")
    taught = {
        "0-backbone": {"conv_in"},
        "0-frames": set(parts) - {"motion_modules"},
        "1-motion": {"lora", "motion_modules", "attn2.audio"},
        "2-self-forcing": {"lora", "motion_modules", "attn2.audio"},
        "3-views": {"lora", "motion_modules", "attn2.camera"},
    }
    assert {part for part in parts if any(part in name for name in reached)} == taught[stage.name]


def test_a_step_runs_on_the_models_device_wherever_the_clips_are(clips):
    """The meta device refuses, as a GPU does, to compute with tensors left on the CPU."""
    stage = replace(STAGE, reference=1.0, context=1.0, **ALWAYS)
    model = random_model(PRESETS["tiny"]).to("meta")
    for kind in ("temporal", "spatial"):
        batch = batch_of(clips, kinds=((kind, 1.0),))
        loss, there = DenoisingLoss(model, stage), batch.to(model.device)
        for chunk, guess in loss.rollout(there, torch.Generator().manual_seed(0)):
            error = loss.error(guess, chunk)
            assert error.device.type == "meta" and error.shape == chunk.latents.shape


def contexts_of(model, clips, monkeypatch, **changes) -> tuple[list[torch.Tensor], list]:
    """What each chunk of a rollout was shown of the past ([B, C, n, h, w] or None), and the rollout itself."""
    stage = replace(STAGE, reference=0.0, **ALWAYS | changes)
    loss, seen = DenoisingLoss(model, stage), []
    cache_frames = model.unet.cache_frames
    monkeypatch.setattr(
        model.unet, "cache_frames", lambda latents, identity: seen.append(latents) or cache_frames(latents, identity)
    )
    batch = batch_of(clips, context=stage.context, recursion=stage.recursion, context_frames=stage.context_frames)
    scaled = replace(batch, latents=batch.latents / 500, context=batch.context / 500)
    return seen, list(loss.rollout(scaled, torch.Generator().manual_seed(0)))


def test_later_chunks_look_back_at_what_the_model_made(model, clips, monkeypatch):
    (before, own), [(first, guess), _] = contexts_of(model, clips, monkeypatch, context=1.0)
    torch.testing.assert_close(before[:, :, -1] + 1 / 500, first.latents[:, :, 0])
    torch.testing.assert_close(own, guess.prediction[:, :, -2:])  # a model that predicts x0
    assert not own.requires_grad and guess.prediction.requires_grad


def test_teacher_forcing_looks_back_at_the_clip(model, clips, monkeypatch):
    (before, own), [(first, _), _] = contexts_of(model, clips, monkeypatch, context=1.0, self_forcing=0.0)
    torch.testing.assert_close(own, first.latents[:, :, -2:])


def test_contexts_are_as_long_as_asked_for_and_chunks_looked_back_at_less_noisy(model, clips, monkeypatch):
    lengths, timesteps = set(), []
    for _ in range(4):
        with monkeypatch.context() as patch:
            seen, made = contexts_of(model, clips, patch, context=1.0, context_frames=(2, 6), context_timesteps=5)
        lengths |= {context.shape[2] for context in seen}
        timesteps += [made[0][1].timesteps.max().item(), made[1][1].timesteps.max().item()]
    assert lengths <= set(range(2, 7)) and len(lengths) > 1
    assert max(timesteps[::2]) < 5 < min(timesteps[1::2])


def test_the_loss_counts_every_chunk(model, clips):
    loss = DenoisingLoss(model, replace(STAGE, **ALWAYS))
    batch = batch_of(clips)
    batch = replace(batch, latents=batch.latents / 500, context=batch.context / 500)
    total, numbers = loss(batch, torch.Generator().manual_seed(0))
    made = list(loss.rollout(batch, torch.Generator().manual_seed(0)))
    costs = [loss.error(guess, chunk).mean() for chunk, guess in made]
    torch.testing.assert_close(total, torch.stack(costs).mean())
    assert (numbers["first"], numbers["last"]) == pytest.approx([cost.item() for cost in costs])


@pytest.mark.parametrize("kind", ["sample", "v_prediction", "epsilon"])
def test_min_snr_weights_an_error_alike_however_it_is_predicted(loss, monkeypatch, kind):
    """min(SNR, gamma) of the squared error in x0, whatever the network predicts (Hang et al. 2023, eq. 5)."""
    monkeypatch.setattr(loss, "kind", kind)
    monkeypatch.setattr(loss, "stage", replace(STAGE, snr_gamma=5.0))
    timesteps = torch.tensor([50, 400, 700])
    alpha, sigma = loss.scales(timesteps)
    snr = (alpha / sigma).square()
    in_x0 = {"sample": 1.0, "v_prediction": sigma.square(), "epsilon": (sigma / alpha).square()}[kind]
    torch.testing.assert_close(loss.noise_weights(timesteps) / in_x0 * torch.ones_like(snr), snr.clamp(max=5.0))
