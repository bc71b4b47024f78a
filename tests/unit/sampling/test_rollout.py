"""What users rely on in the autoregressive loop: same seed same video, any length, stopping, memory of the past."""

from __future__ import annotations

import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core.errors import InputError
from starcaster_core.models.checkpoint import load_checkpoint, random_model
from starcaster_core.models.extensions.shared_noise import draw_noise
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.rollout import rollout
from starcaster_core.sampling.samplers import make_sampler
from starcaster_core.sampling.schedules import alphas_cumprod, predict_clean, seeded_generator
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.types import CameraPath, Identity, Speech

FRONTAL = np.array([[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.7], [0, 0, 0, 1]], np.float32)


@pytest.fixture(scope="module")
def model():
    return load_checkpoint("tiny", dtype=torch.float32)


@pytest.fixture
def identity():
    rng = np.random.default_rng(0)
    return Identity(rng.normal(size=128).astype(np.float32), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))


def speech(frames: int, seed: int = 0) -> Speech:
    features = torch.randn(frames, 64, generator=torch.Generator().manual_seed(seed))
    return Speech(features, frames / 25, "phonetic")


def camera(frames: int) -> CameraPath:
    poses = np.repeat(FRONTAL[None], frames, axis=0)
    poses[:, 0, 3] = np.linspace(0, 1, frames)
    return CameraPath(poses, np.repeat(np.diag([4.2647, 4.2647, 1]).astype(np.float32)[None], frames, axis=0))


def video(model, conditions, **settings) -> torch.Tensor:
    chunks = rollout(model, conditions, SamplerSettings(steps=2, **settings))
    return torch.cat([chunk.latents for chunk in chunks], dim=2)


@pytest.mark.parametrize("frames", [1, 15, 16, 17, 40])
def test_any_length_comes_out_exactly(model, identity, frames):
    chunks = list(rollout(model, Conditions(identity, speech(frames)), SamplerSettings(steps=1)))
    assert [chunk.start for chunk in chunks] == list(range(0, frames, 16))
    assert sum(chunk.latents.shape[2] for chunk in chunks) == frames
    assert chunks[0].latents.shape[:2] == (1, 16) and chunks[0].latents.shape[3:] == (8, 8)


@pytest.mark.parametrize("scheduler", ["dpmpp", "ddim", "lcm"])
def test_the_same_seed_gives_the_same_video_and_the_global_generator_is_left_alone(model, identity, scheduler):
    conditions = Conditions(identity, speech(20))
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    first = video(model, conditions, scheduler=scheduler, seed=2**64 - 1)
    assert torch.equal(torch.rand(1), expected)
    torch.manual_seed(99)
    assert torch.equal(video(model, conditions, scheduler=scheduler, seed=2**64 - 1), first)
    assert not torch.equal(video(model, conditions, scheduler=scheduler, seed=3), first)


def test_a_stopped_render_that_ends_late_does_not_change_the_next(model, identity):
    """The generator of a cancelled render may be collected at any time, as long as an error's traceback holds it."""
    conditions, settings = Conditions(identity, speech(48)), SamplerSettings(steps=2)
    stopped = rollout(model, conditions, settings)
    next(stopped)
    going = rollout(model, conditions, settings)
    parts = [next(going).latents]
    stopped.close()
    parts += [chunk.latents for chunk in going]
    assert torch.equal(torch.cat(parts, dim=2), video(model, conditions))
    assert not model.unet.samplings


def test_a_camera_goes_round_the_face_and_a_portrait_from_the_side_is_known_as_one(model, identity, monkeypatch):
    """Where no camera is given the view is the portrait's own."""
    seen = []
    module = sys.modules[rollout.__module__]
    prepared = module.prepare_chunk
    monkeypatch.setattr(
        module,
        "prepare_chunk",
        lambda model, reference, pose: seen.append(reference.camera) or prepared(model, reference, pose),
    )
    turned = replace(identity, yaw=30.0)
    for who, path in ((turned, camera(4)), (turned, None), (identity, camera(4))):
        video(model, Conditions(who, camera=path, frames=4))
    video(model, Conditions(turned, camera=camera(4), frames=4), lambda_camera=0.0)
    (at, *_), *others = seen
    torch.testing.assert_close(at[[3, 7, 11]], 2.7 * torch.tensor([0.5, 0.0, 0.75**0.5]))
    assert others == [None, None, None]


