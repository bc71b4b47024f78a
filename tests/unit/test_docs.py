"""The documentation agrees with the repository: tables, links, names of files, modules and commands."""

from __future__ import annotations

from pathlib import Path

import make_tables
import pytest

REPO = Path(__file__).resolve().parents[2]


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
