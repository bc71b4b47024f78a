"""SyncNet: windows that hear just what they show, delays found with the right sign, learning, files, the command."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from starcaster_core.data.shards import Clip, shard_path, write_shard
from starcaster_core.errors import CheckpointError, InputError
from starcaster_core.evaluation import syncnet as testing
from starcaster_core.models.frozen import facts_of, save_frozen
from starcaster_core.models.judges import syncnet
from starcaster_core.models.judges.syncnet import MAX_OFFSET, SyncNetConfig, synchrony
from starcaster_core.models.mouth import SIDE
from starcaster_core.speech.spectrum import FRAME_SAMPLES, MELS, MELS_PER_FRAME
from starcaster_core.training import syncnet as training
from starcaster_core.training.mouths import WIDE, Mouths
from starcaster_core.training.syncnet import auc, contrastive_loss, delayed

FRAMES = 50


def loudness(frames: int, seed: int) -> np.ndarray:
    """[T] in 0..1, another value every two frames"""
    return np.random.default_rng(seed).random(-(-frames // 2)).repeat(2)[:frames].astype(np.float32)


def noise(loud: np.ndarray, seed: int) -> np.ndarray:
    rng = np.random.default_rng([seed, 1])
    return (0.3 * loud**2).repeat(FRAME_SAMPLES) * rng.standard_normal(len(loud) * FRAME_SAMPLES, np.float32)


def mouths(count: int, seed: int) -> Mouths:
    """A dark mouth opens as far as the noise is loud."""
    loud = np.stack([loudness(FRAMES, 1000 * seed + n) for n in range(count)])
    rows = np.abs(np.arange(WIDE) - WIDE / 2 + 0.5)
    open_rows = rows < 1 + 10 * loud[..., None]
    crops = np.full((count, FRAMES, WIDE, WIDE), 160, np.uint8)
    crops[..., 18:38] = np.where(open_rows, 30, 160)[..., None]
    crops = torch.from_numpy(crops)
    sound = torch.from_numpy(np.stack([noise(row, n) for n, row in enumerate(loud)]))
    nothing = torch.zeros(count, FRAMES)
    return Mouths(crops, crops, nothing.long(), nothing, sound)


def track(windows: int, seed: int = 0) -> torch.Tensor:
    """Embeddings [W, E] that change slowly, as those of speech do"""
    steps = torch.randn(windows + 4, 16, generator=torch.Generator().manual_seed(seed))
    return F.normalize(steps.unfold(0, 5, 1).mean(dim=-1), dim=-1)


@pytest.mark.parametrize("late", [-15, -8, -1, 0, 3, 15])
def test_an_imposed_delay_is_found_in_hand_made_embeddings(late):
    world = track(100)
    heard = world[20:66]
    seen = F.normalize(world[20 - late : 66 - late] + 0.1 * torch.randn(46, 16, generator=torch.Generator()), dim=-1)
    found = synchrony(seen, heard)
    assert found.offset == late and len(found.distances) == 2 * MAX_OFFSET + 1
    assert found.distance == min(found.distances) == found.distances[late + MAX_OFFSET] < 0.6
    assert found.confidence == pytest.approx(np.median(found.distances) - found.distance, abs=1e-6) and (
        found.confidence > 0.5
    )


def test_two_clips_that_have_nothing_in_common_are_far_apart_at_all_offsets():
    found = synchrony(track(46, 1), track(46, 2))
    assert found.confidence < 0.3 < 1 < found.distance


def test_a_delayed_clip_is_cut_to_what_both_have():
    for late in (-8, 0, 5):
        seen, heard = delayed(track(46), track(46), late)
        assert seen.shape == heard.shape == (46 - abs(late), 16)
        assert synchrony(seen, heard).offset == late


def test_too_short_a_clip_is_refused():
    with pytest.raises(InputError, match="25 windows.*24"):
        synchrony(track(24), track(24))
    synchrony(track(25), track(25))
    net = syncnet.new_syncnet(0)
    with pytest.raises(InputError):
        net.measure(torch.zeros(20, 64, 64, 3), torch.tensor([0.2, 0.2, 0.8, 0.8]).expand(20, 4), torch.zeros(0))


@pytest.mark.parametrize("window", [3, 5, 7])
def test_a_window_sees_and_hears_its_own_frames_and_no_others(window):
    net = syncnet.new_syncnet(0, SyncNetConfig(window=window)).eval()
    generator = torch.Generator().manual_seed(0)
    crops = torch.rand(1, 20, SIDE, SIDE, generator=generator)
    spectra = torch.randn(1, MELS, 20 * MELS_PER_FRAME, generator=generator)
    other_crops, other_spectra = crops.clone(), spectra.clone()
    other_crops[:, 9] = 0
    other_spectra[..., 9 * MELS_PER_FRAME : 10 * MELS_PER_FRAME] = 3
    with torch.no_grad():
        seen = (net.embed_video(crops) - net.embed_video(other_crops)).abs().amax(dim=(0, 2))
        heard = (net.embed_audio(spectra) - net.embed_audio(other_spectra)).abs().amax(dim=(0, 2))
    expected = [9 - window < w <= 9 for w in range(20 - window + 1)]
    assert (seen > 1e-4).tolist() == (heard > 1e-4).tolist() == expected


def test_contrast_is_least_where_windows_find_their_own():
    own, other = track(40, 1).reshape(2, 20, 16), track(40, 2).reshape(2, 20, 16)
    sharp = torch.tensor(3.0)
    assert contrastive_loss(own, own, sharp) < 1 < 3 < contrastive_loss(own, other, sharp)
    assert contrastive_loss(own, own.roll(1, 1), sharp) > contrastive_loss(own, own, sharp)


def test_auc_counts_pairs():
    assert auc([2, 3], [0, 1]) == 1 and auc([0], [1, 2]) == 0 and auc([1, 1], [1]) == 0.5 and auc([0, 2], [1]) == 0.5


@pytest.fixture(scope="module")
def fitted():
    """A net that has seen mouths open with loudness, for some seconds"""
    net, clips = syncnet.new_syncnet(0, SyncNetConfig(widths=(16, 24, 32), audio_width=64)), mouths(8, 0)
    spectra = net.spectra(clips.sound)
    optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "CLIPS", 6)
        patch.setattr(training, "FRAMES", 20)
        for step in range(60):
            loss, _ = training.step_loss(net, clips, spectra, training.step_generator(0, "test", step))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
    return net.eval().requires_grad_(False)


def test_it_learns_that_the_mouth_goes_with_the_sound(fitted):
    clips = mouths(8, 1)
    before = training.figures(syncnet.new_syncnet(0).eval(), clips.crops, clips.sound, range(-4, 5, 4))
    after = training.figures(fitted, clips.crops, clips.sound, range(-4, 5, 4))
    assert after["auc_in_place"] > 0.95 and after["auc_distance"] > 0.9 and after["auc_confidence"] > 0.8
    assert after["delay_within_one_frame"] > 0.9 > 0.5 > before["delay_within_one_frame"]
    assert after["true"]["confidence"] > after["other_sound"]["confidence"]


@pytest.mark.parametrize("late", [-6, 0, 4])
def test_a_late_picture_has_a_positive_offset(fitted, late):
    """From frames and samples to the offset"""
    loud = loudness(70, 77)
    frames = torch.full((FRAMES, 128, 128, 3), 160 / 255)
    for t in range(FRAMES):
        reach = 1 + round(10 * float(loud[10 + t - late]))
        frames[t, 64 - reach : 64 + reach, 54:74] = 30 / 255
    boxes = torch.tensor([44, 44, 84, 84]).expand(FRAMES, 4) / 128
    sound = torch.from_numpy(noise(loud, 5)[10 * FRAME_SAMPLES :])
    assert abs(fitted.measure(frames, boxes, sound).offset - late) <= 1


def test_how_loud_the_recording_is_does_not_matter(fitted):
    sound = mouths(1, 3).sound
    torch.testing.assert_close(fitted.spectra(sound), fitted.spectra(0.1 * sound), atol=0.02, rtol=0)


def test_a_saved_net_is_the_same_again_and_other_files_are_refused(tmp_path, fitted):
    path = tmp_path / "syncnet.safetensors"
    syncnet.save_syncnet(path, fitted, {"seed": 0})
    again, crops = syncnet.load_syncnet(path), torch.rand(1, 12, SIDE, SIDE)
    assert torch.equal(again.embed_video(crops), fitted.embed_video(crops)) and again.config == fitted.config
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors", {"lip reader": "{}"})
    with pytest.raises(CheckpointError, match="other.safetensors.*lip reader"):
        syncnet.load_syncnet(tmp_path / "other.safetensors")


def test_a_file_of_an_earlier_version_still_loads(tmp_path, fitted):
    """Its names for the encoders and their width were others."""
    old = syncnet.SyncNet(fitted.config)
    old.load_state_dict(fitted.state_dict())
    old.seeing, old.hearing = old.video_encoder, old.audio_encoder
    del old.video_encoder, old.audio_encoder
    config = {"window": 5, "widths": [16, 24, 32], "hearing": 64, "embedding": 128}
    save_frozen(tmp_path / "old.safetensors", "syncnet", old, config, {})
    again, crops = syncnet.load_syncnet(tmp_path / "old.safetensors"), torch.rand(1, 12, SIDE, SIDE)
    assert torch.equal(again.embed_video(crops), fitted.embed_video(crops)) and again.config == fitted.config


def clip(number: int, split: str) -> Clip:
    few = mouths(1, 100 + number)
    grey = F.pad(few.crops[0], (36, 36, 36, 36), value=160)
    info = {
        "split": split,
        "kind": "temporal",
        "fps": 25.0,
        "size": 128,
        "phonemes": [],
        "landmark_names": ["upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin"],
    }
    truth = {
        "landmarks": np.zeros((FRAMES, 4, 2), np.float32),
        "mouth_box": np.tile(np.array([44, 44, 84, 84], np.float32), (FRAMES, 1)),
    }
    return Clip(f"{number:04d}", info, grey[..., None].expand(-1, -1, -1, 3).numpy(), few.sound[0].numpy(), truth)


def test_the_commands_train_and_test(tmp_path, monkeypatch):
    monkeypatch.setattr(training, "CLIPS", 2)
    write_shard(shard_path(tmp_path, 0), [clip(n, split) for n, split in enumerate(["train", "train", "val", "test"])])
    file, report = tmp_path / "run" / "syncnet.safetensors", tmp_path / "report.json"
    training.main(f"--data {tmp_path} --minutes 0.01 --seed 2 --out {file}".split())
    assert facts_of(file)["seed"] == 2 and facts_of(file)["clips"] == 2
    testing.main(f"--data {tmp_path} --syncnet {file} --out {report}".split())
    measured = json.loads(report.read_text())
    assert measured["rendered"] == facts_of(file)["held_out"]
    assert set(measured["still_mouth"]) == {"confidence", "distance"}
