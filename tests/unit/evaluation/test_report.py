"""The page: every metric, every version, pictures and curves in it, nothing to be fetched."""

from __future__ import annotations

import html.parser
import json
import re

import numpy as np
import pytest

from starcaster_core.evaluation import drift
from starcaster_core.evaluation.evaluate import METRICS
from starcaster_core.evaluation.plots import line_plot, path_of, range_bar, ticks
from starcaster_core.evaluation.report import COLUMNS, KIND_TITLES, number, write_report
from starcaster_core.evaluation.videos import VERSIONS


def measured(mean: float) -> dict:
    return {"mean": mean, "error": 0.01, "low": mean - 0.02, "high": mean + 0.02, "clips": 3}


@pytest.fixture
def results() -> dict:
    versions = {name: measured(0.1 * k) for k, name in enumerate(COLUMNS, start=1)} | {"wrong": None}
    metrics = {metric.NAME: {name: versions for name in metric.FIGURES} for metric in METRICS}
    curve = {
        "title": "lip opening",
        "x_title": "seconds",
        "x": [0.0, 0.04],
        "measured": [1.0, 2.0],
        "target": [1.5, 1.0],
    }
    cloud = {"features": "the probe's", **{v: {"mean": 2.0, "error": 0.1, "clips": 3, "samples": 9} for v in VERSIONS}}
    series = {"values": [1.0, None, 3.0], "slope": 2.5, "error": 0.5, "points": 2, "truth": 1.0, "truth_deviation": 0.1}
    return {
        "settings": {"steps": 8, "guidance_scale": 2.5, "seed": 0},
        "clips": dict.fromkeys(KIND_TITLES, 3),
        "people": 5,
        "gallery": 9,
        **{kind: metrics for kind in KIND_TITLES},
        "frechet": {"frames": cloud, "lips": cloud, "faces": cloud},
        "public": {"fid": cloud, "fvd": cloud},
        "drift": {"seconds": 3.0, "times": [0, 1, 2], "series": dict.fromkeys(drift.FIGURES, series), "stranger": 0.8},
        "examples": {kind: [{"clip": "0001", "curves": {"lips": curve}}] for kind in KIND_TITLES},
        "missing": {"syncnet": "--syncnet FILE, made by `python -m <this>`"},
        "model": {"name": "mini", "provenance": {"data": "see https://example.org/<script>alert(1)</script>"}},
        "command": "python -m starcaster_core evaluate --model 'a&b'",
        "split": "held-out",
        "instruments": {"probe": {"file": "probe.safetensors", "facts": {"minutes": 6}}},
    }


class Page(html.parser.HTMLParser):
    """Which tags are open, what is referred to, and the words"""

    VOID = {"meta", "img"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.references, self.words, self.tags = [], [], [], set()
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        self.references += [value for name, value in attributes if name in ("src", "href", "xlink:href", "srcset")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)

    def handle_data(self, data):
        self.words.append(data)


def test_the_page_has_everything_and_loads_nothing(tmp_path, results):
    strips = {kind: [np.zeros((8, 40, 3), np.uint8)] for kind in KIND_TITLES}
    write_report(tmp_path / "deep" / "report.html", results, strips)
    text = (tmp_path / "deep" / "report.html").read_text()
    page = Page(text)
    words = " ".join(page.words)
    assert page.open == []
    for metric in METRICS:
        assert metric.TITLE in words and all(figure.title in words for figure in metric.FIGURES.values())
    for expected in (*KIND_TITLES.values(), *COLUMNS.values(), "FID", "FVD", "Drift over 3 seconds", "sharpness"):
        assert expected in words
    assert results["command"] in words and "--syncnet FILE" in words and "see https://example.org/" in words
    assert len(page.references) == 3 and all(url.startswith("data:image/jpeg;base64,") for url in page.references)
    assert not page.tags & {"script", "link", "iframe", "object", "base"}
    assert "url(" not in text and "@import" not in text


def test_a_bare_evaluation_makes_a_page_too(tmp_path, results):
    bare = {key: results[key] for key in ("settings", "people", "gallery", "spatial", "missing")}
    bare |= {
        "clips": {"temporal": 0, "spatial": 3, "joint": 0},
        "frechet": {},
        "public": {},
        "examples": {"spatial": []},
    }
    write_report(tmp_path / "report.html", json.loads(json.dumps(bare)), {"spatial": []})
    assert Page((tmp_path / "report.html").read_text()).open == []


@pytest.mark.parametrize(
    "value, text", [(0.123456, "0.123"), (1.5, "1.50"), (29.44, "29.4"), (-150.6, "-151"), (1e-9, "0")]
)
def test_three_digits_count(value, text):
    assert number(value) == text


def centre(bar: str) -> float:
    return float(re.search(r'<circle cx="([\d.]+)"', bar)[1])


def test_better_lies_to_the_right():
    versions = {"generated": measured(0.2), "truth": measured(0.0), "wrong": measured(1.0), "still": None}
    low, high = centre(range_bar(versions, "low")), centre(range_bar(versions, "high"))
    assert low > 110 > high and low + high == pytest.approx(220, abs=0.2)
    assert range_bar({"generated": None}, "low") == ""


def test_a_gap_in_the_values_is_a_gap_in_the_line():
    assert path_of([(0, 1), (1, 2), None, (3, 4)]) == "M0.0 1.0L1.0 2.0M3.0 4.0"
    assert line_plot("nothing", "s", [0, 1], [("a", "red", [None, None])]) == ""
    assert "M" in line_plot("flat", "s", [0], [("a", "red", [1.0])])


@pytest.mark.parametrize("low, high", [(0, 1), (-3.2, 7.1), (0.601, 0.603), (0, 48000)])
def test_ticks_are_round_few_and_inside(low, high):
    found = ticks(low, high)
    assert 2 <= len(found) <= 8 and low <= found[0] and found[-1] <= high
    assert len({f"{tick:g}" for tick in found}) == len(found)
