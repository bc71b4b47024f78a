"""The recipe's stage `decoder`: from photos, videos and renders to a checkpoint whose frames are as sharp as the photo.

    python -m starcaster_core train --stage decoder --photos DIR --videos DIR --voices DIR --steps 6000 --out DIR

Makes the pairs that are missing (`decoder_pairs.py`), trains the reference decoder on them (`decoder.py`) and writes
`OUT/decoder.safetensors`: the model of --init with that decoder. A decoder that --init has already is trained on. Every
part resumes where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..models.checkpoint import build, find_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from ..models.reference_decoder import ReferenceDecoder
from ..presets import ReferenceDecoderConfig
from .curves import last_row
from .decoder import train_decoder, with_reference_decoder
from .loop import LoopSettings
from .make_pairs import make_pairs

MINUTES = 90
CONFIG = ReferenceDecoderConfig(reader_width=16, lip_layers=True)
NO_PHOTOS = (
    "Without --photos the decoder learns from renders alone: skin, hair, beards and smiles of real people come out "
    "softer, and the frames of real photos are further from the person."
)


def run_decoder_stage(args: argparse.Namespace) -> Path:
    """Run the stage with the arguments of `train` and return the checkpoint's path. Raises InputError for a missing
    folder."""
    for name in ("photos", "videos", "voices", "data", "pairs"):
        folder = getattr(args, name)
        if folder is not None and not folder.is_dir():
            raise InputError(f"a folder for --{name}", f"{folder}, which is none", "Correct the path.")
    source = args.init or "mini"
    pairs = args.pairs or args.out / "pairs"
    if args.pairs is None:
        if args.photos is None:
            print(json.dumps({"warning": NO_PHOTOS}), flush=True)
        scenes = (0, args.scenes)
        said = {"voices": args.voices, "data": args.data}
        make_pairs(load_checkpoint(source), pairs, args.photos, args.videos, scenes, args.seed, **said)
    kinds = Counter(path.name.split("-")[0] for path in pairs.glob("*.safetensors"))
    if not kinds:
        raise InputError("a folder of pairs", f"{pairs}, with none in it", "Leave --pairs out to have them made.")
    # A part cannot be left out of weights that learned with it.
    begin = None if args.anew or args.without else decoder_of(source)
    wide = 0 if begin is None else begin.config.reader_width
    decoder_config = replace(CONFIG, reader_width=wide or CONFIG.reader_width)
    settings = LoopSettings(
        args.minutes or MINUTES,
        steps=args.steps,
        learning_rate=5e-4 if begin is not None and begin.config == decoder_config else 1e-3,
        warmup=100,
        ema=0.995,
        show_minutes=args.grid_minutes,
    )
    decoder = train_decoder(decoder_config, pairs, args.out, settings, args.seed, without=args.without, begin=begin)
    # Built anew in float32: what `load_checkpoint` computes in may be bfloat16, which would round the weights.
    config, weights, provenance = read_checkpoint(find_checkpoint(source))
    model = build(config, weights, source, untrained=provenance.get("untrained", ()))
    provenance["reference_decoder"] = {
        "command": "python -m starcaster_core " + " ".join(without_folders(sys.argv[1:])),
        "seed": args.seed,
        "log": last_row(args.out / "decoder.csv"),
        "files_of_pairs": dict(sorted(kinds.items())),
        "begun_from": None if begin is None else Path(source).name,
        "revision": revision(),
    }
    path = args.out / "decoder.safetensors"
    save_checkpoint(path, with_reference_decoder(model, decoder), provenance)
    print(json.dumps({"written": str(path)}), flush=True)
    return path


def decoder_of(source: str | Path) -> ReferenceDecoder | None:
    """Return the reference decoder of a checkpoint, float32; None where it has none, or one of other widths."""
    config, weights, _ = read_checkpoint(find_checkpoint(source))
    own, prefix = config.reference_decoder, "reference_decoder."
    if own is None or replace(own, reader_width=CONFIG.reader_width, lip_layers=CONFIG.lip_layers) != CONFIG:
        return None
    decoder = ReferenceDecoder(own)
    mine = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    decoder.load_state_dict(mine)
    return decoder


def without_folders(arguments: list[str]) -> list[str]:
    """Shorten paths to their last part: a file that is shared does not say where it was made."""
    return [Path(argument).name if "/" in argument or "\\" in argument else argument for argument in arguments]


def revision() -> str | None:
    """Return the commit of this code, None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return found.stdout.strip() or None