def test_a_longer_video_begins_like_a_shorter_one(model, identity):
    sound = speech(40)
    long = video(model, Conditions(identity, sound))
    short = video(model, Conditions(identity, sound, frames=32))
    assert torch.equal(long[:, :, :32], short)


def test_stopping_between_chunks_leaves_the_chunks_as_they_are(model, identity):
    conditions = Conditions(identity, speech(40))
    whole = list(rollout(model, conditions, SamplerSettings(steps=1)))
    part = list(itertools.islice(rollout(model, conditions, SamplerSettings(steps=1)), 2))
    for one, other in zip(whole, part):
        assert torch.equal(one.latents, other.latents)


def test_should_stop_is_asked_before_every_network_call(model, identity):
    asked = []

    def stop():
        asked.append(True)
        return len(asked) > 5

    chunks = list(rollout(model, Conditions(identity, speech(64)), SamplerSettings(steps=2), should_stop=stop))
    # Two branches x two steps a chunk: the first chunk takes four calls, the second is given up at its second.
    assert len(chunks) == 1 and len(asked) == 6


def test_an_exception_from_should_stop_comes_through_and_the_model_stays_usable(model, identity):
    class Cancelled(BaseException):
        pass

    def stop():
        raise Cancelled

    conditions = Conditions(identity, speech(16))
    before = video(model, conditions)
    with pytest.raises(Cancelled):
        list(rollout(model, conditions, SamplerSettings(steps=2), should_stop=stop))
    assert torch.equal(video(model, conditions), before)
    assert all(block.attn1._merged is None for block in model.unet.transformer_blocks())


def test_progress_counts_every_step_and_previews_a_picture(model, identity):
    reports = []
    preview = None

    def progress(report):
        nonlocal preview
        reports.append((report.chunk, report.step, report.done))
        preview = report.preview()

    list(rollout(model, Conditions(identity, speech(20)), SamplerSettings(steps=3), progress=progress))
    assert [r[:2] for r in reports] == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert reports[-1][2] == 1
    assert preview.shape == (64, 64, 3) and preview.dtype == np.uint8


def test_each_chunk_looks_back_at_the_one_before(model, identity):
    conditions = Conditions(identity, speech(32))
    looking, blind = video(model, conditions), video(model, conditions, context_frames=0)
    assert torch.equal(looking[:, :, :16], blind[:, :, :16])
    assert not torch.allclose(looking[:, :, 16:], blind[:, :, 16:])


def test_identity_only_takes_its_look_from_its_own_first_chunk(model, identity):
    nameless = Identity(identity.embedding)  # no portrait at all
    with_portrait = video(model, Conditions(identity, speech(32)), use_reference=False, context_frames=0)
    without = video(model, Conditions(nameless, speech(32)), context_frames=0)
    assert torch.equal(with_portrait, without)
    assert not torch.allclose(with_portrait[:, :, :16], video(model, Conditions(identity, speech(16))))
    # The second chunk depends on the first one's look: another first chunk (other sound), other latents there,
    # although its own sound and noise are the same.
    sound, other = speech(32), speech(32)
    other.features[:14] += 1  # two frames of window reach into the second chunk from frame 14 on
    changed = video(model, Conditions(nameless, other), context_frames=0)
    assert not torch.allclose(changed[:, :, 16:], without[:, :, 16:])
    assert torch.equal(sound.features[14:], other.features[14:])


@pytest.mark.parametrize("stream", ["speech", "camera"])
def test_streams_change_the_video_and_a_lambda_of_zero_removes_them(model, identity, stream):
    streams = {"speech": speech(16), "camera": camera(16)}
    both = video(model, Conditions(identity, **streams))
    name = {"speech": "lambda_audio", "camera": "lambda_camera"}[stream]
    off = video(model, Conditions(identity, **streams), **{name: 0.0})
    absent = video(model, Conditions(identity, **{**streams, stream: None}))
    assert torch.equal(off, absent)
    assert not torch.allclose(both, off)


