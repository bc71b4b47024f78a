"""What a head does besides speaking: like the training clips' heads, any stretch by itself, and told to the network."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import torch

from starcaster_core.camera.poses import intrinsics, world_from_cam
from starcaster_core.data.performance import perform
from starcaster_core.head_motion import CHANNELS, random_head_motion
from starcaster_core.models.checkpoint import random_model
from starcaster_core.models.extensions import open_reference
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.rollout import rollout
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.types import CameraPath, Identity

FPS, BLINK = 25.0, CHANNELS.index("blink")


def test_any_stretch_of_a_video_can_be_asked_for_by_itself():
    whole = random_head_motion(7, 0, 400, FPS)
    for start in (0, 16, 240):
        torch.testing.assert_close(random_head_motion(7, start, 16, FPS), whole[start : start + 16])
    assert not torch.equal(random_head_motion(8, 0, 400, FPS), whole)


def test_it_is_smooth_blinks_now_and_then_and_goes_on_for_an_hour():
    motion = random_head_motion(3, 0, 1500, FPS)
    turns, blink = motion[:, :3], motion[:, BLINK]
    assert turns.diff(dim=0).abs().max() < 0.25 and 0.4 < turns.std() < 1.2
    blinks = ((blink[1:] > 1) & (blink[:-1] <= 1)).sum()
    assert 60 / 5 - 2 <= blinks <= 60 / 1.6  # in a minute
    late = random_head_motion(3, 25 * 3600, 100, FPS)
    assert late.isfinite().all() and late[:, :3].std(dim=0).min() > 0.01


def test_it_is_distributed_as_what_the_clips_are_trained_with():
    """The training clips' own motion, in the same units"""
    from starcaster_core.data.shards import Clip
    from starcaster_core.training.latents import head_motion_of

    names = ("eyeBlink", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeLookDown", "browDown")
    units = tuple(f"{name}{side}" for name in names for side in ("Left", "Right")) + ("browInnerUp", "jawOpen")
    silence, trained = np.zeros(48 * 640, np.float32), []
    for seed in range(60):
        score = perform([], silence, 16000, 48, units, seed)
        truth = {"expression": score.expression, "head_rotation": score.head_rotation}
        trained.append(head_motion_of(Clip("", {"unit_names": units}, np.empty(0), None, truth)))
    drawn = np.concatenate([random_head_motion(seed, 0, 48, FPS).numpy() for seed in range(60)])
    trained = np.concatenate(trained)
    assert np.abs(trained.mean(axis=0) - drawn.mean(axis=0)).max() < 0.35
    ratio = drawn.std(axis=0) / trained.std(axis=0)
    assert 0.5 < ratio.min() and ratio.max() < 1.6


def test_turns_are_those_the_head_was_given():
    from starcaster_core.head_motion import rotations
    from starcaster_core.training.latents import head_degrees

    degrees = np.random.default_rng(0).uniform(-15, 15, (20, 3))
    np.testing.assert_allclose(head_degrees(rotations(torch.from_numpy(degrees)).numpy()), degrees, atol=1e-3)


def test_a_head_kept_still_does_nothing_and_a_livelier_one_turns_more_and_blinks_as_often():
    still, calm, usual, lively = (random_head_motion(3, 0, 1500, FPS, amount) for amount in (0.0, 0.3, 1.0, 2.0))
    assert still.shape == usual.shape and not still.any()
    for one in (calm, lively):
        assert torch.equal(one[:, BLINK], usual[:, BLINK]) and one[:, BLINK].max() > 1.5
    assert (calm[:, :3].std(dim=0) < 0.4 * usual[:, :3].std(dim=0)).all()
    assert (lively[:, :3].std(dim=0) > 1.4 * usual[:, :3].std(dim=0)).all()


def network(warp_portrait: bool = False, **changes):
    config = PRESETS["tiny"]
    extensions = replace(config.extensions, warp_portrait=warp_portrait, **changes)
    model = random_model(replace(config, extensions=extensions)).eval().requires_grad_(False)
    if "head_motion" in model.unet.extensions:  # untrained, it would say nothing
        last = model.unet.extensions["head_motion"].embedding.linear_2
        torch.nn.init.normal_(last.weight, generator=torch.Generator().manual_seed(0))
    return model


def video(model, **settings) -> torch.Tensor:
    settings = SamplerSettings(seed=5, steps=1, guidance_scale=1.0, context_frames=0, **settings)
    chunks = rollout(
        model, Conditions(Identity(np.zeros(128, np.float32), np.zeros((64, 64, 3), np.uint8)), frames=32), settings
    )
    return torch.cat([chunk.latents for chunk in chunks], dim=2)


def test_every_frame_of_a_video_is_told_its_own_motion(monkeypatch):
    """Chunk after chunk, and at the amount that was asked for"""
    model, told = network(), []
    extension = model.unet.extensions["head_motion"]
    real = extension.prepare
    extension.prepare = lambda motion: told.append(motion[0]) or real(motion)
    still, usual = video(model, head_motion=0.0), video(model)
    torch.testing.assert_close(torch.cat(told[:2]), random_head_motion(5, 0, 32, FPS, 0.0))
    torch.testing.assert_close(torch.cat(told[2:]), random_head_motion(5, 0, 32, FPS))
    assert len(told) == 4 and not torch.allclose(still, usual, atol=1e-2)


def test_a_network_that_is_not_told_has_no_such_weights_and_does_not_mind_the_setting():
    model = network(head_motion_channels=0)
    assert not [name for name in model.state_dict() if "head_motion" in name]
    assert torch.equal(video(model, head_motion=0.0), video(model, head_motion=2.0))


def test_the_guidance_s_null_is_not_told():
    from starcaster_core.sampling.rollout import cache_branches, cache_subject

    model, conditions = network(), Conditions(Identity(np.zeros(128, np.float32)), frames=16)
    settings = SamplerSettings(guidance_scale=3.0)
    branches = cache_branches(model, conditions, settings, cache_subject(model, conditions, settings), None, 0)
    assert ["head_motion" in branch.condition.extensions for branch in branches] == [False, True]


def test_a_checkpoint_that_was_not_told_goes_on_from_where_it_was(tmp_path):
    """`train --init` gives it the weights, which say nothing yet."""
    from starcaster_core.models.checkpoint import save_checkpoint
    from starcaster_core.training.portrait import begun_model
    from starcaster_core.training.recipes import RECIPES

    before = network(head_motion_channels=0)
    assert not before.config.extensions.warp_portrait
    save_checkpoint(tmp_path / "before.safetensors", before, {}, dtype=torch.float32)
    begun = begun_model(str(tmp_path / "before.safetensors"), RECIPES["mini"][-1:])
    assert begun.config.extensions.head_motion_channels == len(CHANNELS) and begun.config.extensions.warp_portrait
    before.config = replace(before.config, extensions=replace(before.config.extensions, warp_portrait=True))
    torch.testing.assert_close(video(begun.float()), video(before), rtol=1e-4, atol=1e-4)


def test_a_made_up_portrait_s_own_pose_is_not_turned_again(monkeypatch):
    """Identity-only: from the second chunk on the first frame is the portrait, turned and seen as it is."""
    model, asked = network(warp_portrait=True), []
    path = CameraPath(world_from_cam(np.linspace(10, 20, 32), np.zeros(32)), intrinsics(32))
    module = sys.modules[rollout.__module__]
    real = module.prepare_chunk
    monkeypatch.setattr(module, "prepare_chunk", lambda *given: asked.append(given[1:]) or real(*given))
    conditions = Conditions(Identity(np.zeros(128, np.float32)), camera=path)
    first, _ = rollout(model, conditions, SamplerSettings(seed=5, steps=1, guidance_scale=1.0, context_frames=0))
    (before, _), (reference, pose) = asked
    assert before.picture is None
    torch.testing.assert_close(reference.picture, open_reference(model, first.latents[:, :, :1]).picture)
    motion = random_head_motion(5, 0, 32, FPS)
    relative = pose.relative_to(reference).head_motion[0]
    torch.testing.assert_close(relative[:, :3], motion[16:, :3] - motion[0, :3])
    torch.testing.assert_close(relative[:, 3:], motion[16:, 3:])
    assert torch.equal(reference.camera[0], torch.from_numpy(path.vectors()[0]))
    assert torch.equal(pose.camera[0], torch.from_numpy(path.vectors()[16:]))


def syllables(seconds: float, fps: float = FPS) -> np.ndarray:
    """Loudness of a voice: four syllables a second, every third stressed, and half a second of pause every two seconds."""
    t = (np.arange(round(seconds * fps)) + 0.5) / fps
    stress = np.where(np.floor(4 * t) % 3 == 0, 1.0, 0.45)
    return stress * np.sin(np.pi * (4 * t % 1)) ** 2 * (t % 2 < 1.5)


def test_nods_and_brows_follow_a_voice_and_chance_remains():
    loudness = syllables(20)
    pitch, brows = CHANNELS.index("pitch"), CHANNELS.index("brows")
    motions = [random_head_motion(seed, 0, 500, FPS, loudness=loudness).numpy() for seed in range(6)]
    by_chance = [random_head_motion(seed, 0, 500, FPS).numpy() for seed in range(6)]

    def follows(one, channel):
        return np.corrcoef(loudness, one[:, channel])[0, 1]

    assert np.mean([-follows(one, pitch) for one in motions]) > 0.3
    assert np.mean([follows(one, brows) for one in motions]) > 0.3
    assert abs(np.mean([follows(one, pitch) for one in by_chance])) < 0.15
    assert np.abs(np.corrcoef(motions[0][:, 0], motions[1][:, 0])[0, 1]) < 0.9
    ratio = np.std(motions, axis=1)[:, :3].mean(axis=0) / np.std(by_chance, axis=1)[:, :3].mean(axis=0)
    assert (ratio > 0.7).all() and (ratio < 1.4).all()
    assert np.abs(np.diff(motions, axis=1)[..., pitch]).max() < 0.6  # no jerks


def test_pauses_blink_and_a_stretch_of_a_voice_is_the_same_by_itself():
    loudness = syllables(40)
    whole = random_head_motion(3, 0, 1000, FPS, loudness=loudness)
    for start in (0, 16, 480, 984):
        torch.testing.assert_close(random_head_motion(3, start, 16, FPS, loudness=loudness), whole[start : start + 16])
    shut = np.flatnonzero(whole[:, BLINK] > 1.5) / FPS
    in_pauses = (shut % 2 > 1.5) | (shut % 2 < 0.1)
    assert in_pauses.mean() > 0.5  # by chance 0.3
    after = random_head_motion(3, 1000, 100, FPS, loudness=loudness)  # silence follows the speech
    assert after.isfinite().all() and after[:, 0].std() > 0
