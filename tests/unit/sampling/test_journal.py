"""A render goes on where it stopped, bit for bit, whatever stopped it; what is damaged or foreign is never used."""

from __future__ import annotations

import gc
import hashlib
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from kill_renders import kill_renders
from safetensors import safe_open
from safetensors.torch import save_file

from starcaster_core.errors import InputError
from starcaster_core.files import atomic_write, part_beside, sweep_parts
from starcaster_core.locks import FolderLock
from starcaster_core.models.checkpoint import load_checkpoint, random_model
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.execution import Execution
from starcaster_core.sampling.journal import FINISHED, Journal, NoJournal, open_journal
from starcaster_core.sampling.redo import read_redo
from starcaster_core.sampling.render_key import render_key
from starcaster_core.sampling.rollout import rollout
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.types import CameraPath, Identity, Speech

FRAMES = 52  # four chunks, the last of four frames
SETTINGS = SamplerSettings(steps=1, guidance_scale=1.0)
SEVEN = replace(SETTINGS, seed=7)
MB = 2**20


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def model(request):
    return load_checkpoint("tiny", getattr(torch, request.param))


@pytest.fixture(scope="module", params=["with a portrait", "identity only"])
def conditions(request):
    rng = np.random.default_rng(0)
    portrait = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) if request.param == "with a portrait" else None
    identity = Identity(rng.normal(size=128).astype(np.float32), portrait)
    speech = Speech(torch.from_numpy(rng.normal(size=(FRAMES, 64)).astype(np.float32)), FRAMES / 25, "phonetic")
    return Conditions(identity, replace(speech, loudness=rng.random(FRAMES)))


@pytest.fixture(scope="module")
def expected(model, conditions):
    return hashed(rollout(model, conditions, SETTINGS))


def hashed(chunks) -> list[str]:
    return [
        hashlib.sha256(chunk.latents.numpy().tobytes() + chunk.pose.head_motion.numpy().tobytes()).hexdigest()
        for chunk in chunks
    ]


def opened(root, said=None, key: str = "0" * 32, size: int = MB, budget: int = 64 * MB):
    return open_journal(root, key, 4, size, (lambda s: None) if said is None else said.append, budget)


def render(model, conditions, root, said=None, chunks: int | None = None) -> tuple[list[str], int]:
    """Render so many chunks with a journal -> their hashes, the number of network calls."""
    calls = []
    with opened(root, said) as journal:
        video = rollout(model, conditions, SETTINGS, should_stop=lambda: calls.append(0), journal=journal)
        return hashed(islice(video, chunks)), len(calls)


def test_a_render_stopped_after_any_chunk_goes_on_and_equals_an_undisturbed_one(model, conditions, expected, tmp_path):
    for stopped in range(5):
        root, said = tmp_path / str(stopped), []
        begun, _ = render(model, conditions, root, said, stopped)
        assert begun == expected[:stopped] and not said
        whole, calls = render(model, conditions, root, said)
        assert whole == expected and calls == 4 - stopped
        assert said == ([f"Resumed at chunk {stopped + 1} of 4."] if 0 < stopped < 4 else [])


@pytest.mark.parametrize("damage", ["torn", "empty", "text", "one bit", "another render", "another version", "missing"])
def test_a_damaged_or_foreign_chunk_is_made_again_and_those_behind_it_stay(tmp_path, damage):
    model, conditions = load_checkpoint("tiny", torch.float32), Conditions(Identity(np.ones(128)), frames=FRAMES)
    expected, said = render(model, conditions, tmp_path)[0], []
    path = tmp_path / ("0" * 32) / "chunk_00001.safetensors"
    content = path.read_bytes()
    with safe_open(path, "pt") as file:
        facts, latents = file.metadata(), file.get_tensor("latents")
    if damage == "torn":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("chunk")
    elif damage == "one bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif damage == "missing":
        path.unlink()
    else:
        changed = {"another render": {"key": "1" * 32}, "another version": {"format": "starcaster-journal-0"}}[damage]
        save_file({"latents": latents}, path, facts | changed)
    again, calls = render(model, conditions, tmp_path, said)
    assert again == expected and calls == 1
    assert said[-1] == "Resumed at chunk 2 of 4."
    assert (damage == "missing") != any("damaged" in sentence for sentence in said)


