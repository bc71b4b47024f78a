"""Kill renders at random moments and see that what comes out in the end is what an undisturbed render gives.

    python scripts/kill_renders.py --kills 1000

Every render is a process that is killed as by `kill -9`, wherever it happens to be: in the network, in the journal,
between the two. The next one goes on with the same journal. Latents are compared bit for bit.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

REPO = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPO))  # for the processes, too

FRAMES, STEPS = 100, 2  # seven chunks


def render(folder: str, ready, result) -> None:
    """Render with a journal in `folder`, in a process of its own: say when it begins, and a hash of all latents."""
    import numpy as np
    import torch

    from starcaster_core.models.checkpoint import load_checkpoint
    from starcaster_core.sampling.journal import open_journal
    from starcaster_core.sampling.render_key import render_key
    from starcaster_core.sampling.rollout import rollout
    from starcaster_core.sampling.settings import Conditions, SamplerSettings, count_chunks
    from starcaster_core.types import Identity, Speech

    torch.set_num_threads(1)
    model = load_checkpoint("tiny", torch.float32)
    features = torch.randn(FRAMES, 64, generator=torch.Generator().manual_seed(0))
    conditions = Conditions(Identity(np.ones(128, np.float32)), Speech(features, FRAMES / 25, "phonetic"))
    settings, digest = SamplerSettings(steps=STEPS), hashlib.sha256()
    chunks = count_chunks(FRAMES, model.config.chunk_frames)
    key = render_key(model, conditions, settings)
    ready.set()
    with open_journal(folder, key, chunks, chunks * 2**17) as journal:
        for chunk in rollout(model, conditions, settings, journal=journal):
            digest.update(chunk.latents.contiguous().numpy().tobytes())
    result.put(digest.hexdigest())


def kill_renders(kills: int, seed: int = 0) -> tuple[int, int, int]:
    """Return how many renders were killed, how many came to their end, and how many of those differed."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["starcaster_core.models.checkpoint", "starcaster_core.sampling.rollout"])
    rng, killed, ended, differing = random.Random(seed), 0, 0, 0
    folder = tempfile.mkdtemp(prefix="starcaster-kills-")
    try:
        expected, seconds = run(context, folder, None)
        shutil.rmtree(folder)
        while killed < kills:
            found, _ = run(context, folder, rng.uniform(0, seconds / 2))
            killed += found is None
            if found is not None:
                ended += 1
                differing += found != expected
                shutil.rmtree(folder)
        ended += 1
        differing += run(context, folder, None)[0] != expected
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return killed, ended, differing


def run(context, folder: str, patience: float | None) -> tuple[str | None, float]:
    """Render in a process that is killed after so many seconds -> its hash, None where it was killed; its seconds."""
    ready, result = context.Event(), context.SimpleQueue()
    process = context.Process(target=render, args=(folder, ready, result))
    process.start()
    while not ready.wait(0.2):
        if not process.is_alive():
            raise RuntimeError("the render did not begin")
    started = time.monotonic()
    process.join(patience)
    took = time.monotonic() - started
    if process.is_alive():
        os.kill(process.pid, signal.SIGKILL)
        process.join()
    if process.exitcode not in (0, -signal.SIGKILL):
        raise RuntimeError(f"the render failed with exit code {process.exitcode}")
    return (None if process.exitcode else result.get()), took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    killed, ended, differing = kill_renders(args.kills, args.seed)
    print(f"{killed} renders killed, {ended} came to their end, {differing} of them differed")
    raise SystemExit(bool(differing))


if __name__ == "__main__":
    main()
