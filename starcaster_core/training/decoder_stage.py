"""The recipe's stage `decoder`: from photos, videos and renders to a checkpoint whose frames are as sharp as the photo.

    python -m starcaster_core train --stage decoder --photos DIR --videos DIR --steps 3200 --out DIR

Makes the pairs that are missing (`decoder_pairs.py`), trains the reference decoder on them (`decoder.py`) and writes
`OUT/decoder.safetensors`: the model of --init with that decoder. Every part resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import torch

from ..errors import InputError
from ..models.checkpoint import find_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from ..presets import ReferenceDecoderConfig
from .decoder import train_decoder, with_reference_decoder
from .decoder_pairs import make_clip_pairs, make_photo_pairs, make_scenes
from .loop import LoopSettings

PEOPLE = 700  # in them
VARIANTS = 4  # pairs of a photo
MINUTES = 90
NO_PHOTOS = (
    "Without --photos the decoder learns from renders alone: skin, hair, beards and smiles of real people come out softer, "
    "and the frames of real photos are further from the person."
)


def run_decoder_stage(args: argparse.Namespace) -> Path:
    """Run the stage with the arguments of `train` and return the checkpoint's path. Raises InputError for a missing folder."""
    for name in ("photos", "videos", "pairs"):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            raise InputError(f"a folder for --{name}", f"{folder}, which is none", "Correct the path.")
    source = args.init or "mini"
    model = load_checkpoint(source, torch.float32)  # not bfloat16, which would round the weights
    pairs = args.pairs or args.out / "pairs"
    if args.pairs is None:
        if args.photos is None:
            print(json.dumps({"warning": NO_PHOTOS}), flush=True)
        make_pairs(model, pairs, args)
    kinds = Counter(path.name.split("-")[0] for path in pairs.glob("*.safetensors"))
    if not kinds:
        raise InputError("a folder of pairs", f"{pairs}, with none in it", "Leave --pairs out to have them made.")
    settings = LoopSettings(
        args.minutes or MINUTES,
        steps=args.steps,
        learning_rate=1e-3,
        warmup=100,
        ema=0.995,
        show_minutes=args.grid_minutes,
    )
    decoder = train_decoder(ReferenceDecoderConfig(), pairs, args.out, settings, args.seed)
    provenance = read_checkpoint(find_checkpoint(source))[2]
    provenance["reference_decoder"] = {
        "command": "python -m starcaster_core " + " ".join(sys.argv[1:]),
        "seed": args.seed,
        "log": last_row(args.out / "decoder.csv"),
        "files_of_pairs": dict(sorted(kinds.items())),
        "begun_from": str(source),
        "revision": revision(),
    }
    path = args.out / "decoder.safetensors"
    save_checkpoint(path, with_reference_decoder(model, decoder), provenance)
    print(json.dumps({"written": str(path)}), flush=True)
    return path


def make_pairs(model, folder: Path, args: argparse.Namespace) -> None:
    """Write the pairs that are missing: of photos and videos where there are any, and of renders."""
    folder.mkdir(parents=True, exist_ok=True)
    if args.photos is not None:
        make_photo_pairs(model, args.photos, folder, VARIANTS, args.seed, (0, 1))
    if args.videos is not None:
        make_clip_pairs(model, args.videos, folder, args.seed)
    make_scenes(model, folder, 0, args.scenes, args.seed, PEOPLE)


def last_row(log: Path) -> dict:
    """Return steps and minutes of a training, from its log."""
    header, *_, last = log.read_text().splitlines()
    row = dict(zip(header.split(","), last.split(",")))
    return {"steps": int(float(row["step"])), "minutes": float(row["minutes"])}


def revision() -> str | None:
    """Return the commit of this code, None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