def test_one_scale_costs_two_branches_and_equals_the_nested_formula(model, identity):
    """Equal scales for all streams are the single-scale guidance, though asked through the nested ladder."""
    conditions = Conditions(identity, speech(16), camera(16))
    calls = []
    original = model.unet.forward
    model.unet.forward = lambda *a, **k: calls.append(1) or original(*a, **k)
    try:
        single = video(model, conditions, guidance_scale=2.0)
        after_single = len(calls)
        nested = video(model, conditions, guidance_scale=2.0, camera_scale=2.0, audio_scale=2.0)
        assert torch.equal(single, nested)
        calls.clear()
        video(model, conditions, guidance_scale=2.0, camera_scale=3.0, audio_scale=4.0)
        assert len(calls) == 1 + 2 * 4  # the reference pass, then two steps of four branches
        calls.clear()
        video(model, conditions, guidance_scale=1.0)
        assert len(calls) == 1 + 2 * 1
        assert after_single == 1 + 2 * 2
    finally:
        del model.unet.forward


def test_guidance_ends_where_it_was_asked_to(model, identity):
    """Half of four steps guided: two steps of two branches, two of one; nothing guided equals a scale of 1."""
    conditions = Conditions(identity, speech(16))
    asked = []

    def run(**settings):
        asked.clear()
        chunks = rollout(model, conditions, SamplerSettings(steps=4, **settings), should_stop=lambda: asked.append(0))
        return torch.cat([chunk.latents for chunk in chunks], dim=2), len(asked)

    throughout, calls_throughout = run()
    half, calls_half = run(guidance_end=0.5)
    never, calls_never = run(guidance_end=0.0)
    off, _ = run(guidance_scale=1.0)
    assert (calls_throughout, calls_half, calls_never) == (8, 6, 4)
    torch.testing.assert_close(never, off)
    assert not torch.allclose(half, throughout) and not torch.allclose(half, never)


def test_a_models_own_settings_give_way_to_chosen_ones(model):
    config = replace(model.config, steps=7, guidance_scale=1.5, guidance_end=0.5, scheduler="ddim")
    own = SamplerSettings.of(config, seed=3, steps=None, scheduler=None)
    assert (own.steps, own.guidance_scale, own.guidance_end, own.scheduler, own.seed) == (7, 1.5, 0.5, "ddim", 3)
    assert SamplerSettings.of(config, steps=9).steps == 9
    assert SamplerSettings.of(config, scheduler="lcm").scheduler == "lcm"
    with pytest.raises(InputError):
        SamplerSettings.of(config, steps=0)


