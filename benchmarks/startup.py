"""Times `generate` from the start of Python to the written file, for two checkouts in turn.

    python benchmarks/startup.py --before OTHER_CHECKOUT --runs 5

One second and eight seconds of the shipped portrait and voice with `mini`. What a second of video does not account for
passes before work begins: t(1) - (t(8) - t(1)) / 7. The lowest times are compared: other programs only add to them.
Writes benchmarks/results/startup.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
ASSETS = REPO / "starcaster_core" / "assets"
GENERATE = "generate --portrait {assets}/portrait.png --speech {assets}/voice.flac --seconds {seconds}"
SHORT, LONG = 1, 8  # seconds of video


def measure(checkout: Path, words: list[str]) -> dict[str, float]:
    """Run the command line of a checkout once -> seconds by the clock and of processor time."""
    spent, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    command = [sys.executable, "-m", "starcaster_core", *words]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return {"wall": wall, "cpu": after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime}


def summary(runs: list[dict[str, float]]) -> dict:
    """All runs, and their lowest and median, in seconds."""
    times = {kind: [round(run[kind], 2) for run in runs] for kind in ("wall", "cpu")}
    return {kind: {"lowest": min(t), "median": round(statistics.median(t), 2), "runs": t} for kind, t in times.items()}


def before_work(runs: dict[str, dict[str, list]], which: str) -> float:
    """Return the seconds that pass before a checkout's work begins: runs by command and checkout."""
    short, long = (min(run["wall"] for run in runs[f"generate --seconds {n}"][which]) for n in (SHORT, LONG))
    return round(short - SHORT * (long - short) / (LONG - SHORT), 2)


def commit(checkout: Path) -> str:
    """The checkout's commit, for the record; "-dirty" where it holds changes besides."""
    command = ["git", "-C", str(checkout), "describe", "--always", "--dirty", "--exclude", "*"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, help="another checkout to compare with")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results" / "startup.json")
    args = parser.parse_args()
    checkouts = ({"before": args.before} if args.before else {}) | {"after": REPO}
    with tempfile.TemporaryDirectory() as folder:
        commands = {
            f"generate --seconds {seconds}": GENERATE.format(assets=ASSETS, seconds=seconds).split()
            + ["--out", str(Path(folder) / "out.mp4")]
            for seconds in (SHORT, LONG)
        } | {"generate --help": ["generate", "--help"]}
        runs: dict[str, dict[str, list]] = {name: {which: [] for which in checkouts} for name in commands}
        for turn in range(args.runs + 1):
            for name, words in commands.items():
                for which, checkout in checkouts.items():
                    one = measure(checkout, words)
                    print(f"{turn} {name}, {which}: {one['wall']:.2f} s, processor {one['cpu']:.2f} s", flush=True)
                    if turn:  # the first writes bytecode and warms the disk's cache
                        runs[name][which].append(one)
    result = {
        "command": f"python benchmarks/startup.py --before OTHER_CHECKOUT --runs {args.runs}",
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}",
        "commits": {which: commit(checkout) for which, checkout in checkouts.items()},
        "seconds": {
            name: {which: summary(each) for which, each in checkouts_of.items()} for name, checkouts_of in runs.items()
        },
        "before_work_begins": {which: before_work(runs, which) for which in checkouts},
    }
    args.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
