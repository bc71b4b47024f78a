"""Training the reference decoder: its pairs, its loss, and that a stopped run goes on as if it had not been."""

from argparse import Namespace
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from starcaster_core.errors import InputError
from starcaster_core.models.checkpoint import find_checkpoint, read_checkpoint
from starcaster_core.models.extensions.portrait_warp import camera_at
from starcaster_core.presets import ReferenceDecoderConfig
from starcaster_core.training import decoder as module
from starcaster_core.training import decoder_batches, decoder_pairs, decoder_stage, portrait
from starcaster_core.training.decoder_pairs import Pair, inverse_flow, read_pair, warp_picture, write_pairs
from starcaster_core.training.loop import LoopSettings
from starcaster_core.training.recipe import DECODER_ABLATIONS

SMALL = ReferenceDecoderConfig(
    feature_widths=(8, 8, 8), hidden=8, appearance=4, fill_width=4, region_width=8, reader_width=4
)


def smooth_picture(seed: int) -> np.ndarray:
    coarse = torch.rand(1, 3, 24, 24, generator=torch.Generator().manual_seed(seed))
    large = F.interpolate(coarse, (512, 512), mode="bicubic").clamp(0, 1)
    return (large[0].permute(1, 2, 0) * 255).byte().numpy()


def made_pair(seed: int = 0, shift: float = 0.03) -> Pair:
    """A frame that is the portrait, shifted to the left."""
    source = smooth_picture(seed)
    flow = torch.zeros(1, 2, 128, 128)
    flow[:, 0] = shift
    target = warp_picture(source, flow)
    drawn = target.reshape(128, 4, 128, 4, 3).mean((1, 3)).astype(np.uint8)
    front = camera_at().numpy()
    regions = np.float32([[0.5, 0.7], [0.4, 0.45], [0.6, 0.45]])
    return Pair(source, target, drawn, flow[0].numpy(), np.ones((128, 128)), regions, np.eye(3), front, front)


@pytest.fixture
def pairs(tmp_path):
    for number in range(3):
        write_pairs(tmp_path / "pairs" / f"scene-{number:05d}.safetensors", [made_pair(number)])
    return tmp_path / "pairs"


def test_pairs_come_back_from_their_file_as_they_were(tmp_path):
    pair = made_pair()
    write_pairs(tmp_path / "a.safetensors", [pair, pair])
    assert decoder_pairs.count_pairs(tmp_path / "a.safetensors") == 2
    again = read_pair(tmp_path / "a.safetensors", 1)
    assert np.abs(again.source.astype(int) - pair.source).mean() < 2  # JPEG
    np.testing.assert_array_equal(again.drawn, pair.drawn)
    np.testing.assert_allclose(again.flow, pair.flow, atol=1e-4)
    np.testing.assert_array_equal(again.visible, pair.visible)


def test_a_warp_and_its_inverse_bring_a_picture_back():
    rng = np.random.default_rng(0)
    flow = 0.02 * decoder_pairs.random_field(rng, 2)
    back, agrees = inverse_flow(flow)
    picture = smooth_picture(1)
    again = warp_picture(warp_picture(picture, flow), back)
    inner = slice(64, -64)
    assert agrees.mean() > 0.9
    before = np.abs(warp_picture(picture, flow)[inner, inner].astype(int) - picture[inner, inner]).mean()
    after = np.abs(again[inner, inner].astype(int) - picture[inner, inner]).mean()
    assert after < 0.25 * before


def test_a_tenth_of_the_photos_is_never_trained_on(tmp_path):
    for number in range(300):
        (tmp_path / f"{number:04d}.jpg").write_bytes(b"")
    train, test = (decoder_pairs.photo_files(tmp_path, split) for split in ("train", "test"))
    assert not set(train) & set(test) and len(train) + len(test) == 300
    assert 15 <= len(test) <= 45
    with pytest.raises(InputError, match="photos"):
        decoder_pairs.photo_files(tmp_path / "empty")


