"""What the archive for the ComfyUI registry holds: the tracked files that .comfyignore leaves in."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[2]
LEFT_OUT = {".basedpyright", ".ci", ".github", "benchmarks", "docs", "scripts", "tests"}
NEEDED = {"nodes", "starcaster_core", "web", "workflows"}
NEEDED_FILES = {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE"}


def listed(*options: str) -> set[str]:
    command = ["git", "-C", str(REPO), "ls-files", "-z", "--cached", *options]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")) - {""}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    if not (REPO / ".git").exists():
        pytest.skip("not a git checkout")
    return listed()


@pytest.fixture(scope="module")
def packed(tracked) -> set[str]:
    """ComfyUI's packer reads .comfyignore as git reads .gitignore."""
    return tracked - listed("--ignored", f"--exclude-from={REPO / '.comfyignore'}")


def test_whatever_the_pack_needs_is_packed(tracked, packed):
    needed = {name for name in tracked if name.split("/")[0] in NEEDED} | NEEDED_FILES
    assert not needed - packed
    for example in ("web/docs/STARCaster_Sampler.md", "starcaster_core/data/synth.py"):
        assert example in packed
    assert any(name.startswith("starcaster_core/weights/") and name.endswith(".safetensors") for name in packed)


def test_whatever_only_developers_need_is_not(packed):
    assert not {name for name in packed if name.split("/")[0] in LEFT_OUT}


def test_letters_are_those_that_tools_on_windows_read(tracked):
    """`comfy-test lint` refuses Python outside cp1252. What is opened without naming an encoding is plain ASCII."""
    for name in sorted(tracked):
        text = (REPO / name).read_bytes()
        if name.endswith(".py"):
            text.decode("utf-8").encode("cp1252")
        elif name in ("pyproject.toml", "requirements.txt", ".comfyignore") or name.startswith("workflows/"):
            assert name.endswith(".jpg") or text.isascii(), name
