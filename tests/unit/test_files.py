"""Files appear whole, under their name, or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from starcaster_core.errors import InputError
from starcaster_core.files import atomic_write
from starcaster_core.identity import save_identity
from starcaster_core.locks import NameTakenError, OutputName
from starcaster_core.types import Identity
from starcaster_core.video import VideoWriter, probe, write_video

REPO = Path(__file__).resolve().parents[2]


def test_a_file_takes_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "file.txt"
    with atomic_write(path) as part:
        part.write_text("whole")
        assert part.parent == path.parent and not path.exists()
        assert not list(path.parent.glob("*.txt")), "what looks for finished files does not find it"
    assert path.read_text() == "whole" and list(path.parent.iterdir()) == [path]


def test_a_failure_leaves_what_was_there(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_write(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_two_writers_do_not_share_a_temporary_file(tmp_path):
    path = tmp_path / "file.txt"
    with atomic_write(path) as one, atomic_write(path) as other:
        one.write_text("one")
        other.write_text("other")
    assert path.read_text() == "one"


# One name, two writers ------------------------------------------------------------------------------------------------

HOLD = """
import sys, numpy as np
from starcaster_core.video import VideoWriter
with VideoWriter(sys.argv[1], 25) as writer:
    writer.write(np.zeros((16, 16, 3), np.uint8))
    print("writing", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def writer_elsewhere(tmp_path):
    """A process that writes `video.mp4` until it is told to finish."""
    command = [sys.executable, "-c", HOLD, str(tmp_path / "video.mp4")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=REPO) as process:
        assert process.stdout.readline() == "writing\n"
        yield process
        process.kill()


def generate(folder) -> subprocess.CompletedProcess:
    identity = folder / "me.identity.safetensors"
    save_identity(identity, Identity(np.ones(128, np.float32)))
    words = f"generate --model tiny --device cpu --identity {identity} --seconds 0.2 --steps 1 --no-journal"
    command = [sys.executable, "-m", "starcaster_core", *words.split(), "--out", str(folder / "video.mp4")]
    return subprocess.run(command, capture_output=True, text=True, cwd=REPO, env={**os.environ, "OMP_NUM_THREADS": "1"})


def test_a_name_that_another_process_writes_to_is_refused_until_it_is_done(tmp_path, writer_elsewhere):
    refused = generate(tmp_path)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1
    assert f"video.mp4, which the process {writer_elsewhere.pid} is writing. Choose another name" in refused.stderr
    with pytest.raises(InputError, match="a free output name"), VideoWriter(tmp_path / "video.mp4", 25):
        pass
    with VideoWriter(tmp_path / "other.mp4", 25) as other:
        other.write(np.zeros((16, 16, 3), np.uint8))
    writer_elsewhere.communicate("done\n")
    assert {path.name for path in tmp_path.iterdir()} == {"video.mp4", "other.mp4", "me.identity.safetensors"}
    assert probe(tmp_path / "video.mp4").frames == 1
    with VideoWriter(tmp_path / "video.mp4", 25) as again:
        again.write(np.zeros((2, 16, 16, 3), np.uint8))
    assert probe(tmp_path / "video.mp4").frames == 2


def test_a_dead_process_reserves_nothing(tmp_path, writer_elsewhere):
    writer_elsewhere.kill()
    writer_elsewhere.wait()
    assert list(tmp_path.glob(".starcaster-*.lock"))
    done = generate(tmp_path)
    assert done.returncode == 0, done.stderr
    assert {path.name for path in tmp_path.iterdir()} == {"video.mp4", "me.identity.safetensors"}


def test_reservations_of_dead_processes_are_swept(tmp_path, writer_elsewhere):
    writer_elsewhere.kill()
    writer_elsewhere.wait()
    OutputName(tmp_path / "other.mp4").release()
    assert not list(tmp_path.glob("*.lock"))


def test_a_video_that_is_to_be_new_replaces_none(tmp_path):
    frames, path = [np.full((2, 16, 16, 3), 90, np.uint8)], tmp_path / "a.mp4"
    asked = []
    path.write_text("somebody's")
    with pytest.raises(NameTakenError, match=r"a.mp4, which exists"):
        write_video(path, (asked.append(0) or frame for frame in frames), 25, new=True)
    assert path.read_text() == "somebody's" and not asked
    write_video(path, frames, 25)
    assert path.read_bytes()[4:8] == b"ftyp"
    assert not list(tmp_path.glob(".*"))