def test_mirroring_a_pair_mirrors_its_flow():
    """The moved portrait of a mirrored pair is the mirrored frame."""
    pair = made_pair()
    batch = decoder_batches.collate([pair])
    mirrored = torch.tensor([True])
    source, flow = (
        decoder_batches.flip(batch.source, mirrored),
        decoder_batches.flip(batch.flow, mirrored, vectors=True),
    )
    from starcaster_core.models.reference_decoder import warp

    inner = (..., slice(64, -64), slice(64, -64))
    difference = warp(source, flow)[inner] - decoder_batches.flip(batch.target, mirrored)[inner]
    assert difference.abs().mean() < 0.02


def test_the_true_flow_costs_nothing_and_only_where_it_is_visible():
    truth = torch.randn(1, 2, 16, 16).repeat_interleave(8, 2).repeat_interleave(8, 3)
    visible = torch.ones(1, 1, 128, 128)
    visible[..., 64:] = 0
    estimate = F.avg_pool2d(truth, 2)
    estimate[..., 32:] += 5
    assert module.flow_error(estimate, truth, visible) < 1e-5
    assert module.flow_error(estimate, truth, torch.ones_like(visible)) > 1


def settings(steps: int) -> LoopSettings:
    return LoopSettings(0, steps=steps, learning_rate=2e-3, warmup=2, log_every=1, show_minutes=999)


def test_a_resumed_run_ends_as_an_uninterrupted_one(pairs, tmp_path):
    torch.set_num_threads(1)
    whole = module.train_decoder(SMALL, pairs, tmp_path / "whole", settings(4), batch=2)
    # The first half as part of four steps: the schedule is that of the whole run.
    stopped = RuntimeError("stopped")

    def stop_after_two(step: float) -> None:
        if step >= 0.5:
            raise stopped

    class Stopping(module.DecoderLoss):
        def __setattr__(self, name, value):
            super().__setattr__(name, value)
            if name == "progress":
                stop_after_two(value)

    real, module.DecoderLoss = module.DecoderLoss, Stopping
    try:
        with pytest.raises(RuntimeError, match="stopped"):
            module.train_decoder(
                SMALL, pairs, tmp_path / "parts", LoopSettings(**{**vars(settings(4)), "save_minutes": 0}), batch=2
            )
    finally:
        module.DecoderLoss = real
    parts = module.train_decoder(SMALL, pairs, tmp_path / "parts", settings(4), batch=2)
    for one, other in zip(whole.parameters(), parts.parameters()):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)


def test_it_learns_where_the_portrait_lies_in_the_frame(pairs, tmp_path):
    """A few steps on shifted portraits: the flow is nearer to the truth than where it began."""
    torch.set_num_threads(1)
    network = module.train_decoder(SMALL, pairs, tmp_path, settings(60), batch=2, without=("discriminator",))
    batch = decoder_batches.collate([made_pair(0)])
    with torch.no_grad():
        photo = network.open_photo(batch.source, batch.source_regions)
        flow = network(batch.drawn, photo, torch.zeros(1, 2, 32, 32), batch.regions).flow
    assert module.flow_error(flow, batch.flow, batch.visible) < 0.85 * 0.015  # half of 0.03, over two axes
    assert (tmp_path / "grids" / "decoder-000060.png").exists()


@pytest.mark.parametrize("part", DECODER_ABLATIONS)
def test_every_part_can_be_left_out(pairs, tmp_path, part):
    write_pairs(pairs / "photo-1-a.safetensors", [made_pair(9)])
    network = module.train_decoder(SMALL, pairs, tmp_path, settings(2), batch=2, without=[part])
    batch = decoder_batches.collate([made_pair(0)])
    with torch.no_grad():
        photo = network.open_photo(batch.source, batch.source_regions)
        flows = [
            network(batch.drawn, photo, geometry, batch.regions).flow
            for geometry in (torch.zeros(1, 2, 32, 32), torch.full((1, 2, 32, 32), 0.1))
        ]
    assert torch.equal(*flows) == (part == "geometry")
    log = (tmp_path / "decoder.csv").read_text().splitlines()
    judged = dict(zip(log[0].split(","), log[-1].split(",")))["discriminator"]
    assert (float(judged) == 0) == (part == "discriminator")


