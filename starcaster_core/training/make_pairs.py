"""Make the training pairs of the reference decoder: of photos, of videos and of renders.

    python -m starcaster_core.training.make_pairs --out DIR --scenes 0 1500
    python -m starcaster_core.training.make_pairs --out DIR --photos DIR --voices DIR --variants 4
    python -m starcaster_core.training.make_pairs --out DIR --videos DIR

`train --stage decoder` does the same; this makes parts of them, several at once.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from ..command import add_debug, run_command
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from .decoder_pairs import PEOPLE, VARIANTS, make_clip_pairs, make_photo_pairs, make_scenes, make_shown
from .photo_clip_pairs import make_photo_clip_pairs
from .talking_pairs import VOICE, make_talking_pairs


def make_pairs(
    model: Starcaster,
    out: Path,
    photos: Path | None,
    videos: Path | None,
    scenes: tuple[int, int],
    seed: int,
    people: int = PEOPLE,
    variants: int = VARIANTS,
    part: tuple[int, int] = (0, 1),
    voices: Path | None = None,
    data: Path | None = None,
) -> None:
    """Write the pairs that are missing, of photos and videos where there are any and of the scenes first .. last - 1.

    people: in the scenes. variants: pairs of a photo. part: (which, of how many) share of the photos. voices: folder of
    what photos say; None: the voice that ships. data: folder of rendered clips that photos say, in place of those.
    """
    out.mkdir(parents=True, exist_ok=True)
    if photos is not None:
        make_photo_pairs(model, photos, out, variants, seed, part)
        if data is None:
            make_talking_pairs(model, photos, out, seed, part, voices)
        else:
            make_photo_clip_pairs(model, photos, data, out, seed, part)
    if videos is not None:
        make_clip_pairs(model, videos, out, seed)
    make_scenes(model, out, *scenes, seed, people)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--scenes", type=int, nargs=2, default=(0, 0), metavar=("FIRST", "LAST"))
    parser.add_argument("--people", type=int, default=PEOPLE)
    parser.add_argument("--photos", type=Path)
    parser.add_argument("--videos", type=Path, help="folder of videos of people who talk")
    parser.add_argument("--voices", type=Path, help="folder of recorded speech that photos say")
    parser.add_argument("--data", type=Path, help="folder of shards made by `synth` that photos say, in place of those")
    parser.add_argument("--shown", type=int, default=0, help="so many held-out photos instead, to be looked at")
    parser.add_argument("--voice", type=Path, default=VOICE)
    parser.add_argument("--variants", type=int, default=VARIANTS)
    parser.add_argument("--part", type=int, nargs=2, default=(0, 1))
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    add_debug(parser)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = load_checkpoint(args.model)
    photos = args.photos
    if photos and args.shown:
        make_shown(model, photos, args.voice, args.out, args.shown, args.seed)
        photos = None
    make_pairs(
        model,
        args.out,
        photos,
        args.videos,
        args.scenes,
        args.seed,
        args.people,
        args.variants,
        tuple(args.part),
        args.voices,
        args.data,
    )


if __name__ == "__main__":
    raise SystemExit(run_command("make pairs", main))
