"""From clips on disk to a model that can be loaded and sampled from: the recipe, end to end, on two tiny clips."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from starcaster_core.conventions import KINDS
from starcaster_core.data.shards import shard_path, write_shard
from starcaster_core.models.attention_cache import cache_condition
from starcaster_core.models.checkpoint import load_checkpoint, random_model, read_checkpoint, save_checkpoint
from starcaster_core.presets import PRESETS, ExtensionsConfig
from starcaster_core.training import portrait
from starcaster_core.training.diffusion import DenoisingLoss, draw_batch
from starcaster_core.training.gradient_checkpointing import checkpointed_blocks
from starcaster_core.training.grids import decoded, held_out, sample_grid
from starcaster_core.training.latents import ClipSet, encode_shards, load_clips
from starcaster_core.training.loop import LoopSettings
from starcaster_core.training.portrait import (
    begun_model,
    choose_trainable,
    minutes_left,
    train_stage,
    with_clips_at_hand,
    with_extensions,
)
from starcaster_core.training.recipe import Stage, choose_stages
from starcaster_core.training.recipes import RECIPES

FRAMES = 36


@pytest.fixture(scope="module")
def model():
    return random_model(PRESETS["tiny"]).eval().requires_grad_(False)


def encode(folder, model, clip):
    write_shard(shard_path(folder, 0), [clip(0, "temporal"), clip(1, "spatial")])
    assert encode_shards(folder, folder / "latents", model) == 1


def test_clips_are_encoded_once_and_keep_their_kind(tmp_path, model, clip):
    encode(tmp_path, model, clip)
    latents = tmp_path / "latents"
    clips = load_clips(latents)
    assert clips.latents.shape == (2, FRAMES, 16, 8, 8)
    assert clips.speech.shape == (2, FRAMES, 64) and clips.camera.shape == (2, FRAMES, 25)
    assert [KINDS[kind] for kind in clips.kind] == ["temporal", "spatial"]
    torch.testing.assert_close(clips.mouth[0, 0], torch.tensor([0.25, 0.625, 0.75, 0.875]))
    torch.testing.assert_close(clips.eyes[1, 0], torch.tensor([0.345, 0.345, 0.655, 0.405]))
    assert not clips.head_motion.any()  # nobody knows
    assert encode_shards(tmp_path, latents, model) == 0


def test_damaged_and_faceless_clips_are_left_out_and_recorded(tmp_path, model, clip):
    class Finds:
        name = "somebody"

        def detect(self, image):
            return [] if image.mean() < 60 else ["a face"]

        def embed(self, image, face):
            return np.ones(128, np.float32)

    one, other = clip(0, "temporal"), clip(1, "temporal")
    dark = replace(one, frames=np.zeros_like(one.frames), key="dark")
    light = replace(other, frames=np.full_like(other.frames, 200), key="light")
    write_shard(shard_path(tmp_path, 0), [dark, light])
    write_shard(shard_path(tmp_path, 1), [light, light])
    content = shard_path(tmp_path, 1).read_bytes()
    shard_path(tmp_path, 1).write_bytes(content[: len(content) * 2 // 3])
    shard_path(tmp_path, 2).write_bytes(b"no shard")
    latents = tmp_path / "latents"
    encode_shards(tmp_path, latents, model, Finds())
    assert [len(load_file(latents / f"shard-0000{number}.safetensors")["kind"]) for number in (0, 1)] == [1, 1]
    assert not (latents / "shard-00002.safetensors").exists()
    left_out = json.loads((latents / "left_out.json").read_text())
    assert [name.removeprefix(f"{tmp_path}/") for name in left_out] == [
        "shard-00000.tar: dark",
        "shard-00001.tar",
        "shard-00002.tar",
    ]
    assert len(load_clips(latents).kind) == 2


STUDENT = "4-student.safetensors"


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model, clip):
    """(arguments, folder) of a run of the whole recipe, two steps a stage, student included"""
    folder = tmp_path_factory.mktemp("recipe")
    encode(folder, model, clip)
    vae, speech = folder / "vae.safetensors", folder / "speech.safetensors"
    save_file({key: value.contiguous() for key, value in model.vae.state_dict().items()}, vae)
    save_file({key: value.contiguous() for key, value in model.speech_encoder.state_dict().items()}, speech)
    parser = argparse.ArgumentParser()
    portrait.add_arguments(parser)
    parser.set_defaults(recipe="tiny")
    words = f"--latents {folder / 'latents'} --autoencoder {vae} --speech {speech} --steps 12 --out {folder / 'run'}"
    stages = tuple(replace(stage, clips=1, frames=min(stage.frames, 4), share=1.0) for stage in RECIPES["mini"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(portrait, "RECIPES", {"tiny": stages})
        patch.setattr(portrait, "LoopSettings", partial(LoopSettings, save_minutes=0.0))
        arguments = parser.parse_args(f"{words} --threads 1".split())
        portrait.run(arguments)
        yield arguments, folder / "run"


def test_a_recipe_leaves_models_that_can_be_sampled(model, finished):
    arguments, out = finished
    last, student = out / "3-views.safetensors", out / STUDENT
    trained = load_checkpoint(last, torch.float32)
    config, _, made_with = read_checkpoint(last)
    assert config == PRESETS["tiny"] and made_with["clips"] == 2
    assert torch.equal(trained.vae.patch_in.weight, model.vae.patch_in.weight)  # frozen
    assert not torch.equal(trained.unet.conv_in.weight, model.unet.conv_in.weight)

    config, weights, made_with = read_checkpoint(student)
    assert config.sampling_defaults == {"steps": 4, "guidance_scale": 1.0, "guidance_end": 1.0, "scheduler": "lcm"}
    assert made_with["stage"]["student_steps"] == 4 and not torch.equal(
        weights["unet.conv_in.weight"], trained.unet.conv_in.weight
    )
    assert torch.equal(weights["vae.patch_in.weight"], model.vae.patch_in.weight)

    written = {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    portrait.run(arguments)  # all stages are there: nothing is trained again
    assert written == {path.name: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}


def test_a_recipe_interrupted_in_its_last_stage_ends_like_an_uninterrupted_one(tmp_path, finished, monkeypatch):
    arguments, out = finished
    again = tmp_path / "run"
    again.mkdir()
    for path in out.glob("*.safetensors"):
        if path.name != STUDENT:
            (again / path.name).symlink_to(path)
    arguments = argparse.Namespace(**vars(arguments) | {"out": again})

    def stop(*args):
        if (again / "4-student.state.pt").exists():
            raise KeyboardInterrupt
        return draw_batch(*args)

    with monkeypatch.context() as patch:
        patch.setattr(portrait, "draw_batch", stop)
        with pytest.raises(KeyboardInterrupt):
            portrait.run(arguments)
    assert not (again / STUDENT).exists()
    portrait.run(arguments)
    (_, whole, _), (_, resumed, _) = (read_checkpoint(folder / STUDENT) for folder in (out, again))
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())


def test_a_checkpoint_is_noised_as_its_preset_trains_unless_it_only_teaches(tmp_path, model):
    still = random_model(replace(model.config, extensions=replace(model.config.extensions, shared_noise=1.0)))
    save_checkpoint(tmp_path / "still.safetensors", still, {})
    *trained, student, chunks, voices = RECIPES["mini"]
    begin = partial(begun_model, str(tmp_path / "still.safetensors"))
    assert (
        begin(trained).config.extensions.shared_noise
        == begin([*trained, student]).config.extensions.shared_noise
        == begin([chunks]).config.extensions.shared_noise
        == 0.5
    )
    assert begin([student]).config.extensions.shared_noise == begin([voices]).config.extensions.shared_noise == 1.0
    assert begin([student], 0.3).config.extensions.shared_noise == 0.3


def test_a_set_without_joint_clips_is_learned_from_all_the_same_and_it_is_said(tmp_path, model, clip, capsys):
    encode(tmp_path, model, clip)
    clips, (student,) = load_clips(tmp_path / "latents"), choose_stages(RECIPES["mini"], ["4-student"])
    assert {kind for kind, _ in with_clips_at_hand(student, clips).kinds} == {"temporal", "spatial"}
    assert "joint" in capsys.readouterr().out
    clips.kind[0] = KINDS.index("joint")
    assert with_clips_at_hand(student, clips) == student  # no speaking clip either: an error when one is drawn
    assert not capsys.readouterr().out


@torch.no_grad()
def test_without_extensions_the_network_is_the_papers(model):
    """The same weights but for what was added, which says nothing where no portrait is shown and nobody tells of the
    head."""
    added = random_model(model.config).eval()
    assert added.config.extensions == PRESETS["tiny"].extensions and len(added.unet.extensions) == 2
    bare = with_extensions(added, ExtensionsConfig()).eval()
    assert not len(bare.unet.extensions) and not [name for name in bare.state_dict() if "extensions" in name]
    latents = torch.randn(1, 16, 4, 8, 8, generator=torch.Generator().manual_seed(0))

    def asked(one):
        identity = one.unet.cache_identity(one.identity_tokens(torch.ones(1, 128)))
        return one.unet(latents, torch.tensor([500]), cache_condition(identity))

    torch.testing.assert_close(asked(bare), asked(added))


def clips_in_memory(seed: int = 0) -> ClipSet:
    """Two speaking clips and two frozen ones of noise."""
    generator = torch.Generator().manual_seed(seed)
    camera = torch.zeros(4, FRAMES, 25)
    camera[..., 11] = 2.7
    return ClipSet(
        latents=torch.randn(4, FRAMES, 16, 8, 8, generator=generator).half(),
        speech=torch.randn(4, FRAMES, 64, generator=generator).half(),
        camera=camera,
        mouth=torch.tensor([0.25, 0.5, 0.75, 0.75]).expand(4, FRAMES, 4),
        eyes=torch.tensor([0.3, 0.3, 0.7, 0.45]).expand(4, FRAMES, 4),
        head_motion=torch.randn(4, FRAMES, 7, generator=generator),
        embedding=torch.randn(4, 128, generator=generator),
        kind=torch.tensor([0, 1, 0, 1]),
        split=torch.zeros(4, dtype=torch.long),
        identity=torch.arange(4),
    )


SMALL = {"clips": 1, "frames": 4, "context_frames": (2, 3)}


@pytest.mark.parametrize("stage", RECIPES["mini"][2:], ids=lambda stage: stage.name)
def test_an_interrupted_stage_goes_on_to_the_very_bit(tmp_path, stage, monkeypatch):
    stage, clips = replace(stage, **SMALL), clips_in_memory()
    budget = LoopSettings(0, steps=3, save_minutes=0.0)
    monkeypatch.setattr(portrait, "sample_grid", lambda *args, **kwargs: None)

    def trained(folder, stop_at=None):
        model, drawn = random_model(PRESETS["tiny"]), []

        def draw(*args):
            if len(drawn) == stop_at:
                raise KeyboardInterrupt
            drawn.append(args)
            return draw_batch(*args)

        monkeypatch.setattr(portrait, "draw_batch", draw)
        return train_stage(model, clips, stage, budget, folder, seed=3).state_dict()

    whole = trained(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / "parts", stop_at=2)
    resumed = trained(tmp_path / "parts")
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    assert any(
        not torch.equal(tensor, whole[name]) for name, tensor in random_model(PRESETS["tiny"]).state_dict().items()
    )


def test_checkpointed_activations_change_no_gradient():
    stage, clips = replace(RECIPES["mini"][3], **SMALL, reference=1.0, context=1.0), clips_in_memory()
    batch = draw_batch(clips, stage, "train", 2, torch.Generator().manual_seed(0))

    def gradients(enabled):
        model = random_model(PRESETS["tiny"])
        parameters, kept = choose_trainable(model, stage), 0

        def count(tensor):
            nonlocal kept
            kept += tensor.numel()
            return tensor

        with checkpointed_blocks(model.unet, enabled):
            with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
                cost = DenoisingLoss(model, stage)(batch, torch.Generator().manual_seed(1))[0]
            cost.backward()
        assert not any("forward" in vars(module) for module in model.modules())
        return kept, [parameter.grad for parameter in parameters]

    (all_kept, plain), (few_kept, again) = gradients(False), gradients(True)
    assert few_kept < 0.5 * all_kept
    for mine, its in zip(plain, again):
        assert (mine is None) == (its is None)
        if mine is not None:
            torch.testing.assert_close(mine, its, rtol=1e-4, atol=1e-6)


def test_a_grid_shows_truth_above_and_samples_below(tmp_path):
    from PIL import Image

    clips, model = clips_in_memory(), random_model(PRESETS["tiny"]).eval()
    assert held_out(clips, ("temporal", "spatial")) == [0, 1] and held_out(clips, ("temporal",)) == [0, 2]
    sample_grid(model, clips, [2, 1], tmp_path / "grids" / "grid.png")
    with Image.open(tmp_path / "grids" / "grid.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (4 * 64, 8 * 64, 3)
    truth = decoded(model, clips.latents[2, :1])[0]
    assert np.array_equal(pixels[:64, :64], truth) and not np.array_equal(pixels[64:128, :64], truth)


def test_the_minutes_left_are_decided_once(tmp_path, monkeypatch):
    clock = iter([700.0, 9000.0])
    monkeypatch.setattr(portrait.time, "monotonic", lambda: next(clock))
    file = tmp_path / "run" / "minutes.json"
    assert minutes_left(file, 25, begun=100.0) == 15
    assert minutes_left(file, 25, begun=8999.0) == 15, "a resumed run keeps to it"
    assert minutes_left(file, 40, begun=0.0) == 40


SPEAKING = {"kinds": (("temporal", 1.0),), "motion": False, "trainable": ("attn2.audio", "speech_tokens")}
EVERYTHING = {"kinds": (("temporal", 0.5), ("spatial", 0.5))}


@pytest.mark.parametrize(
    "stage, left",
    [
        (SPEAKING, ("lora", "camera", "motion")),
        (EVERYTHING, ()),
        (EVERYTHING | {"kinds": (("temporal", 1.0),)}, ("camera",)),
        (EVERYTHING | {"kinds": (("spatial", 1.0),)}, ("audio",)),
        (EVERYTHING | {"motion": False}, ("motion",)),
        (EVERYTHING | {"adapters": False, "motion": False}, ("lora", "audio", "camera", "motion")),
    ],
)
def test_a_checkpoint_keeps_what_it_was_not_trained_for(tmp_path, model, clip, stage, left):
    """Through training, a file, and another stage that begins with it."""
    encode(tmp_path, model, clip)
    clips = load_clips(tmp_path / "latents")
    student = random_model(PRESETS["tiny"])
    student.untrained = ("lora", "audio", "camera", "motion")
    stage = Stage("a", share=1.0, clips=1, frames=2, **stage)
    trained = train_stage(student, clips, stage, LoopSettings(0, steps=1), tmp_path / "out", seed=0)
    save_checkpoint(tmp_path / "a.safetensors", trained, {"seed": 0})
    assert load_checkpoint(tmp_path / "a.safetensors").untrained == left
    assert begun_model(str(tmp_path / "a.safetensors"), (stage,)).untrained == left


def test_what_is_trained_is_no_longer_untrained(finished):
    _, out = finished
    assert read_checkpoint(out / "3-views.safetensors")[2].get("untrained", []) == []


def test_the_flag_of_micro_batches_has_an_old_name():
    parser = argparse.ArgumentParser()
    portrait.add_arguments(parser)
    for flag in ("--micro-batches", "--parts"):
        assert parser.parse_args(["--out", "x", flag, "4"]).micro_batches == 4