def test_a_part_of_another_stage_cannot_be_left_out(tmp_path):
    for stage, part in ((["decoder"], "lips"), (["1"], "geometry")):
        with pytest.raises(InputError, match=part):
            portrait.run(arguments(stage=stage, without=[part], threads=1, out=tmp_path))


def arguments(**chosen) -> Namespace:
    defaults = dict(
        photos=None,
        videos=None,
        voices=None,
        data=None,
        pairs=None,
        scenes=0,
        init="mini",
        minutes=None,
        steps=1,
        seed=0,
        without=[],
        anew=False,
    )
    return Namespace(**defaults | dict(grid_minutes=10) | chosen)


def test_the_stage_ends_in_the_model_with_a_decoder_and_all_else_unchanged(pairs, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_stage, "CONFIG", SMALL)
    path = decoder_stage.run_decoder_stage(arguments(pairs=pairs, out=tmp_path / "run"))
    config, weights, provenance = read_checkpoint(path)
    _, before, known = read_checkpoint(find_checkpoint("mini"))
    assert config.reference_decoder == SMALL
    others = {name for name in weights if not name.startswith("reference_decoder.")}
    assert others == {name for name in before if not name.startswith("reference_decoder.")}
    assert all(torch.equal(weights[name], before[name]) for name in others), "the rest must not even be rounded"
    assert provenance["last_stage"] == known["last_stage"]
    assert provenance["reference_decoder"]["files_of_pairs"] == {"scene": 3}
    assert provenance["reference_decoder"]["log"]["steps"] == 1


def test_where_lips_become_layers_the_mouth_is_learned_anew_and_all_else_goes_on(pairs, tmp_path):
    begin, layered = module.ReferenceDecoder(SMALL), replace(SMALL, lip_layers=True)
    with torch.no_grad():
        for parameter in begin.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    trained = module.train_decoder(layered, pairs, tmp_path / "run", settings(1), batch=2, begin=begin)
    before, after = begin.state_dict(), trained.state_dict()
    near = {
        name: (after[name] - before[name]).abs().max() < 0.01
        for name in before
        if before[name].shape == after[name].shape
    }
    assert all(near[name] for name in near if not name.startswith("mouth.")) and not near["mouth.out.weight"]
    again = module.kept_weights(trained, layered)
    assert set(again) == set(after)


def test_a_decoder_with_a_wider_reader_is_trained_on(pairs, tmp_path, monkeypatch):
    wide = replace(SMALL, reader_width=6)
    monkeypatch.setattr(decoder_stage, "CONFIG", replace(SMALL, reader_width=4))
    monkeypatch.setattr(decoder_stage, "decoder_of", lambda source: module.ReferenceDecoder(wide))
    path = decoder_stage.run_decoder_stage(arguments(pairs=pairs, out=tmp_path / "run"))
    assert read_checkpoint(path)[0].reference_decoder == wide


def test_a_part_is_left_out_of_a_decoder_that_begins_anew(pairs, tmp_path):
    path = decoder_stage.run_decoder_stage(arguments(pairs=pairs, out=tmp_path / "run", without=["geometry"]))
    config, _, provenance = read_checkpoint(path)
    assert not config.reference_decoder.geometry and not config.reference_decoder.lip_layers
    assert provenance["reference_decoder"]["begun_from"] is None


def test_the_stage_asks_for_folders_that_are_there(tmp_path):
    with pytest.raises(InputError, match="--photos"):
        decoder_stage.run_decoder_stage(arguments(photos=tmp_path / "missing", out=tmp_path))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="pairs"):
        decoder_stage.run_decoder_stage(arguments(pairs=tmp_path / "empty", out=tmp_path))
