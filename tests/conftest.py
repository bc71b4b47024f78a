"""What several kinds of tests share: one real server, started only if a test asks for it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from comfy_server import ComfyServer
from provision_comfyui import REPO, locate, other_frontend

pytest_plugins = ["skips"]  # in tests/plugins


@pytest.fixture(scope="session")
def comfy_server():
    """A running ComfyUI with this pack and a tiny random model, `models/starcaster/tiny.safetensors`.

    STARCASTER_FRONTEND names a version of the frontend to serve instead of the one that ComfyUI pins.
    """
    install = locate()
    if not (install.comfyui / "main.py").exists():
        pytest.skip("no ComfyUI: run `make setup`, or set COMFYUI_PATH")
    version = os.environ.get("STARCASTER_FRONTEND")
    arguments = ("--front-end-root", str(other_frontend(version))) if version else ()
    # One thread: the tests' models are tiny, and a machine that is busy elsewhere makes two threads wait for each
    # other.
    server = ComfyServer(install, arguments, environment={"OMP_NUM_THREADS": "1"})
    write_tiny_checkpoint(server.base / "models" / "starcaster" / TINY)
    with server:
        yield server


TINY = "tiny.safetensors"

# How long an example takes says more about the machine than about the code.
# STARCASTER_EXAMPLES asks for more of them than the usual hundred: a night of fuzzing.
hypothesis.settings.register_profile(
    "patient",
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
    max_examples=int(os.environ.get("STARCASTER_EXAMPLES", 100)),
)
hypothesis.settings.load_profile("patient")


def write_tiny_checkpoint(path: Path) -> None:
    """The `tiny` preset with random weights, as a file."""
    from starcaster_core.models.checkpoint import load_checkpoint, save_checkpoint

    save_checkpoint(path, load_checkpoint("tiny"), {"made for": "tests"})


@pytest.fixture
def workflow() -> Callable[..., dict]:
    """workflow(name, Class_Type={"input": value}, ...) -> a shipped API-format prompt with some inputs changed."""

    def load(name: str, **changes: dict) -> dict:
        prompt = json.loads((REPO / "workflows" / "api" / f"{name}.json").read_text())
        for node in prompt.values():
            node["inputs"].update(changes.get(node["class_type"].removeprefix("STARCaster_"), {}))
        return prompt

    return load
