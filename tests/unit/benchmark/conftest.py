"""What the tests of benchmarks share: the scripts of `benchmarks/` as modules, and encoded clips of random numbers."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from starcaster_core.training.latents import ClipSet

FOLDER = Path(__file__).parents[3] / "benchmarks"
LENGTH = 12  # frames of the clips


@pytest.fixture(scope="session")
def load_benchmark():
    """load_benchmark(name) -> the module of benchmarks/NAME.py"""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load


@pytest.fixture(scope="session")
def clips() -> ClipSet:
    """Two talking clips, the first to train on, the second to validate with."""
    draws = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(2, *shape, generator=draws)

    return ClipSet(
        latents=draw(LENGTH, 16, 8, 8),
        speech=draw(LENGTH, 64),
        camera=draw(LENGTH, 25),
        mouth=draw(LENGTH, 4),
        eyes=draw(LENGTH, 4),
        head_motion=draw(LENGTH, 7),
        embedding=draw(128),
        kind=torch.zeros(2, dtype=torch.long),
        split=torch.tensor([0, 1]),
        identity=torch.arange(2),
    )
