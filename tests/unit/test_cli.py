"""One door for errors: a sentence and exit code 1, whatever fails; and giving up never hides why."""

from __future__ import annotations

import errno
import re
import resource
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from starcaster_core import cli, generate
from starcaster_core.errors import CheckpointError, InputError, MissingDependencyError, StarcasterError, explained
from starcaster_core.files import atomic_write
from starcaster_core.video import FORMATS, VideoWriter, sinks

REPO = Path(__file__).resolve().parents[2]
ARGUMENTS = ["generate", "--identity", "x", "--out", "x.mp4"]


def failing(error):
    """A function that raises."""

    def run(*_, **__):
        raise error

    return run


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (InputError("a", "b", "C."), "Wanted a, got b. C."),
        (KeyError("inner"), "KeyError: 'inner'.*--debug"),
        (ZeroDivisionError(), "ZeroDivisionError.*--debug"),
        (RecursionError("x\n" * 9999), "RecursionError.*--debug"),
        (MemoryError(), "enough memory"),
        (OSError(errno.ENOSPC, "No space", "/a/b.mp4"), "room on the disk for /a/b.mp4"),
        (PermissionError(errno.EACCES, "Denied", "/a"), "permission to use /a"),
        (OSError(errno.ENAMETOOLONG, "Too long", "x" * 9999), "a shorter name"),
        (OSError(errno.EIO, "Input/output error", "/a"), "/a to be usable, got Input/output error"),
        (OSError("something of a library"), "something of a library"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_whatever_fails_is_one_sentence(error, says, monkeypatch, capsys):
    monkeypatch.setattr(generate, "run", failing(error))
    assert cli.main(ARGUMENTS) == 1
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and len(said) < 800 and "Traceback" not in said
    assert said.startswith("error: Wanted ") and re.search(says, said)
    assert cli.main([*ARGUMENTS, "--debug"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interruption_while_the_program_still_loads_is_no_traceback(monkeypatch, capsys):
    monkeypatch.setattr(cli, "import_module", failing(KeyboardInterrupt()))
    assert cli.main(ARGUMENTS) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_program_told_to_stop_leaves_nothing_behind(number, monkeypatch, tmp_path, capsys):
    def run(args):
        with VideoWriter(tmp_path / "a", 25, None, "png") as writer:
            writer.write(frames())
            assert len(list(tmp_path.iterdir())) == 2, "the frames, and the reservation of their name"
            signal.raise_signal(number)

    before = signal.signal(number, signal.default_int_handler)  # one that is ignored, as under nohup, stays so
    handlers = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP)
    monkeypatch.setattr(generate, "run", run)
    assert cli.main(ARGUMENTS) == 130 and capsys.readouterr().err == "interrupted\n"
    assert not list(tmp_path.iterdir())
    assert handlers == (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGHUP))
    signal.signal(number, before)


def test_errors_of_every_kind_lose_their_module_in_nodes():
    """As `nodes/comfy_bridge.py` does it: the class of an error can be replaced by one of the same name."""
    for kind in (StarcasterError, InputError, CheckpointError, MissingDependencyError):
        error = kind("a", "b", "C.")
        error.__class__ = type(kind.__name__, (kind,), {"__module__": "builtins"})
        assert isinstance(error, kind) and str(error) == "Wanted a, got b. C."


def test_out_of_memory_on_a_device_is_a_sentence():
    kind = type("OutOfMemoryError", (RuntimeError,), {})
    assert "memory for the model" in str(explained(kind("CUDA out of memory")))
    assert explained(RuntimeError("a fault of ours")) is None


def test_a_real_command_says_its_sentence(tmp_path):
    command = [sys.executable, "-m", "starcaster_core", "generate", "--identity", "gone", "--out", tmp_path / "a.avi"]
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.startswith("error: Wanted an output file ending in")


@pytest.mark.parametrize("module", ["latents", "lipreader"])
def test_preparation_says_its_sentence_too(module, tmp_path):
    command = [
        sys.executable,
        "-m",
        f"starcaster_core.training.{module}",
        "--data",
        tmp_path,
        "--out",
        tmp_path / "x" / "f",
    ]
    (tmp_path / "x").touch()
    command += ["--model", "tiny"] if module == "latents" else []
    done = subprocess.run(command, cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr and "error: Wanted" in done.stderr


def frames():
    return np.random.default_rng(0).integers(0, 256, (10, 64, 64, 3), np.uint8)


@pytest.mark.parametrize("name", FORMATS)
def test_a_full_disk_is_explained_and_nothing_stays(tmp_path, name):
    """No file may grow beyond 8 kB."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    sound = (np.random.default_rng(0).normal(size=(2, 48_000)).astype(np.float32) * 0.1, 48_000)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (8000, limits[1]))
        with pytest.raises(StarcasterError, match="to write a"):
            with VideoWriter(tmp_path / f"a{FORMATS[name].suffix}", 25, sound, name) as writer:
                writer.write(frames())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FORMATS)
def test_giving_up_does_not_hide_why(tmp_path, name, monkeypatch):
    kind = {"gif": sinks.GifSink, "png": sinks.FolderSink}.get(name, sinks.ContainerSink)
    monkeypatch.setattr(kind, "abandon", failing(RuntimeError("clean-up failed")))
    monkeypatch.setattr(Path, "unlink", failing(OSError("not removed")))
    with pytest.raises(ZeroDivisionError):
        with VideoWriter(tmp_path / f"a{FORMATS[name].suffix}", 25, None, name) as writer:
            writer.write(frames())
            raise ZeroDivisionError
    with pytest.raises(ZeroDivisionError), atomic_write(tmp_path / "b") as part:
        part.touch()
        raise ZeroDivisionError


def test_temporary_names_are_short_and_hidden(tmp_path):
    with atomic_write(tmp_path / ("x" * 255)) as part:
        assert part.name.startswith(".") and part.name.endswith(".part") and len(part.name) < 48
        part.touch()