def test_a_chunk_is_made_again_and_the_others_stay(model, conditions, expected, tmp_path):
    def redo(**options) -> list[torch.Tensor]:
        with opened(tmp_path) as journal:
            return [chunk.latents for chunk in rollout(model, conditions, SETTINGS, journal=journal, **options)]

    with pytest.raises(InputError, match="none with chunk 2"):
        redo(redo={1: SEVEN})
    shutil.rmtree(tmp_path)
    plain, one, two, again = redo(), redo(redo={1: SEVEN}), redo(redo={1: SEVEN, 2: SEVEN}), redo()
    for index in (0, 2, 3):
        assert torch.equal(one[index], plain[index])
    assert not torch.allclose(one[1][:, :, :12], plain[1][:, :, :12])
    assert torch.equal(one[1][:, :, :12], two[1][:, :, :12]) and not torch.equal(two[2], plain[2])
    assert torch.equal(one[1][:, :, -1], plain[1][:, :, -1]), "it ends where the next one begins"
    assert not torch.equal(two[1][:, :, -1], plain[1][:, :, -1]) and torch.equal(two[2][:, :, -1], plain[2][:, :, -1])
    assert all(torch.equal(a, b) for a, b in zip(again, plain)), "nothing that was kept has changed"


def test_a_chunk_is_made_again_with_other_scales_and_its_own_noise(model, conditions, expected, tmp_path):
    """The scale alone decides what is new: with the render's own seed and scales the chunk comes out as it was."""

    def redo(**changes) -> torch.Tensor:
        again = {1: replace(SETTINGS, **changes)} if changes else None
        with opened(tmp_path) as journal:
            chunks = list(rollout(model, conditions, SETTINGS, journal=journal, redo=again))
        assert all(torch.equal(chunks[n].latents, plain[n]) for n in (0, 2, 3)) if changes else True
        return [chunk.latents for chunk in chunks]

    plain = redo()
    assert torch.equal(redo(seed=SETTINGS.seed)[1], plain[1])
    deaf, weaker = redo(lambda_audio=0.0)[1], redo(lambda_audio=0.5)[1]
    assert not torch.allclose(deaf[:, :, :12], plain[1][:, :, :12], atol=1e-4)
    change = [(x[:, :, :12] - plain[1][:, :, :12]).abs().mean() for x in (weaker, deaf)]
    assert change[0] < change[1]


@pytest.mark.parametrize(
    ("text", "chunks"),
    [
        ("", {}),
        (" ", {}),
        ("2", {1: 5}),
        ("1, 3-4", {0: 5, 2: 5, 3: 5}),
        ("2:9 4", {1: 9, 3: 5}),
        ("1-3 2:9", {0: 5, 1: 9, 2: 5}),
        ("0s", {0: 5}),
        ("0.64s", {1: 5}),
        ("0.6s-0.7s:8", {0: 8, 1: 8}),
        ("0.64-1.28s", {1: 5}),
        ("2s", {3: 5}),
    ],
)
def test_chunks_to_make_again_are_named_by_number_or_second(text, chunks):
    found = read_redo(text, PRESETS["tiny"], FRAMES, SETTINGS, 5)
    assert found == {index: replace(SETTINGS, seed=seed) for index, seed in chunks.items()}


def test_chunks_to_make_again_may_have_scales_of_their_own():
    found = read_redo("2:9:audio_scale=2:lambda_camera=0.5 3:guidance_scale=1.5", PRESETS["tiny"], FRAMES, SETTINGS, 5)
    assert found == {
        1: replace(SETTINGS, seed=9, audio_scale=2.0, lambda_camera=0.5),
        2: replace(SETTINGS, seed=5, guidance_scale=1.5),
    }


@pytest.mark.parametrize(
    "text",
    ["0", "5", "3-2", "1-5", "1.5", "x", "-1", "2:", "2:-1", "3s", "1s-9s", "nan", "1e3", "2s-1s"]
    + ["2:steps=9", "2:audio_scale=", "2:audio_scale=much", "2:lambda_audio=2", "2:audio_scale=nan", "2:=1"],
)
def test_chunks_that_there_are_not_are_refused(text):
    with pytest.raises(InputError):
        read_redo(text, PRESETS["tiny"], FRAMES, SETTINGS, 5)
    with pytest.raises(InputError):
        read_redo(f"1:{2**64}", PRESETS["tiny"], FRAMES, SETTINGS, 5)


