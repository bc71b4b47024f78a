"""Begin what the reference decoder knows of the inside of mouths (`ReferenceDecoder.interior`) with the mean of what
pairs show between lips.

    python -m starcaster_core.training.interior --model M --pairs pairs --contrast 1.25 --out mini.safetensors

Training goes on making a mean of it, and teeth that lie elsewhere in every mouth cancel out: mouths look filled in. The
command fits the pictures anew, or takes those of another model, and gives them back some of the contrast of a single
mouth.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..command import add_debug, run_command
from ..models.checkpoint import build, find_checkpoint, read_checkpoint, save_checkpoint
from ..models.lip_warp import compose, lip_flow
from ..models.reference_decoder import (
    INTERIOR,
    INTERIOR_SCALE,
    ReferenceDecoder,
    corner_of,
    crop_places,
    crop_size,
    flows_apart,
    interior_places,
    lips_at,
    resize,
    take_crops,
)
from .decoder_batches import collate, lips_of
from .decoder_pairs import count_pairs, read_pair

PAIRS = 600  # that are looked at
ROUNDS = 10  # of fitting one picture to what the other leaves over
FEW = 30  # pixels: what a cell shows less often is not believed
PHOTOS = ("photo-", "say-")  # how the names of their pairs' files begin
NAME = "reference_decoder.interior"  # in a checkpoint


@torch.no_grad()
def begin_interior(decoder: ReferenceDecoder, files: list[Path]) -> None:
    """Set the pictures whose sum comes nearest to what the truth of pairs shows between lips.

    Photos alone are asked, where there are any: renders have other teeth, and videos are soft. Without pairs that show
    something they stay as they are.
    """
    files = [file for file in files if file.name.startswith(PHOTOS)] or files
    pairs = [(file, index) for file in files for index in range(count_pairs(file))]
    rows: list[tuple[Tensor, Tensor, Tensor]] = []
    for file, index in pairs[:: max(1, len(pairs) // PAIRS)]:
        pair = read_pair(file, index)
        if not pair.told.any():  # nobody knows how far its lips are apart
            continue
        batch = collate([pair])
        lips, gap = lips_of(batch), batch.gaps[:, 1].nan_to_num()
        turned = resize(batch.geometry, batch.way.shape[-1])
        flow = compose(turned, lip_flow(lips.way, lips.gap, gap))
        width, height = (length // 2 for length in crop_size("mouth"))
        corner = corner_of(batch.regions[:, 0], crop_size("mouth")) // 2
        places = crop_places(corner, width, height, batch.target.shape[-1] // 2)
        _, layers = lips_at(places, flow, flows_apart(turned, flow, lips, gap), lips)
        known = take_crops(F.interpolate(batch.known, scale_factor=2), corner, width, height)[0, 0] > 0.5
        unknown = (layers.unknown[0, 0] > 0.5) & known  # what was drawn is no truth
        if not unknown.any():
            continue
        shown = take_crops(F.avg_pool2d(batch.target, 2), corner, width, height)[0].movedim(0, -1)
        upper, lower = (cells(at[0][unknown]) for at in interior_places(layers))
        rows.append((upper, lower, shown[unknown]))
    if rows:
        upper, lower, colours = (torch.cat(parts) for parts in zip(*rows))
        pictures = torch.stack(backfit(upper, lower, colours)) / INTERIOR_SCALE
        decoder.interior.copy_(pictures.unflatten(1, (INTERIOR, INTERIOR)).movedim(-1, 1))


def cells(places: Tensor) -> Tensor:
    """Return the numbers of the cells of a picture that places [K, 2] in 0..1 lie in."""
    at = (places * INTERIOR).long().clamp(0, INTERIOR - 1)
    return at[:, 1] * INTERIOR + at[:, 0]


def backfit(upper: Tensor, lower: Tensor, colours: Tensor) -> tuple[Tensor, Tensor]:
    """Fit colours [K, 3] by the sum of a picture each, [INTERIOR^2, 3], at cells [K]: one to what the other leaves
    over, in turn. Cells that show nothing take the mean."""
    mean = colours.mean(dim=0)
    one, other = mean.repeat(INTERIOR**2, 1), torch.zeros(INTERIOR**2, 3)
    for _ in range(ROUNDS):
        one = cell_means(upper, colours - other[lower], mean)
        other = cell_means(lower, colours - one[upper], torch.zeros(3))
    return one, other


def cell_means(at: Tensor, values: Tensor, otherwise: Tensor) -> Tensor:
    """Return the mean of values [K, 3] by cell; FEW values are taken to be `otherwise` in each."""
    sums = torch.zeros(INTERIOR**2, 3).index_add(0, at, values)
    counts = torch.zeros(INTERIOR**2).index_add(0, at, torch.ones(len(at)))[:, None]
    return (sums + FEW * otherwise) / (counts + FEW)


def with_contrast(pictures: Tensor, factor: float) -> Tensor:
    """Multiply how far colours of pictures [..., h, w] are from their mean."""
    mean = pictures.mean(dim=(-2, -1), keepdim=True)
    return mean + factor * (pictures - mean)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="whose reference decoder gets other pictures")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--of", metavar="MODEL", help="whose pictures are taken; default: its own")
    source.add_argument("--pairs", type=Path, help="fit them anew to the pairs of photos in this folder")
    parser.add_argument("--contrast", type=float, default=1.25, help="1 leaves them as they are")
    parser.add_argument("--out", type=Path, required=True, help="the model with the pictures, to be written")
    add_debug(parser)
    args = parser.parse_args()
    config, weights, provenance = read_checkpoint(find_checkpoint(args.model))
    model = build(config, weights, args.model, untrained=provenance.get("untrained", ()))
    interior = model.reference_decoder.interior
    if args.pairs is not None:
        begin_interior(model.reference_decoder, sorted(args.pairs.glob("*.safetensors")))
    elif args.of is not None:
        interior.data.copy_(read_checkpoint(find_checkpoint(args.of))[1][NAME])
    interior.data.copy_(with_contrast(interior.data, args.contrast))
    made = {"of": Path(args.pairs or args.of or args.model).name, "contrast": args.contrast}
    provenance["reference_decoder"] = provenance.get("reference_decoder", {}) | {"interior": made}
    save_checkpoint(args.out, model, provenance)


if __name__ == "__main__":
    raise SystemExit(run_command("change the inside of mouths", main))
