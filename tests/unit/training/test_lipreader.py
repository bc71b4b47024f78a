"""The lip reader: labels on time, spoilt crops that are still the same mouth, learning, files, gradients for a loss."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from starcaster_core.data.shards import Clip, shard_path, write_shard
from starcaster_core.errors import CheckpointError, InputError
from starcaster_core.models.frozen import facts_of
from starcaster_core.models.lipreader import load_lipreader, save_lipreader
from starcaster_core.models.mouth import SIDE, mouth_crops
from starcaster_core.training import lipreader as training
from starcaster_core.training.mouths import (
    REST,
    VISEMES,
    WIDE,
    Mouths,
    augment,
    centre_crops,
    draw_crops,
    load_mouths,
    viseme_track,
)

FRAMES = 20


def clip(number: int, split: str = "train", phonemes=()) -> Clip:
    """A dark mouth that opens and shuts on a grey face, 128 pixels a side"""
    opening = np.rint(4 + 4 * np.sin(np.arange(FRAMES) * (0.7 + 0.1 * number))).astype(int)
    frames = np.full((FRAMES, 128, 128, 3), 160, np.uint8)
    landmarks = np.zeros((FRAMES, 4, 2), np.float32)
    for frame, gap in zip(frames, opening):
        frame[90 : 90 + gap, 52:76] = 30
    landmarks[:, 0] = [64, 90]
    landmarks[:, 1] = np.stack([np.full(FRAMES, 64), 90 + opening], axis=1)
    landmarks[:, 2:] = [64, 50], [64, 120]
    info = {
        "split": split,
        "kind": "temporal",
        "fps": 25.0,
        "size": 128,
        "phonemes": list(phonemes),
        "landmark_names": ["upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin"],
    }
    truth = {"landmarks": landmarks, "mouth_box": np.tile(np.array([44, 80, 84, 104], np.float32), (FRAMES, 1))}
    audio = np.random.default_rng(number).normal(size=FRAMES * 640).astype(np.float32) * 0.1
    return Clip(f"{number:04d}", info, frames, audio, truth)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    spoken = [[0.0, 0.3, "A:"], [0.3, 0.8, "m"]]
    write_shard(shard_path(folder, 0), [clip(n, split, spoken) for n, split in enumerate(["train", "train", "test"])])
    return folder


def gaps(count: int, seed: int) -> Mouths:
    """Visemes 0, 1 and 2 are bars 0, 6 and 12 pixels high; another one every four frames"""
    rng = np.random.default_rng(seed)
    visemes = torch.from_numpy(rng.integers(0, 3, (count, FRAMES // 4)).repeat(4, axis=1))
    crops = torch.full((count, FRAMES, WIDE, WIDE), 160, dtype=torch.uint8)
    for which in (1, 2):
        chosen = crops[visemes == which]
        chosen[:, 28 - 3 * which : 28 + 3 * which, 18:38] = 30
        crops[visemes == which] = chosen
    return Mouths(crops, crops, visemes, visemes * 6 / SIDE, torch.zeros(count, FRAMES * 640))


def test_visemes_are_those_heard_at_the_frames_centres():
    said = clip(0, phonemes=[[0.0, 0.10, "p"], [0.10, 0.42, "aI"], [0.5, 0.8, "s"]])
    track = [VISEMES[k] for k in viseme_track(said)]
    # Centres at 0.02, 0.06, 0.10 ...; the diphthong's second half begins at 0.26; nothing is said from 0.42 to 0.5.
    assert track == ["closed"] * 2 + ["aa"] * 4 + ["ih"] * 4 + ["rest"] * 2 + ["hiss"] * 8
    assert VISEMES[REST] == "rest"


def test_loaded_mouths_are_what_the_crops_of_the_frames_are(shards):
    mouths = load_mouths([shards], ("train",))
    assert len(mouths) == 2 and torch.equal(mouths.decoded, mouths.crops)
    frames = torch.from_numpy(clip(1).frames).permute(0, 3, 1, 2)[None] / 255
    boxes = torch.tensor([44, 80, 84, 104]).expand(1, FRAMES, 4) / 128
    error = (centre_crops(mouths.crops[1:]) - mouth_crops(frames, boxes)).abs()
    assert error.mean() < 0.005 and error.max() < 0.2  # the video's loss, most at the mouth's edges
    # The box is 40 pixels wide, and so is the crop: a gap of 8 pixels is a fifth of it.
    truth = clip(1).truth["landmarks"]
    np.testing.assert_allclose(mouths.opening[1], (truth[:, 1, 1] - truth[:, 0, 1]) / 40, atol=1e-6)
    with pytest.raises(InputError, match="synth"):
        load_mouths([shards], ("val",))


def test_clips_that_cannot_be_read_are_left_out_and_recorded(tmp_path):
    real = clip(1)
    real = replace(real, key="real", info=real.info | {"landmark_names": ["nose_base"]})
    write_shard(shard_path(tmp_path, 0), [clip(0), real])
    shard_path(tmp_path, 1).write_bytes(b"no shard")
    left_out: dict[str, str] = {}
    assert len(load_mouths([tmp_path], ("train",), left_out=left_out)) == 1
    assert [reason[:8] for reason in left_out.values()] == ["no landm", "Wanted a"]


def test_spoilt_crops_repeat_and_say_their_scale():
    disc = torch.zeros(8, 2, WIDE, WIDE, dtype=torch.uint8)
    rows, columns = np.mgrid[:WIDE, :WIDE]
    disc[:, :, torch.from_numpy(np.hypot(rows - 27.5, columns - 27.5) < 10)] = 255
    first, second = (augment(disc, torch.Generator().manual_seed(5)) for _ in range(2))
    assert torch.equal(first[0], second[0]) and first[0].shape == (8, 2, SIDE, SIDE)
    assert first[0].min() >= 0 and first[0].max() <= 1
    for crop, scale in zip(first[0][:, 0], first[1]):
        inside = (crop > (crop.max() + crop.min()) / 2).sum().sqrt() / (np.pi**0.5 * 10)
        assert abs(inside * scale - 1) < 0.08
    assert first[1].std() > 0.02


def test_a_stretch_begins_where_it_was_asked_to():
    mouths = gaps(3, 0)
    mouths.crops[:] = torch.arange(FRAMES)[None, :, None, None] * 10
    mouths.decoded = mouths.crops
    crops, _ = draw_crops(mouths, torch.tensor([2, 0]), torch.tensor([0, 9]), 6, torch.Generator().manual_seed(0))
    steps = crops.mean(dim=(2, 3))
    assert (steps[:, 1:] > steps[:, :-1]).all() and (steps[1] > steps[0]).all()


@pytest.fixture(scope="module")
def reader():
    """One that has learned to read bars, frozen"""
    reader, mouths = training.new_reader(0), gaps(12, 0)
    optimizer = torch.optim.AdamW(reader.parameters(), lr=1.5e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CLIPS", 4)
        patch.setattr(training, "FRAMES", 12)
        for step in range(60):
            loss, _ = training.step_loss(reader, mouths, training.step_generator(0, "test", step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
            optimizer.step()
    return reader.eval().requires_grad_(False)


def test_it_learns_to_read_and_not_from_another_mouth(reader):
    new = gaps(10, 1)
    found = training.figures(reader, new, new.crops)
    assert found["all"] > 0.8 > 0.6 > found["all_of_another_mouth"]
    assert found["speech"] > 0.8 and found["opening"] > 0.9 > abs(found["opening_of_another_mouth"])
    assert 0.3 < found["all_chance"] < 0.5 < found["speech_chance"] < 0.7


def test_a_loss_on_the_features_moves_the_frames_towards_the_truth(reader):
    truth = torch.from_numpy(clip(0).frames).permute(0, 3, 1, 2)[None] / 255
    boxes = torch.tensor([44, 80, 84, 104]).expand(1, FRAMES, 4) / 128
    meant = reader.features(truth, boxes)
    torch.testing.assert_close(meant.square().mean(dim=-1), torch.ones(1, FRAMES), atol=1e-3, rtol=0)

    predicted = (truth[:, :1].expand_as(truth)).clone().requires_grad_()
    losses = []
    for _ in range(8):
        loss = (reader.features(predicted, boxes) - meant).square().mean()
        losses.append(loss.item())
        (gradient,) = torch.autograd.grad(loss, predicted)
        predicted = (predicted - 0.02 * gradient / gradient.abs().amax()).detach().requires_grad_()
    assert torch.isfinite(gradient).all() and losses[-1] < 0.9 * losses[0]


def test_what_is_read_does_not_depend_on_the_clips_beside_it():
    reader = training.new_reader(0).eval()
    crops = centre_crops(gaps(3, 0).crops)
    torch.testing.assert_close(reader(crops).features[1:2], reader(crops[1:2]).features, atol=1e-4, rtol=1e-3)


def test_a_saved_reader_is_the_same_again(tmp_path):
    reader = training.new_reader(3).eval()
    save_lipreader(tmp_path / "lips.safetensors", reader, {"seed": 3})
    again = load_lipreader(tmp_path / "lips.safetensors")
    crops = centre_crops(gaps(2, 0).crops)
    assert all(torch.equal(a, b) for a, b in zip(reader(crops), again(crops)))
    assert again.config.visemes == VISEMES and facts_of(tmp_path / "lips.safetensors") == {"seed": 3}
    assert not any(parameter.requires_grad for parameter in again.parameters())


def test_other_files_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="no file"):
        load_lipreader(tmp_path / "none.safetensors")
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    with pytest.raises(CheckpointError, match="torn.safetensors.*cannot be read"):
        load_lipreader(tmp_path / "torn.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {"syncnet": "{}"})
    with pytest.raises(CheckpointError, match="syncnet"):
        load_lipreader(tmp_path / "other.safetensors")
    save_file({"weight": torch.zeros(2)}, tmp_path / "odd.safetensors", {"lip reader": '{"visemes": ["rest"]}'})
    with pytest.raises(CheckpointError, match="odd.safetensors"):
        load_lipreader(tmp_path / "odd.safetensors")


def test_a_run_leaves_a_reader_and_what_was_measured(tmp_path, shards, monkeypatch):
    monkeypatch.setattr(training, "CLIPS", 2)
    out = tmp_path / "lipreader.safetensors"
    state = torch.get_rng_state()
    measured = training.run([shards], out, minutes=0.01, seed=1)
    assert torch.equal(torch.get_rng_state(), state)  # the global generator is left alone
    facts = facts_of(out)
    assert facts["held_out"] == measured and facts["seed"] == 1 and facts["clips"] == 2
    assert measured["rendered"]["clips"] == 1
    load_lipreader(out)