def test_renders_killed_at_random_moments_equal_an_undisturbed_one():
    """`scripts/kill_renders.py` does the same a thousand times."""
    kills = int(os.environ.get("STARCASTER_KILLS", 3))
    killed, ended, differing = kill_renders(kills)
    assert killed == kills and ended > 0 and differing == 0


def test_nothing_accumulates_while_a_long_video_is_made(tmp_path):
    model, held = load_checkpoint("tiny", torch.float32), []
    conditions = Conditions(Identity(np.ones(128, np.float32)), frames=16 * 12)
    with opened(tmp_path) as journal:
        for chunk in rollout(model, conditions, SETTINGS, journal=journal):
            if chunk.index in (3, 11):
                gc.collect()
                held.append(sorted(x.numel() for x in gc.get_objects() if type(x) is torch.Tensor))
    assert held[0] == held[1]


def test_the_key_knows_everything_that_decides_the_latents():
    model = load_checkpoint("tiny", torch.float32)
    features, eye = torch.zeros(4, 64), np.repeat(np.eye(4, dtype=np.float32)[None], 4, axis=0)
    who = Identity(np.ones(128, np.float32), np.zeros((8, 8, 3), np.uint8))
    base = Conditions(who, Speech(features, 0.16, "phonetic"), CameraPath(eye, eye[:, :3, :3]))
    other = torch.ones(4, 64)
    turned = Identity(who.embedding, who.portrait, yaw=1.0)
    settings = SamplerSettings()
    different = [
        (model, replace(base, frames=3), settings),
        (model, replace(base, identity=turned), settings),
        (model, replace(base, identity=replace(who, portrait=None)), settings),
        (model, replace(base, identity=replace(who, embedding=np.zeros(128, np.float32))), settings),
        (model, replace(base, speech=None), settings),
        (model, replace(base, speech=Speech(other, 0.16, "phonetic")), settings),
        (model, replace(base, speech=replace(base.speech, loudness=np.ones(4))), settings),
        (model, replace(base, camera=None), settings),
        (model, replace(base, camera=CameraPath(2 * eye, eye[:, :3, :3])), settings),
        (model, replace(base, head_motion=torch.zeros(4, 7)), settings),
        (model, base, SamplerSettings(seed=1)),
        (model, base, SamplerSettings(lambda_audio=0.5)),
        (load_checkpoint("tiny", torch.bfloat16), base, settings),
        (random_model(model.config, seed=1), base, settings),
        (model, base, settings, Execution(compile=True)),
    ]
    keys = {render_key(*one) for one in [(model, base, settings), *different]}
    assert len(keys) == len(different) + 1
    again = replace(base, speech=Speech(features.clone(), 0.16, "phonetic"))
    assert render_key(load_checkpoint("tiny", torch.float32), again, SamplerSettings()) in keys


