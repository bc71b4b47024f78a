"""A run in CI fails where a test is skipped for a reason that nobody expects."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGINS = Path(__file__).resolve().parents[1] / "plugins"


@pytest.mark.parametrize(
    "reason, ci, code",
    [
        ("no Chromium: apt install chromium", "true", 1),
        ("no Chromium: apt install chromium", "", 0),
        ("needs flite (build time only)", "true", 0),
    ],
)
@pytest.mark.parametrize("where", ["in a test", "of a whole file"])
def test_an_unexpected_skip_fails_in_ci_alone(tmp_path, reason, ci, code, where):
    skip = f"pytest.skip({reason!r}, allow_module_level=True)"
    (tmp_path / "test_skipped.py").write_text(
        f"import pytest\n{skip}" if where == "of a whole file" else f"import pytest\ndef test_it():\n    {skip}\n"
    )
    (tmp_path / "test_run.py").write_text("def test_it(): pass\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "skips", "-c", os.devnull, "--rootdir", "."]
    environment = {**os.environ, "CI": ci, "PYTHONPATH": str(PLUGINS)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    assert (reason in done.stdout) == bool(code)
