"""The soak: an end-to-end render of a few seconds is watched and reported; growing memory is seen."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "soak.py"


@pytest.fixture(scope="module")
def benchmark():
    spec = importlib.util.spec_from_file_location("soak", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["soak"] = module  # its dataclass looks itself up
    spec.loader.exec_module(module)
    yield module
    del sys.modules["soak"]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")
def test_a_render_of_seconds_is_watched_to_its_end(benchmark, tmp_path):
    out = tmp_path / "soak.json"
    words = ["--minutes", "0.05", "--steps", "1", "--every", "0.1", "--folder", str(tmp_path), "--out", str(out)]
    assert benchmark.main(words) in (0, 1)  # seconds say nothing about growth
    report = json.loads(out.read_text())
    assert report["frames"] == 75 and report["chunks"] == 5 and report["sound_minutes"] == pytest.approx(0.05, abs=2e-3)
    assert 0 < report["processor_minutes"] and 0 < report["wall_minutes"]
    memory = report["memory"]
    assert len(memory["mib_at_each_eighth"]) == 8
    assert memory["mib_largest_after"] >= memory["mib_after_first_minute"] > 100
    assert list(tmp_path.iterdir()) == [out], "sound, video and journal are gone"


def test_growth_is_that_after_the_first_minute(benchmark):
    def memory(after):
        seen = [(2.0 * n, n, after(n)) for n in range(101)]
        return benchmark.memory(benchmark.Watch(seen, chunks=100, done=100))

    assert memory(lambda n: 900 if n < 12 else 1000)["growth_percent"] == 0
    leak = memory(lambda n: 1000 + n)  # an eighth of the chunks comes before the first minute
    assert leak["mib_after_first_minute"] == 1013 and leak["mib_largest_after"] == 1100
    assert leak["growth_percent"] == 8.59 and leak["mib_at_each_eighth"][-1] == 1100


def test_a_render_that_fails_is_no_soak(benchmark, tmp_path):
    with pytest.raises(RuntimeError, match="exit code 1: error: Wanted"):
        benchmark.main(["--minutes", "0.01", "--model", str(tmp_path / "none"), "--out", str(tmp_path / "o.json")])
    assert not list(tmp_path.iterdir())
