"""Renders a long video in a process of its own and watches its memory: sound, features, rollout, frames, file.

    python benchmarks/soak.py --minutes 60

The command line's `generate` makes the video, with its journal, out of the shipped portrait and of sound made here. The
model `tiny` has random weights: it shows nothing, but takes the way of every other model, and an hour of it is made in
minutes. Its frames are the autoencoder's, 64x64; `--model mini` draws 512x512 out of the photo, or `--size`.
Memory is what Linux tells in /proc (VmRSS). It is compared with what it was a minute after the first chunk, or after an
eighth of the chunks where that comes before. Writes benchmarks/results/soak.json. Exit code 1 where it grew too much.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
import wave
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))

SAMPLE_RATE = 16_000
WANTED_PERCENT = 5.0  # growth of the memory after the first minute
FIRST_MINUTE = 60.0  # seconds after the first chunk
PARTS = 8
DONE = re.compile(r"chunk (\d+)/(\d+) done")


def write_sound(path: Path, seconds: float, seed: int = 0) -> None:
    """Write a 16 kHz mono WAV of tone bursts in noise with pauses between them, a second at a time."""
    rng = np.random.default_rng(seed)
    left = round(seconds * SAMPLE_RATE)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, SAMPLE_RATE, 0, "NONE", ""))
        while left > 0:
            time_in_second = np.arange(min(SAMPLE_RATE, left)) / SAMPLE_RATE
            sounding = (time_in_second * rng.uniform(3, 6)) % 1 < rng.uniform(0.3, 0.8)  # about four syllables
            tone = np.sin(2 * np.pi * rng.uniform(90, 250) * time_in_second)
            noise = rng.normal(size=len(time_in_second))
            samples = sounding * (0.3 * tone + 0.05 * noise) + 0.002 * noise
            file.writeframes((samples.clip(-1, 1) * 32767).astype("<i2").tobytes())
            left -= len(samples)


def resident_mib(process: int) -> float | None:
    """Return the resident memory of a process, MiB; None once it has ended. Raises RuntimeError without /proc."""
    if not Path("/proc/self/status").exists():
        raise RuntimeError("Wanted Linux with /proc to read memory from, got another system. Run the soak on Linux.")
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"VmRSS:\s+(\d+) kB", status)
    return int(found[1]) / 1024 if found else None


@dataclass
class Watch:
    """What was seen of a render: (seconds since its start, chunks done, MiB), and how it ended."""

    seen: list[tuple[float, int, float]] = field(default_factory=list)
    chunks: int = 0  # of the whole render
    done: int = 0
    errors: list[str] = field(default_factory=list)

    def read(self, stream) -> None:
        """Follow what the render says on its standard error."""
        for line in stream:
            if found := DONE.match(line):
                self.done, self.chunks = int(found[1]), int(found[2])
            elif line.startswith("error:"):
                self.errors.append(line.strip())


def watch(command: list[str], every: float) -> tuple[Watch, int]:
    """Run a render and look at its memory every so many seconds -> what was seen, its exit code."""
    watched, started = Watch(), time.monotonic()
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(
        command, cwd=REPO, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        reader = threading.Thread(target=watched.read, args=[process.stderr], daemon=True)
        reader.start()
        while True:
            if (resident := resident_mib(process.pid)) is not None:
                watched.seen.append((time.monotonic() - started, watched.done, resident))
            try:
                code = process.wait(timeout=every)
                break
            except subprocess.TimeoutExpired:
                continue
        reader.join()
    return watched, code


def memory(watched: Watch) -> dict:
    """Return the memory after the first minute, at each eighth of the chunks, at its largest, and its growth."""
    seen, chunks = watched.seen, watched.chunks
    begun = next(seconds for seconds, done, _ in seen if done)
    early = min(FIRST_MINUTE, next(seconds for seconds, done, _ in seen if done >= chunks / PARTS) - begun)
    later = [(done, mib) for seconds, done, mib in seen if seconds - begun >= early]
    base, largest = later[0][1], max(mib for _, mib in later)
    eighths = [
        next((mib for done, mib in later if done >= chunks * part / PARTS), later[-1][1]) for part in range(1, 9)
    ]
    return {
        "after_seconds": round(early, 1),
        "mib_after_first_minute": round(base, 1),
        "mib_at_each_eighth": [round(mib, 1) for mib in eighths],
        "mib_largest_after": round(largest, 1),
        "growth_percent": round(100 * (largest / base - 1), 2),
        "wanted_percent": WANTED_PERCENT,
        "samples": len(seen),
    }


def soak(args: argparse.Namespace, folder: Path) -> dict:
    """Render and return the report. Raises RuntimeError where the render failed."""
    from starcaster_core.video import probe

    seconds, sound, video = 60 * args.minutes, folder / "sound.wav", folder / "video.mp4"
    write_sound(sound, seconds)
    portrait = REPO / "starcaster_core" / "assets" / "portrait.png"
    words = ["--portrait", portrait, "--speech", sound, "--seconds", seconds, "--model", args.model, "--out", video]
    for option in ("steps", "size"):
        if (value := getattr(args, option)) is not None:
            words += [f"--{option}", value]
    command = [sys.executable, "-m", "starcaster_core", "generate", "--device", "cpu", *map(str, words)]
    spent, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    watched, code = watch(command, args.every)
    wall, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    if code:
        raise RuntimeError(f"Wanted a whole video, got exit code {code}: {' '.join(watched.errors) or 'no word'}")
    made = probe(video)
    return {
        "command": f"python benchmarks/soak.py --minutes {args.minutes:g} --model {args.model}"
        + "".join(f" --{option} {getattr(args, option)}" for option in ("steps", "size") if getattr(args, option)),
        "machine": f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python "
        f"{platform.python_version()}, one thread",
        "frames": made.frames,
        "frame_size": [made.width, made.height],
        "video_minutes": round(made.frames / float(made.fps) / 60, 3),
        "sound_minutes": round(made.audio_seconds / 60, 3),
        "chunks": watched.chunks,
        "video_mib": round(video.stat().st_size / 2**20, 1),
        "wall_minutes": round(wall / 60, 2),
        "processor_minutes": round((after.ru_utime + after.ru_stime - spent.ru_utime - spent.ru_stime) / 60, 2),
        "memory": memory(watched),
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="of video")
    parser.add_argument("--model", default="tiny", help="tiny (random weights), mini or a checkpoint")
    parser.add_argument("--steps", type=int, help="denoising steps; default: the model's own")
    parser.add_argument("--size", type=int, help="side of the frames that are drawn out of the photo, pixels")
    parser.add_argument("--every", type=float, default=2, help="seconds between looks at the memory")
    parser.add_argument("--folder", type=Path, help="for sound and video while the soak runs; default: a temporary one")
    parser.add_argument("--out", type=Path, default=REPO / "benchmarks" / "results" / "soak.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    args = parse(arguments)
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        report = soak(args, Path(folder))
    args.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))
    return int(report["memory"]["growth_percent"] > WANTED_PERCENT)


if __name__ == "__main__":
    raise SystemExit(main())