HOLD = """
import pathlib, sys, time
from starcaster_core.locks import FolderLock
lock = FolderLock.take(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_renders_of_one_video_have_a_journal_each_and_a_dead_owner_loses_his(tmp_path):
    with opened(tmp_path) as one, opened(tmp_path) as other:
        assert isinstance(one, Journal) and isinstance(other, Journal) and one.folder != other.folder
    held = tmp_path / ("0" * 32)
    owner = subprocess.Popen([sys.executable, "-c", HOLD, held], stdout=subprocess.PIPE, text=True)
    assert owner.stdout.readline() == "held\n"
    assert (held / "lock").read_text() == str(owner.pid) and FolderLock.take(held) is None
    owner.kill()
    owner.wait()
    with opened(tmp_path) as journal:
        assert journal.folder == held


def fill(root, number: int, age: int, finished: bool, megabytes: int = 10) -> str:
    key = f"{number:032x}"
    with opened(root, key=key) as journal:
        (journal.folder / "chunk_00000.safetensors").write_bytes(bytes(megabytes * MB))
        if finished:
            journal.finish()
    os.utime(root / key, (1e9 - age, 1e9 - age))
    return key


def test_finished_journals_go_first_and_the_oldest_of_them(tmp_path):
    keys = [fill(tmp_path, *one) for one in ((1, 40, False), (2, 30, True), (3, 20, True), (4, 10, False))]
    foreign = tmp_path / "my holiday"
    foreign.mkdir()

    def left(size: int) -> list[int]:
        with opened(tmp_path, key="f" * 32, size=size * MB, budget=50 * MB):
            return [number for number, key in enumerate(keys, 1) if (tmp_path / key).exists()]

    assert [left(size) for size in (9, 15, 29, 50)] == [[1, 2, 3, 4], [1, 3, 4], [1, 4], []]
    assert foreign.exists()


def test_a_journal_in_use_is_never_pruned(tmp_path):
    key = fill(tmp_path, 1, 40, True)
    with opened(tmp_path, key=key) as held, opened(tmp_path, size=50 * MB, budget=50 * MB):
        assert (held.folder / "chunk_00000.safetensors").exists()


def test_without_room_a_render_has_no_journal_and_says_so(tmp_path, monkeypatch):
    said = []
    with opened(tmp_path, said, size=65 * MB) as journal:
        assert type(journal) is NoJournal
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 0}))
    with opened(tmp_path, said) as journal:
        assert type(journal) is NoJournal
    (tmp_path / "file").touch()
    with opened(tmp_path / "file", said) as journal:
        assert type(journal) is NoJournal
    assert len(said) == 3 and all("No journal is kept" in sentence for sentence in said)


def test_a_disk_that_fails_in_the_middle_does_not_stop_the_render(tmp_path, monkeypatch):
    model, conditions = load_checkpoint("tiny", torch.float32), Conditions(Identity(np.ones(128)), frames=FRAMES)
    said, plain = [], hashed(rollout(model, conditions, SETTINGS))
    original = os.fsync

    def full(descriptor):
        if len(list(tmp_path.rglob("chunk_*"))) >= 2:
            raise OSError(28, "No space left on device")
        original(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    assert render(model, conditions, tmp_path, said)[0] == plain
    assert len(said) == 1 and "No space left" in said[0]
    monkeypatch.undo()
    assert not list(tmp_path.rglob("*.part"))
    assert render(model, conditions, tmp_path)[1] == 2


def test_a_slow_disk_changes_nothing_and_a_stop_is_heard_between_its_writes(tmp_path, monkeypatch):
    model, conditions = load_checkpoint("tiny", torch.float32), Conditions(Identity(np.ones(128)), frames=FRAMES)
    plain, original = hashed(rollout(model, conditions, SETTINGS)), os.fsync
    delay, written = 0.15, []

    def slow(descriptor):
        time.sleep(delay)
        written.append(time.monotonic())
        original(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    with opened(tmp_path / "stopped") as journal:
        stopped = list(rollout(model, conditions, SETTINGS, journal=journal, should_stop=lambda: bool(written)))
        assert len(stopped) == 1 and time.monotonic() - written[-1] < 1
    assert render(model, conditions, tmp_path / "whole")[0] == plain
    assert render(model, conditions, tmp_path / "stopped") == (plain, 3)


def test_a_removed_journal_leaves_nothing(tmp_path):
    root = tmp_path / "journal"
    with opened(root) as journal:
        journal.write(0, torch.zeros(1, 1, 1, 1, 1))
        journal.remove()
    assert not root.exists()
    with opened(root) as journal:
        journal.finish()
        assert (journal.folder / FINISHED).exists()


def test_temporary_files_of_dead_processes_are_swept_and_of_living_ones_not(tmp_path):
    code = "import sys, pathlib, starcaster_core.files as f; print(f.part_beside(pathlib.Path(sys.argv[1])))"
    dead = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "a.mp4"], capture_output=True, text=True, check=True
    ).stdout.strip()
    (tmp_path / dead).write_text("half")
    folder = tmp_path / dead.replace(".part", "0.part")
    folder.mkdir()
    (folder / "frame_00001.png").touch()
    mine = part_beside(tmp_path / "b.mp4")
    parent = mine.with_name(mine.name.replace(f"-{os.getpid()}-", f"-{os.getppid()}-"))
    other_machine = mine.with_name(".0badcafe-1-123456789abc.part")
    for path in (mine, parent, other_machine, tmp_path / ".a.mp4.part", tmp_path / "a.mp4"):
        path.touch()
    assert sweep_parts(tmp_path) == 2
    assert {path.name for path in tmp_path.iterdir()} == {
        mine.name, parent.name, other_machine.name, ".a.mp4.part", "a.mp4"
    }  # fmt: skip
    assert sweep_parts(tmp_path / "nowhere") == 0
    with atomic_write(tmp_path / "c") as part:
        part.touch()
        assert sweep_parts(tmp_path) == 0
