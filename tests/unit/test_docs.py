"""The documentation agrees with the repository: tables, links, file names, and the README's Python."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import make_tables
import pytest

REPO = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_the_python_of_the_readme_runs_as_written(tmp_path):
    blocks = re.findall(r"^```python\n(.*?)^```", (REPO / "README.md").read_text(encoding="utf-8"), re.M | re.S)
    assert blocks
    assets = REPO / "starcaster_core" / "assets"
    shutil.copyfile(assets / "portrait.png", tmp_path / "me.png")
    shutil.copyfile(assets / "voice.flac", tmp_path / "hello.wav")  # read by content, not by name
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(blocks)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(REPO)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "torch.Size([16, 128, 128, 3])" in done.stdout
    assert (tmp_path / "me.mp4").stat().st_size > 0


def test_tables_are_those_of_the_results_and_the_code(capsys):
    assert make_tables.main(["--check"]) == 0, capsys.readouterr().out


def test_the_check_names_a_table_that_differs(tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- table: mini -->\n| old |\n<!-- /table -->\nafter\n")
    monkeypatch.setattr(make_tables, "REPO", tmp_path)
    monkeypatch.setattr(make_tables, "pages", lambda: [page])
    assert make_tables.main(["--check"]) == 1
    assert "page.md: table mini" in capsys.readouterr().out
    assert "| old |" in page.read_text()
    assert make_tables.main([]) == 0
    assert make_tables.main(["--check"]) == 0
    assert page.read_text().startswith("before\n") and page.read_text().endswith("after\n")
    page.write_text("<!-- table: mini -->\nnever closed\n")
    with pytest.raises(SystemExit, match="page.md"):
        make_tables.main(["--check"])
