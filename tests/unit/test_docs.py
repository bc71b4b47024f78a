"""The documentation agrees with the repository: tables, links, and names of files, modules and commands."""

from __future__ import annotations

import re
from pathlib import Path

import make_tables
import pytest

from starcaster_core.cli import COMMANDS

REPO = Path(__file__).resolve().parents[2]
PAGES = make_tables.pages()
SOURCES = [path for top in ("starcaster_core", "nodes", "scripts", "tests") for path in (REPO / top).rglob("*.py")]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


def name_of(path: Path) -> str:
    return path.relative_to(REPO).as_posix()


def anchors(page: Path) -> set[str]:
    """The names that GitHub gives to a page's headings."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page):
    for link in LINK.findall(FENCE.sub("", page.read_text(encoding="utf-8"))):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_modules_commands_and_files_exist(page):
    text = page.read_text(encoding="utf-8")
    for module, command in re.findall(r"python -m (starcaster_core[\w.]*)(?: ([a-z][\w-]*))?", text):
        place = REPO / module.replace(".", "/")
        assert place.is_dir() or place.with_suffix(".py").is_file(), module
        assert module != "starcaster_core" or not command or command in COMMANDS, command
    for command in re.findall(r"^starcaster ([a-z][\w-]*)", text, re.MULTILINE):
        assert command in COMMANDS
    for name in re.findall(r"`([\w./-]+\.py)\b", text):
        places = (REPO / name, page.parent / name, *(REPO / "starcaster_core").rglob(f"**/{name}"))
        assert any(place.is_file() for place in places), name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_tests_that_are_named_exist(page):
    for file, test in re.findall(r"`(tests/[\w./-]+\.py)::(\w+)`", page.read_text(encoding="utf-8")):
        assert f"def {test}(" in (REPO / file).read_text(encoding="utf-8"), test


def test_the_index_lists_every_page():
    docs = REPO / "docs"
    for folder, index in ((docs, "index.md"), (docs / "decisions", "README.md")):
        listed = {link.partition("#")[0] for link in LINK.findall((folder / index).read_text(encoding="utf-8"))}
        assert {path.name for path in folder.glob("*.md")} - {index} <= listed


def test_every_decision_has_a_date_and_a_status():
    rows = re.findall(
        r"^\| (\d+) \| \[.+\]\((.+)\) \| (.+) \| (.+) \|$",
        (REPO / "docs" / "decisions" / "README.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1))
    for _, _, date, status in rows:
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", date)
        assert status.startswith(("accepted", "superseded by "))


def test_code_names_pages_that_exist():
    for source in SOURCES:
        text = source.read_text(encoding="utf-8")
        for number in re.findall(r"\bdecisions/(\d{4})", text):
            assert list((REPO / "docs" / "decisions").glob(f"{number}-*.md")), f"{name_of(source)}: decision {number}"
        for page in re.findall(r"(?<![\w/])docs/[\w/-]+\.md\b", text):
            assert (REPO / page).is_file(), f"{name_of(source)}: {page}"


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
