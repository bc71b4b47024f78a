"""How fast synthetic clips are made, and whether memory stays flat.

    python benchmarks/synth.py --clips 48 --frames 48 --size 256 --workers 2 --json benchmarks/results/synth.json

Frames a second count everything: starting the workers, building heads, rendering, speech, embeddings, encoding. The
processor's seconds a frame hardly depend on what else the machine is doing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import tempfile
import threading
import time
from pathlib import Path

from starcaster_core.data.shards import find_shards
from starcaster_core.data.synth import Settings, make_set


def resident_megabytes() -> float:
    """Return the memory of this process's children, from /proc."""
    total, me = 0, os.getpid()
    for status in Path("/proc").glob("[0-9]*/status"):
        try:
            facts = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
        except OSError:  # it ended meanwhile
            continue
        if int(facts["PPid"]) == me and "VmRSS" in facts:
            total += int(facts["VmRSS"].split()[0])
    return total / 1024


class Watch(threading.Thread):
    """Notes (seconds, finished shards, megabytes) every few seconds."""

    def __init__(self, folder: Path, every: float = 5.0):
        super().__init__(daemon=True)
        self.folder, self.every, self.rows, self.done = folder, every, [], threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        while not self.done.wait(self.every):
            self.rows.append((time.monotonic() - started, len(find_shards(self.folder)), resident_megabytes()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=48)
    parser.add_argument("--frames", type=int, default=48)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--people", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the clips in this folder")
    parser.add_argument("--json", type=Path, help="add the result to this file, under the settings' name")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.out or Path(scratch)
        settings = Settings(args.clips, args.frames, args.size, args.seed, args.people)
        watch = Watch(folder)
        watch.start()
        started = time.monotonic()
        make_set(settings, folder, args.workers)
        seconds = time.monotonic() - started
        watch.done.set()
    frames, used = args.clips * args.frames, resource.getrusage(resource.RUSAGE_CHILDREN)
    result = {
        "clips": args.clips,
        "workers": args.workers,
        "seconds": round(seconds, 1),
        "frames_per_second": round(frames / seconds, 2),
        "cpu_seconds_a_frame": round((used.ru_utime + used.ru_stime) / frames, 4),
        "megabytes_over_time": megabytes_over_time(watch.rows),
    }
    print(json.dumps(result))
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        known[f"{args.clips} clips of {args.frames} frames at {args.size}"] = result
        args.json.write_text(json.dumps(known, indent=2) + "\n", encoding="utf-8")


def megabytes_over_time(rows: list[tuple[float, int, float]], parts: int = 8) -> list[int]:
    """Return the mean memory of the workers in each eighth of the run, megabytes."""
    size = max(len(rows) // parts, 1)
    groups = [rows[first : first + size] for first in range(0, len(rows), size)][:parts]
    return [round(sum(megabytes for _, _, megabytes in group) / len(group)) for group in groups]


if __name__ == "__main__":
    main()
