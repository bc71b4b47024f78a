"""Clips on disk come back as they were, shards are whole or absent, and the same set is the same bytes."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from starcaster_core.data import splits, synth
from starcaster_core.data.heads.kit import find_kit
from starcaster_core.data.shards import (
    Clip,
    encode_video,
    find_shards,
    read_clips,
    read_shard,
    shard_path,
    write_shard,
)
from starcaster_core.errors import InputError, MissingDependencyError

pytest.importorskip("av")
PORTRAIT = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets" / "portrait.png"


def small_clip(number: int, kind: str = "temporal", split: str = "train") -> Clip:
    rng = np.random.default_rng(number)
    ramp = np.linspace(40, 200, 32)
    frames = np.stack([np.add.outer(ramp, ramp) / 2 + 3 * t for t in range(4)])[..., None] * [1, 0.9, 0.8]
    audio = (0.5 * rng.uniform(-1, 1, 2560)).astype(np.float32) if kind == "temporal" else None
    info = {"fps": 25.0, "kind": kind, "split": split, "number": number}
    return Clip(f"0001-{number:06d}", info, frames.astype(np.uint8), audio, {"expression": rng.random((4, 52))})


def test_a_clip_comes_back(tmp_path):
    path, clip = shard_path(tmp_path, 0), small_clip(3)
    write_shard(path, [clip])
    (back,) = read_shard(path)
    assert back.key == clip.key and back.info == clip.info
    np.testing.assert_array_equal(back.truth["expression"], clip.truth["expression"])
    np.testing.assert_allclose(back.audio, clip.audio, atol=1e-4)
    assert back.frames.shape == clip.frames.shape
    assert np.abs(back.frames.astype(int) - clip.frames).mean() < 2


def test_the_same_clips_are_the_same_bytes(tmp_path):
    for name in ("a", "b"):
        write_shard(tmp_path / name, [small_clip(1), small_clip(2, "spatial")])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_same_frames_are_the_same_bytes_whatever_memory_held():
    rng = np.random.default_rng(4)
    with Image.open(PORTRAIT) as picture:
        small = picture.convert("RGB").resize((48, 48))
    frames = np.stack([np.asarray(small.rotate(angle).crop((8, 8, 40, 40))) for angle in (0, 20, -30)])
    made = set()
    for _ in range(100):
        held = [rng.integers(0, 255, rng.integers(10, 2_000_000), dtype=np.uint8) for _ in range(2)]
        made.add(encode_video(frames, 25.0))
        del held
    assert len(made) == 1


def test_clips_are_chosen_by_split_and_kind(tmp_path):
    clips = [small_clip(0), small_clip(1, "spatial"), small_clip(2, split="val"), small_clip(3)]
    write_shard(shard_path(tmp_path, 0), clips[:2])
    write_shard(shard_path(tmp_path, 1), clips[2:])
    assert [c.info["number"] for c in read_clips(tmp_path, video=False)] == [0, 1, 2, 3]
    assert [c.info["number"] for c in read_clips(tmp_path, "train", ("temporal",), video=False)] == [0, 3]
    assert next(read_clips(tmp_path, kinds=("spatial",), video=False)).audio is None


def test_a_writer_that_dies_leaves_no_shard(tmp_path):
    def dying():
        yield small_clip(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shard(shard_path(tmp_path, 0), dying())
    assert find_shards(tmp_path) == []


def test_a_torn_shard_is_named(tmp_path):
    path = shard_path(tmp_path, 0)
    path.write_bytes(b"not a tar" * 100)
    with pytest.raises(InputError, match="shard-00000"):
        list(read_shard(path))


def test_a_set_resumes_without_making_a_shard_twice(tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(synth, "make_clip", lambda settings, n: made.append(n) or small_clip(n))
    settings = synth.Settings(clips=70)
    synth.make_shard(settings, tmp_path, 1)
    stamp = shard_path(tmp_path, 1).stat().st_mtime_ns
    for number in (0, 1, 2):
        synth.make_shard(settings, tmp_path, number)
    assert sorted(made) == list(range(70))
    assert shard_path(tmp_path, 1).stat().st_mtime_ns == stamp
    assert [c.info["number"] for c in read_clips(tmp_path, video=False)] == list(range(70))


def test_a_folder_of_other_settings_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"clips": 3, "size": 64}')
    with pytest.raises(InputError, match="--out"):
        synth.make_set(synth.Settings(clips=3), tmp_path)


def test_a_set_begun_by_an_earlier_version_goes_on(tmp_path, monkeypatch):
    """Its manifest called the fraction of degraded clips "filmed"."""
    monkeypatch.setattr(synth, "load_kit", lambda: None)
    settings = json.loads(json.dumps(asdict(synth.Settings(clips=0))))
    settings["filmed"] = settings.pop("degraded")
    (tmp_path / "manifest.json").write_text(json.dumps(settings))
    synth.make_set(synth.Settings(clips=0), tmp_path)
    with pytest.raises(InputError):
        synth.make_set(synth.Settings(clips=0, degraded=0.1), tmp_path)


def test_kinds_are_read_and_typing_errors_explained():
    assert synth.parse_kinds("temporal:0.6,joint") == (("temporal", 0.6), ("joint", 1.0))
    for wrong in ("sideways:1", "temporal:many"):
        with pytest.raises(InputError, match="temporal"):
            synth.parse_kinds(wrong)


def test_the_splits_share_nobody_and_no_split_is_empty():
    people = [set(splits.members("identity", range(700), s)) for s in splits.SPLITS]
    assert sum(map(len, people)) == 700 and not people[0] & people[1] and all(people)
    assert splits.split_of("voice", "en-us+m3") == splits.split_of("voice", "en-gb+m3")
    for names in (synth.VOICES, synth.SENTENCES):
        kind = "voice" if names is synth.VOICES else "sentence"
        assert all(splits.members(kind, names, s) for s in splits.SPLITS)


def test_camera_paths_stay_in_range_and_are_smooth():
    for seed in range(30):
        path = synth.camera_path(np.random.default_rng(seed), 48)
        centre = path[:, :3, 3]
        radius = np.linalg.norm(centre, axis=1)
        yaw, pitch = np.degrees(np.arctan2(centre[:, 0], centre[:, 2])), np.degrees(np.arcsin(centre[:, 1] / radius))
        assert np.abs(yaw).max() <= 70.01 and np.abs(pitch).max() <= 35.01
        assert radius.min() > 2.4 and radius.max() < 3.0
        assert np.abs(np.diff(yaw)).max() < 16


def test_a_still_camera_stands_as_far_aside_as_asked():
    yaw = [
        np.degrees(np.arctan2(*synth._static_camera(np.random.default_rng(seed), 2, 45.0)[0, [0, 2], 3]))
        for seed in range(40)
    ]
    assert 35 < np.abs(yaw).max() <= 45.01 and np.std(yaw) > 15


@pytest.mark.parametrize("kind", ["temporal", "spatial", "joint"])
def test_a_rendered_clip_is_a_function_of_its_seed(kind):
    make = partial(synth.make_clip, synth.Settings(clips=1, frames=3, size=48, seed=11, kinds=((kind, 1.0),)))
    try:
        one, two = make(4), make(4)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    np.testing.assert_array_equal(one.frames, two.frames)
    assert one.info == two.info and (one.audio is None) == (kind == "spatial")
    for name, value in one.truth.items():
        np.testing.assert_array_equal(value, two.truth[name])
    assert one.frames.shape == (3, 48, 48, 3) and one.frames.std() > 10
    assert one.truth["viseme"].shape == (3,) and (kind != "spatial" or one.truth["phoneme"].max() == 0)
    assert one.truth["landmarks"].shape == (3, len(one.info["landmark_names"]), 2)
    still = np.ptp(one.truth["world_from_cam"], axis=0).max() == 0
    assert still == (kind == "temporal")
    if kind == "spatial":
        assert np.ptp(one.truth["expression"], axis=0).max() == 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_goes_on_to_the_very_bytes_of_an_uninterrupted_one(tmp_path):
    try:
        find_kit()
    except MissingDependencyError as error:
        pytest.skip(str(error))
    clips = synth.CLIPS_A_SHARD + 3

    def start(folder, workers: int) -> subprocess.Popen:
        command = [sys.executable, "-m", "starcaster_core", "synth", "--clips", str(clips), "--frames", "3"]
        command += ["--size", "32", "--seed", "9", "--workers", str(workers), "--out", str(tmp_path / folder)]
        return subprocess.Popen([*command, "--previews", "0"], stdout=subprocess.DEVNULL, start_new_session=True)

    killed = start("killed", 2)
    first = shard_path(tmp_path / "killed", 1)  # the short one: the long one is being written when it appears
    while not first.exists() and killed.poll() is None:
        time.sleep(0.1)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [path.name for path in find_shards(tmp_path / "killed")] == [first.name]
    assert start("killed", 1).wait() == 0 and start("whole", 1).wait() == 0
    for path in find_shards(tmp_path / "whole"):
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes()
    assert len(find_shards(tmp_path / "killed")) == 2
    assert not list((tmp_path / "killed").glob(".shard-*"))
    assert [clip.info["number"] for clip in read_clips(tmp_path / "killed", video=False)] == list(range(clips))


PARENT = """
import multiprocessing, os, time
from concurrent.futures import ProcessPoolExecutor
from starcaster_core.data.synth import leave_with_parent

def work():
    print(os.getpid(), flush=True)
    time.sleep(600)

if __name__ == "__main__":
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context, initializer=leave_with_parent) as pool:
        pool.submit(work).result()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_the_process_that_started_them(tmp_path):
    script = tmp_path / "parent.py"
    script.write_text(PARENT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, str(script)], env=environment, stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    assert is_running(worker)
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def is_running(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False
