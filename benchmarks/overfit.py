"""Trains the paper's stages on a handful of clips until they are known by heart: does every part of the method learn?

    python benchmarks/overfit.py --data CLIPS --lipreader L.safetensors --minutes 60 --out OUT
    python benchmarks/overfit.py --data CLIPS --lipreader L.safetensors --minutes 60 --out OTHER --without self-forcing

Takes the first clips of each kind, with `--init mini` (default) or a new model (`--init new --autoencoder A --speech
P`). OUT gets these clips as a set of their own (OUT/clips, measured by `evaluate --data OUT/clips --split train`),
their ids (OUT/clips.json), and what `train` leaves: a checkpoint, curves and sample grids of every stage. `--without`
is an ablation with everything else equal: the same clips, seed, steps or minutes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from starcaster_core.data.shards import Clip, find_shards, read_clips, shard_path, write_shard
from starcaster_core.errors import InputError
from starcaster_core.training import portrait
from starcaster_core.training.recipe import ABLATIONS

KINDS = ("temporal", "spatial")


def first_clips(data: Path, kind: str, count: int) -> list[Clip]:
    """Return the first clips of the people in training. Raises InputError for too few."""
    found = []
    for clip in read_clips(data, "train", kinds=(kind,)):
        found.append(clip)
        if len(found) == count:
            return found
    raise InputError(f"{count} {kind} clips for training in {data}", str(len(found)), "Make more with `synth`.")


def make_set(data: Path, count: int, folder: Path) -> None:
    """Make a set of the first `count` clips of each kind, unless it is there."""
    if find_shards(folder):
        return
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {kind: first_clips(data, kind, count) for kind in KINDS}
    ids = {kind: [clip.key for clip in clips] for kind, clips in chosen.items()}
    (folder.parent / "clips.json").write_text(json.dumps(ids, indent=1) + "\n", encoding="utf-8")
    write_shard(shard_path(folder, 0), [clip for clips in chosen.values() for clip in clips])


def train_arguments(args: argparse.Namespace) -> argparse.Namespace:
    """Return the arguments of `train` for this set."""
    parser = argparse.ArgumentParser()
    portrait.add_arguments(parser)
    words = ["--data", args.out / "clips", "--out", args.out, "--seed", args.seed, "--stage", *args.stage]
    words += ["--minutes", args.minutes, "--steps", args.steps]
    for name in ("autoencoder", "speech", "lipreader", "threads"):
        if getattr(args, name):
            words += [f"--{name}", getattr(args, name)]
    if args.init != "new":
        words += ["--init", args.init]
    if args.unfreeze:
        words.append("--unfreeze")
    if args.without:
        words += ["--without", *args.without]
    return parser.parse_args([str(word) for word in words])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument("--clips", type=int, default=16, help="of each kind")
    parser.add_argument("--init", default="mini", help="'mini', a checkpoint, or new")
    parser.add_argument("--autoencoder", type=Path, help="with --init new")
    parser.add_argument("--speech", type=Path, help="with --init new")
    parser.add_argument("--lipreader", type=Path, help="lipreader.safetensors; needed unless --without lips")
    parser.add_argument("--stage", nargs="+", default=["1", "2", "3"], help="as for `train`")
    parser.add_argument("--unfreeze", action="store_true", help="train the 2D weights too")
    parser.add_argument("--without", nargs="+", default=[], choices=ABLATIONS)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--steps", type=int, default=0, help="instead of --minutes: comparable on any machine")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if not args.lipreader and "lips" not in args.without:
        parser.error("--lipreader FILE, or --without lips")
    make_set(args.data, args.clips, args.out / "clips")
    portrait.run(train_arguments(args))


if __name__ == "__main__":
    main()