def test_without_noise_levels_to_cross_schedulers_agree_on_the_clean_latents():
    """x0 from v and from epsilon are the same number."""
    config = load_checkpoint("tiny").config.noise
    alphas = alphas_cumprod(config)
    clean, noise = torch.randn(2, 1, 2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    alpha, sigma = alphas[300].sqrt(), (1 - alphas[300]).sqrt()
    noisy = alpha * clean + sigma * noise
    velocity = alpha * noise - sigma * clean
    for prediction, kind in ((clean, "sample"), (noise, "epsilon"), (velocity, "v_prediction")):
        torch.testing.assert_close(predict_clean(prediction, noisy, 300, alphas, kind), clean, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
@pytest.mark.parametrize(("scheduler", "steps"), [("dpmpp", 8), ("ddim", 8), ("lcm", 4), ("lcm", 100)])
def test_a_perfect_network_is_followed_to_the_clean_latents(scheduler, steps, kind):
    """The samplers, set up as we do, end exactly where a network that knows the answer points."""
    config = replace(load_checkpoint("tiny").config.noise, prediction_type=kind)
    sampler = make_sampler(scheduler, config, steps)
    assert sampler.timesteps[0] == config.num_train_timesteps - 1  # starts from pure noise
    assert sampler.timesteps.diff().eq(-config.num_train_timesteps // steps).all()  # evenly, whatever the sampler
    clean = torch.full((1, 1, 1, 2, 2), 0.7)
    draws = torch.Generator().manual_seed(0)
    x = torch.randn(clean.shape, generator=draws)
    for step, timestep in enumerate(sampler.timesteps):
        alpha = sampler.alphas_cumprod[timestep].sqrt()
        sigma = (1 - sampler.alphas_cumprod[timestep]).sqrt()
        velocity = alpha * (x - alpha * clean) / sigma - sigma * clean
        answer = {"sample": clean, "v_prediction": velocity}[kind]
        x = sampler.step(step, answer, x, draws, lambda: torch.randn(clean.shape, generator=draws))
    torch.testing.assert_close(x, clean, rtol=1e-3, atol=1e-3)


def test_frames_share_as_much_noise_as_asked():
    shape = (1, 16, 8, 16, 16)

    def initial_noise(fraction: float, seed: int, chunk: int):
        own, shared = seeded_generator(seed, chunk, "own"), seeded_generator(seed, 0, "shared")
        return draw_noise(shape, fraction, own, shared)

    def correlation(a, b) -> float:
        return torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1].item()

    for share in (0.0, 0.5, 1.0):
        first, second = (initial_noise(share, seed=3, chunk=chunk) for chunk in (0, 1))
        assert first.var().item() == pytest.approx(1, abs=0.05)
        assert correlation(first[:, :, 0], first[:, :, 7]) == pytest.approx(share, abs=0.05)
        assert correlation(first[:, :, 0], second[:, :, 0]) == pytest.approx(share, abs=0.05), "from chunk to chunk too"
    assert not torch.equal(initial_noise(1.0, 3, 0), initial_noise(1.0, 4, 0))


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_noise_added_on_the_way_is_shared_like_the_first(identity, share):
    """A few-step sampler begins every step from new noise; flicker would come from frames that got noise of their
    own."""
    config = PRESETS["tiny"]
    model = (
        random_model(replace(config, extensions=replace(config.extensions, shared_noise=share)))
        .eval()
        .requires_grad_(False)
    )
    seen = []

    def nothing(latents, *arguments, **options):
        seen.append(latents)
        return torch.zeros_like(latents)

    looks = Identity(identity.embedding)  # no portrait, so no pass over one
    model.unet.forward = nothing
    settings = SamplerSettings(steps=3, guidance_scale=1.0, scheduler="lcm", context_frames=0)
    next(rollout(model, Conditions(looks, speech(16)), settings))
    first, second, third = (noise[0] / noise.std() for noise in seen)
    for noise in (second, third):
        one, other = noise[:, 2].flatten(), noise[:, 5].flatten()
        assert torch.corrcoef(torch.stack([one, other]))[0, 1].item() == pytest.approx(share, abs=0.1)
    assert not torch.allclose(second, first, atol=0.1) and not torch.allclose(second, third, atol=0.1)


def test_draws_differ_by_seed_chunk_and_purpose():
    draws = {
        torch.rand(1, generator=seeded_generator(*key)).item()
        for key in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b"), (2**63, 0, "a"), (2**64 - 1, 0, "a")]
    }
    assert len(draws) == 6


@pytest.mark.parametrize(
    "setting",
    [{"seed": 2**64}, {"seed": -1}, {"steps": 0}, {"guidance_scale": float("nan")}, {"lambda_audio": 1.5}]
    + [{"context_frames": -1}, {"scheduler": "euler"}],
)
def test_impossible_settings_are_refused_by_name(setting):
    with pytest.raises(InputError, match=next(iter(setting))):
        SamplerSettings(**setting)


def test_a_foreign_identity_or_speech_is_refused(model, identity):
    with pytest.raises(InputError, match="arcface"):
        video(model, Conditions(Identity(np.zeros(512, np.float32), backend="arcface"), speech(4)))
    with pytest.raises(InputError, match="wav2vec2"):
        video(model, Conditions(identity, Speech(torch.zeros(4, 9216), 0.16, "wav2vec2-base")))


def test_a_video_needs_a_length(identity):
    with pytest.raises(InputError, match="length"):
        Conditions(identity)
