"""What the command line imports before it works: seconds of every start lie there (benchmarks/startup.py)."""

from __future__ import annotations

import subprocess
import sys
import wave
from pathlib import Path

import numpy as np
import pytest

REPO = Path(__file__).resolve().parents[2]
SLOW_TO_IMPORT = (
    "torch._dynamo",
    "scipy.stats",
    "scipy.interpolate",
    "librosa",
    "transformers",
    "kornia",
    "diffusers",
    "onnxruntime",
)
RUN = """
import sys
from starcaster_core.cli import main
try:
    code = main(sys.argv[1:])
except SystemExit as end:
    code = end.code
print("\\nimported:", *sys.modules)
sys.exit(code)
"""


def imported_by(*words: str) -> set[str]:
    """The modules in memory after a command."""
    done = subprocess.run([sys.executable, "-c", RUN, *words], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return set(done.stdout.splitlines()[-1].split())


def test_help_imports_no_pytorch():
    assert not {"torch", "av"} & imported_by("generate", "--help")


@pytest.mark.parametrize("command", ["train", "evaluate", "bench", "bench-gpu"])
def test_help_imports_nothing_slow(command):
    assert not imported_by(command, "--help") & set(SLOW_TO_IMPORT)


def test_generating_imports_nothing_slow(tmp_path):
    """With all there is: a photo, a voice that has to be resampled, a camera path."""
    pytest.importorskip("dlib")
    with wave.open(str(tmp_path / "voice.wav"), "wb") as file:
        file.setparams((1, 2, 24000, 0, "NONE", ""))
        file.writeframes(np.random.default_rng(0).integers(-3000, 3000, 1920, dtype=np.int16).tobytes())
    portrait, out = REPO / "starcaster_core" / "assets" / "portrait.png", tmp_path / "out.mp4"
    words = f"generate --portrait {portrait} --speech {tmp_path}/voice.wav --camera orbit --out {out}".split()
    found = imported_by(*words)
    assert out.exists() and "torch" in found
    assert not found & set(SLOW_TO_IMPORT)
