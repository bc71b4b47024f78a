"""The whole: a tiny random model on tiny clips, all metrics, the command and its files."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from starcaster_core import cli
from starcaster_core.data.shards import Clip, shard_path, write_shard
from starcaster_core.data.truth import true_readings
from starcaster_core.errors import CheckpointError, InputError
from starcaster_core.evaluation import identity, lip_landmarks, videos
from starcaster_core.evaluation.evaluate import ADVICE, EvaluationSettings, evaluate_model, negatives
from starcaster_core.evaluation.instruments import Instruments, load_instruments
from starcaster_core.evaluation.public import FILES
from starcaster_core.evaluation.videos import VERSIONS, EvaluatedClip, choose_clips, generate_videos
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.judges.probe import Probe, save_probe
from starcaster_core.models.judges.syncnet import SyncNetConfig, new_syncnet, save_syncnet
from starcaster_core.models.lipreader import save_lipreader
from starcaster_core.sampling.settings import SamplerSettings
from starcaster_core.training.lipreader import new_reader

METRICS_OF = {
    "temporal": {"sync", "lips", "lip_landmarks", "identity", "motion"},
    "spatial": {"identity", "view", "reconstruction"},
    "joint": {"sync", "lips", "lip_landmarks", "identity", "view", "motion"},
}


@pytest.fixture
def folder(tmp_path, make_clip):
    """Two held-out clips of each kind, and one of a training person"""
    kinds = ("temporal", "spatial", "joint")
    clips = [make_clip(kind, number + 2 * k) for k, kind in enumerate(kinds) for number in range(2)]
    write_shard(shard_path(tmp_path, 0), [*clips, make_clip("spatial", 9, split="train")])
    return tmp_path


@pytest.fixture
def seen_faces(monkeypatch):
    """No network would see a face in these pictures: dlib reads their mean colour, the landmarker lips as far apart as
    dark"""
    monkeypatch.setattr(identity, "embed_picture", lambda picture: np.resize(picture.mean(axis=(0, 1)) / 255, 128))

    def faces(frames):
        for frame in frames:
            points = np.zeros((478, 3))
            points[13, 1] = frame.mean() / 20
            yield SimpleNamespace(points=points)

    monkeypatch.setattr(lip_landmarks, "follow_landmarks", faces)


@pytest.fixture
def instruments():
    torch.manual_seed(0)
    return Instruments(
        Probe().eval(), new_reader(0).eval(), new_syncnet(0, SyncNetConfig(widths=(8, 8, 8))).eval(), True, True
    )


def test_every_family_of_every_kind_with_its_range(folder, seen_faces, instruments):
    model, clips = load_checkpoint("tiny"), choose_clips([folder], 2)
    sampler = SamplerSettings.of(model.config, steps=1, guidance_scale=1.0)
    results = evaluate_model(model, clips, instruments, EvaluationSettings(sampler, drift_seconds=1.3))
    assert results == json.loads(json.dumps(results, allow_nan=False))
    for kind, metrics in METRICS_OF.items():
        assert set(results[kind]) == metrics
        for metric, table in results[kind].items():
            for figure, versions in table.items():
                assert set(versions) == {*VERSIONS, "wrong"}, (metric, figure)
                assert versions["generated"]["clips"] == 2
    truth = results["spatial"]["reconstruction"]["psnr"]
    assert truth["truth"]["mean"] == 60 and truth["generated"]["mean"] < 40
    assert results["temporal"]["motion"]["lip_std"]["still"]["mean"] == pytest.approx(0, abs=1e-6)
    assert results["temporal"]["motion"]["lip_std"]["wrong"] is None
    assert set(results["frechet"]) == {"frames", "lips", "faces"}
    assert set(results["examples"]["joint"][0]["curves"]) == {"sync", "lips", "lip_landmarks", "view"}
    assert (
        results["clips"] == {"temporal": 2, "spatial": 2, "joint": 2} and results["people"] == results["gallery"] == 6
    )
    assert results["drift"]["seconds"] == pytest.approx(1.28)
    assert set(results["missing"]) == set(FILES)


def test_each_clip_is_generated_once_and_the_same_again(folder):
    model, clips = load_checkpoint("tiny"), choose_clips([folder], 1)[:1]
    sampler, told = SamplerSettings.of(model.config, steps=1), []
    (evaluated,) = generate_videos(model, clips, sampler, told.append)
    assert set(evaluated.videos) == set(VERSIONS) and len(told) == 1
    assert all(v.shape == (32, 64, 64, 3) and v.dtype == torch.uint8 for v in evaluated.videos.values())
    assert torch.equal(evaluated.videos["truth"], torch.from_numpy(clips[0].frames))
    assert (evaluated.videos["still"] == evaluated.videos["still"][0]).all()
    again = generate_videos(model, clips, sampler)[0]
    assert all(torch.equal(again.videos[name], evaluated.videos[name]) for name in VERSIONS)


def test_no_two_heads_move_alike_and_those_of_frozen_instants_do_not_move(folder, monkeypatch):
    model, asked = load_checkpoint("tiny"), []
    nothing = torch.zeros(32, 64, 64, 3, dtype=torch.uint8)
    monkeypatch.setattr(videos, "generate_video", lambda _, conditions, sampler: asked.append(sampler) or nothing)
    generate_videos(model, choose_clips([folder], 2), SamplerSettings.of(model.config, seed=7, head_motion=0.5))
    assert [settings.seed for settings in asked] == [7, 8, 9, 10, 11, 12]
    assert [settings.head_motion for settings in asked] == [0.5, 0.5, 0, 0, 0.5, 0.5]  # temporal, spatial, joint


def test_what_cannot_be_read_is_left_out_and_named(folder, make_clip):
    model = load_checkpoint("tiny")
    settings = EvaluationSettings(SamplerSettings.of(model.config, steps=1))
    results = evaluate_model(model, [make_clip("spatial")], Instruments(), settings)
    assert set(results["spatial"]) == {"reconstruction"} and "temporal" not in results and results["frechet"] == {}
    assert set(ADVICE) <= set(results["missing"]) and "--syncnet" in results["missing"]["sync"]
    assert results["spatial"]["reconstruction"]["psnr"]["wrong"] is None  # there is no other clip


def test_a_portrait_from_the_side_has_the_yaw_that_an_identity_would_have(make_clip, monkeypatch):
    model, clip = load_checkpoint("tiny"), make_clip("joint")
    monkeypatch.setattr(videos, "find_landmarks", lambda picture: SimpleNamespace(pose=SimpleNamespace(yaw=21.0)))
    assert videos.conditions_of(model, clip).identity.yaw == 21
    assert videos.conditions_of(model, make_clip("temporal")).identity.yaw == 0  # no camera is given
    monkeypatch.setattr(videos, "find_landmarks", lambda picture: None)
    assert videos.conditions_of(model, clip).identity.yaw == 0


def test_a_wrong_person_is_never_the_same_person(make_clip):
    clips = [make_clip(number=1), replace(make_clip(number=2), info=make_clip(number=1).info)]
    assert negatives(identity, [EvaluatedClip(clip, {}) for clip in clips]) == [None, None]


def test_held_out_people_come_first_and_training_clips_only_if_asked_for(folder):
    assert [clip.info["split"] for clip in choose_clips([folder], 5)] == ["test"] * 6
    assert [clip.key for clip in choose_clips([folder], 5, ("train",))] == ["0009"]
    assert len(choose_clips([folder], 1)) == 3
    with pytest.raises(InputError, match="val people"):
        choose_clips([folder], 5, ("val",))


def test_real_videos_have_no_truth_to_measure_against(tmp_path, make_clip):
    clip = make_clip()
    truth = {name: clip.truth[name] for name in ("landmarks", "mouth_box", "embedding")}
    write_shard(shard_path(tmp_path, 0), [replace(clip, truth=truth)])
    with pytest.raises(InputError, match="real video"):
        choose_clips([tmp_path], 1)


def test_the_command_writes_figures_a_sheet_and_a_page(folder, tmp_path, seen_faces, instruments, monkeypatch):
    save_probe(tmp_path / "p.safetensors", instruments.probe, {})
    save_lipreader(tmp_path / "l.safetensors", instruments.lipreader, {"minutes": 1})
    save_syncnet(tmp_path / "s.safetensors", instruments.syncnet, {"minutes": 2})
    out, page, sheet = tmp_path / "f.json", tmp_path / "r.html", tmp_path / "s.png"
    words = f"evaluate --model tiny --data {folder} --clips 1 --steps 1 --guidance-scale 1 --split held-out --seed 3"
    words += (
        f" --probe {tmp_path}/p.safetensors --lipreader {tmp_path}/l.safetensors --syncnet {tmp_path}/s.safetensors"
    )
    words += f" --out {out} --report {page} --sheet {sheet}"
    monkeypatch.setattr("sys.argv", ["starcaster", *words.split()])
    assert cli.main() == 0
    results = json.loads(out.read_text())
    assert results["settings"]["seed"] == 3 and results["settings"]["steps"] == 1
    assert results["instruments"]["syncnet"] == {"file": "s.safetensors", "facts": {"minutes": 2}}
    assert results["command"].startswith("python -m starcaster_core evaluate --model tiny")
    assert results["gallery"] == 6  # everybody held out, not just the three who were measured
    assert sheet.stat().st_size > 1000 and "data:image/jpeg" in page.read_text()


def test_a_wrong_instrument_is_refused(tmp_path):
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    for arguments in ({"probe": tmp_path / "other.safetensors"}, {"syncnet": tmp_path / "missing.safetensors"}):
        with pytest.raises(CheckpointError, match=next(iter(arguments.values())).name):
            load_instruments(**arguments)


def test_a_moved_camera_and_a_turned_head_are_read_alike():
    def turn(degrees):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        return np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]])

    poses = np.repeat(np.eye(4)[None], 3, axis=0)
    poses[:, :3, 3] = [[2.7 * np.sin(np.radians(30)), 0, 2.7 * np.cos(np.radians(30))], [0, 0, 2.7], [0, 0, 2.7]]
    landmarks = np.zeros((3, 4, 2))
    landmarks[:, 1:, 1] = 4.0, -20.0, 20.0
    clip = Clip(
        "k",
        {"landmark_names": ["upper_lip_bottom", "lower_lip_top", "nose_bridge", "chin"], "size": 128},
        np.zeros((3, 128, 128, 3), np.uint8),
        None,
        {
            "landmarks": landmarks,
            "world_from_cam": poses,
            # The head turned to its own left by 30 degrees is seen as by a camera 30 degrees to its right.
            "head_rotation": np.stack([np.eye(3), np.eye(3), turn(30)]),
        },
    )
    readings = true_readings(clip)
    np.testing.assert_allclose(readings[:, 1], [30, 0, -30], atol=1e-4)
    np.testing.assert_allclose(readings[:, 0], 4 / 128, atol=1e-6)
