"""What the denoiser's training needs, made where it is missing: clips, the frozen helpers, encoded clips.

Each gets a share of the whole time (SHARES); what is given or was made by an earlier run is taken as it is.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from multiprocessing import get_context
from pathlib import Path

from ..errors import InputError
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from ..presets import ModelConfig
from .latents import encode_shards, new_model, recogniser_for
from .loop import training_device
from .photo_clips import encode_photos

SHARES = {
    "clips": 0.2,
    "autoencoder": 0.1,
    "speech": 0.1,
    "lip reader": 0.05,
}  # of the minutes; the denoiser's is the rest
LEAST_SHARE = 0.4  # of the minutes that the denoiser gets, however long the others took
FRAMES, PEOPLE = 48, 2000  # of a clip; to draw from
# Kinds of a shard's clips, and how far from the front the still cameras stand, degrees
SHARD = (("temporal", 12.0), ("spatial", 0.0), ("temporal", 45.0), ("spatial", 0.0), ("joint", 0.0))
UTTERANCES_A_MINUTE = 100  # for the speech encoder: more training, more to hear


@dataclass(frozen=True)
class Materials:
    """Files and folders; None for what a recipe does without."""

    clips: Path | None
    latents: Path
    autoencoder: Path | None
    speech: Path | None
    lipreader: Path | None


def prepare(
    config: ModelConfig,
    out: Path,
    minutes: float,
    seed: int,
    clips: Path | None = None,
    latents: Path | None = None,
    autoencoder: Path | None = None,
    speech: Path | None = None,
    lipreader: Path | None = None,
    init: str | None = None,
    read_lips: bool = True,
    recognisers: list[Path] = (),
    photos: Path | None = None,
) -> Materials:
    """Make what is missing in `out`, each within its fraction (SHARES) of `minutes`.

    init: a model whose autoencoder and speech encoder are used. photos: folder of aligned photos that are to talk
    beside the clips (`photo_clips.py`). Without clips (only `latents` given) there is no lip reader but a given one.
    """
    if clips is None and latents is None:
        clips = out / "clips"
        render(clips, minutes * SHARES["clips"], config.image_size, seed)
    if init is None and config.speech_encoder != "phonetic":
        raise InputError(f"a checkpoint for {config.name}", "none", "Assemble one and name it with --init.")
    if init is None:
        autoencoder = autoencoder or train_autoencoder(config, clips, out, minutes * SHARES["autoencoder"], seed)
        speech = speech or train_speech(out, minutes * SHARES["speech"], seed)
    if not read_lips:
        lipreader = None
    model = None
    if clips is not None and ((read_lips and lipreader is None) or latents is None):
        model = load_checkpoint(init) if init else new_model(config, autoencoder, speech, seed)
    if clips is not None and read_lips and lipreader is None:
        lipreader = train_lipreader(model, clips, out, minutes * SHARES["lip reader"], seed)
    if latents is None:
        latents = out / "latents"
        encode_shards(clips, latents, model.to(training_device()), recogniser_for(config, recognisers))
        if photos is not None:
            encode_photos(photos, clips, latents, model)
    return Materials(clips, latents, autoencoder, speech, lipreader)


def train_autoencoder(config: ModelConfig, clips: Path | None, out: Path, minutes: float, seed: int) -> Path:
    from . import autoencoder

    file = out / "autoencoder.safetensors"
    if not file.exists():
        if clips is None:
            raise InputError("clips to train an autoencoder on", "only --latents", "Give --autoencoder or --data.")
        autoencoder.run(clips, out, minutes, seed, config.autoencoder)
    return file


def train_speech(out: Path, minutes: float, seed: int) -> Path:
    from . import phonetic

    file = out / "speech" / "phonetic.safetensors"
    if not file.exists():
        phonetic.run(minutes, file.parent, seed, int(min(1600, max(60, UTTERANCES_A_MINUTE * minutes))))
    return file


def train_lipreader(model: Starcaster, clips: Path, out: Path, minutes: float, seed: int) -> Path:
    from . import lipreader

    file = out / "lipreader.safetensors"
    if not file.exists():
        lipreader.run([clips], file, minutes, seed, vae=model.vae)
    return file


# Clips ---------------------------------------------------------------------------------------------------------------


def render(folder: Path, minutes: float, size: int, seed: int, workers: int = 0) -> None:
    """Render synthetic clips, as many as fit into `minutes`, but at least a shard of the training people and one of
    held-out ones; nothing where that was done before."""
    done = folder / "rendered.json"
    if done.exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    workers = workers or min(os.cpu_count() or 1, 16)
    tasks, running, finished = shard_tasks(folder, size, seed), set(), 0
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        while finished + len(running) < 2 or time.monotonic() < deadline:
            while len(running) < workers:
                running.add(pool.submit(make_shard, *next(tasks)))
            ready, running = wait(running, return_when=FIRST_COMPLETED)
            for future in ready:
                future.result()
                finished += 1
    shards = len(list(folder.glob("shard-*.tar")))
    done.write_text(json.dumps({"minutes": minutes, "seed": seed, "size": size, "shards": shards}) + "\n")
    print(json.dumps({"rendered": shards * len(SHARD), "clips of frames": FRAMES}), flush=True)


def shard_tasks(folder: Path, size: int, seed: int) -> Iterator[tuple[Path, int, int, int, str]]:
    """Return the arguments of `make_shard`: the second shard, and every tenth, is of held-out people."""
    for number in count():
        yield folder, number, size, seed, "val" if number % 10 == 1 else "train"


def make_shard(folder: Path, number: int, size: int, seed: int, split: str) -> None:
    """Render a shard of clips of the kinds SHARD, in a worker."""
    from ..data.shards import shard_path, write_shard
    from ..data.synth import Settings, make_clip

    path = shard_path(folder, number)
    if not path.exists():
        first = number * len(SHARD)
        plans = [
            Settings(0, FRAMES, size, seed, PEOPLE, ((kind, 1.0),), (split,), static_yaw=yaw) for kind, yaw in SHARD
        ]
        write_shard(path, (make_clip(plan, first + i) for i, plan in enumerate(plans)))
