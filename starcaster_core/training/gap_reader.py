"""Train the part of the reference decoder that reads how far the drawn lips are apart.

    python -m starcaster_core.training.gap_reader --model M --photos DIR --data CLIPS --pairs DIR --out mini.safetensors

It is small and its crops are few, so they are all held in memory and it takes minutes. In pairs (`decoder_pairs.py`)
it is known how far the lips of the truth are apart. What the model draws may be less open, and who learns from that
reads a mean: closed mouths a little open and open ones a little closed. So the command brings the truth through the
model's autoencoder. For mouths as soft as the model draws them it lets it draw photos that follow rendered clips
(`photo_clips.py`), of which it is known how far the lips are to open.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..command import add_debug, run_command
from ..head_motion import head_rotations
from ..identity.landmarks import mouth_and_eyes
from ..models.checkpoint import build, find_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from ..models.extensions.portrait_warp import camera_at
from ..models.lip_warp import mouth_width
from ..models.reference_decoder import GAP, GapReader, drawn_mouths, geometry_of, move_regions
from ..models.starcaster import Starcaster
from ..types import Identity
from .decoder_pairs import count_pairs, decode_jpeg, draw_frames, find_person, photo_files
from .latents import through_autoencoder
from .photo_clip_pairs import STARTS
from .photo_clips import cycle_clips, lip_motion, photo_clip, saying

STEPS, BATCH, LEARNING_RATE, WARMUP = 2500, 64, 3e-3, 50
SHIFT = 3  # pixels of the drawn frame: how wrong the mouth's place is
KEPT = 0.1  # of the crops: kept to measure on
FRAMES = 16  # drawn of a photo
KNOWN = 0.65  # of a batch: mouths that the model drew
STRETCH = 1.35  # of how far those are from their mean: what is read of soft mouths is a mean, which moves too little


def read_mouths(files: list[Path], autoencode: Callable[[Tensor], Tensor] | None = None) -> tuple[Tensor, Tensor]:
    """Return the mouths of all pairs with a known opening: uint8 [N, 3, 40, 48] and float32 [N] in image sides.

    autoencode: makes of the truth, uint8 [1, S, S, 3], what a model would draw at its best, [1, s, s, 3] in 0..1; the
    mouths are cut out of that. None: out of the drawn frames, which may be less open.
    """
    from safetensors import safe_open

    mouths, gaps = [], []
    for path in files:
        count = count_pairs(path)
        with safe_open(path, framework="pt") as file:
            for index in range(count):
                if f"{index}.gaps" not in file.keys():
                    continue
                gap = file.get_tensor(f"{index}.gaps")[1]
                if gap.isnan():
                    continue
                rotation, camera, portrait_camera, regions, drawn = (
                    file.get_tensor(f"{index}.{name}")[None]
                    for name in ("rotation", "camera", "portrait_camera", "regions", "drawn")
                )
                if autoencode is not None:
                    truth = decode_jpeg(file.get_tensor(f"{index}.target").numpy().tobytes())
                    drawn = (autoencode(torch.from_numpy(truth.copy())[None]) * 255).round().byte()
                regions = move_regions(regions, geometry_of(rotation, camera, portrait_camera))
                mouths.append(drawn_mouths(drawn.permute(0, 3, 1, 2), regions)[0])
                gaps.append(gap)
    if not mouths:
        return torch.zeros(0, 3, 40, 48, dtype=torch.uint8), torch.zeros(0)
    return torch.stack(mouths), torch.stack(gaps)


@torch.no_grad()
def draw_known_mouths(model: Starcaster, photos: Path, data: Path, count: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Let the model draw training photos that say what rendered clips say: mouths as `read_mouths` gives them, FRAMES a
    photo, and how far their lips should be apart.

    In some photos sampling begins with the truth, made by geometry, so that what is drawn is what is known.
    photos: folder of aligned photos, of which `count` are drawn. data: folder of rendered shards.
    """
    rng = np.random.default_rng([seed, 0x6A9])
    files = photo_files(photos)
    clips = cycle_clips(data, ("temporal",))
    mouths, gaps = [], []
    for number in rng.permutation(len(files))[:count]:
        photo = decode_jpeg(files[number].read_bytes())
        person = find_person(photo)
        if person is None:
            continue
        found, embedding = person
        clip = next(clips)
        start = int(rng.integers(0, max(1, len(clip.frames) - FRAMES)))
        rows = slice(start, start + FRAMES)
        conditions = saying(model, clip, rows, Identity(embedding, photo))
        points = found.points[:, :2] / len(photo)
        targets = photo_clip(photo, points.astype(np.float64), clip)[0][rows]
        frames = draw_frames(model, conditions, int(rng.integers(2**31)), targets, int(rng.choice(STARTS)))
        drawn = torch.from_numpy(frames).permute(0, 3, 1, 2)
        front = camera_at()[None].expand(len(drawn), -1)
        regions = torch.from_numpy(mouth_and_eyes(points))[None].expand(len(drawn), -1, -1)
        mouths.append(
            drawn_mouths(
                drawn, move_regions(regions, geometry_of(head_rotations(conditions.head_motion), front, front))
            )
        )
        gaps.append(torch.from_numpy(mouth_width(points) * lip_motion(clip)[0][rows]).float())
    return torch.cat(mouths), torch.cat(gaps)


def augment(mouths: Tensor, generator: torch.Generator) -> Tensor:
    """Mirror, shift and recolour crops uint8 [N, 3, h, w]: float32 in about -1..1."""
    count = len(mouths)

    def draw(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator)

    x = mouths.float() / 127.5 - 1
    x = torch.where(draw(count, 1, 1, 1) < 0.5, x.flip(-1), x)
    down, right = torch.randint(-SHIFT, SHIFT + 1, (2,), generator=generator).tolist()
    x = torch.roll(F.pad(x, (SHIFT,) * 4, mode="replicate"), (down, right), (2, 3))
    x = x[..., SHIFT:-SHIFT, SHIFT:-SHIFT]
    return x * (0.8 + 0.4 * draw(count, 3, 1, 1)) + 0.1 * torch.randn(x.shape, generator=generator)


def fit_gap_reader(
    reader: GapReader,
    files: list[Path],
    seed: int = 0,
    steps: int = STEPS,
    known: tuple[Tensor, Tensor] | None = None,
    autoencode: Callable[[Tensor], Tensor] | None = None,
) -> float:
    """Train the reader in place, and return its mean error on crops kept from it, image sides.

    files: pairs; those without a known opening are left out. known: mouths and openings of `draw_known_mouths`, which
    make KNOWN of every batch, their openings stretched, and the first of which are kept. autoencode: as in
    `read_mouths`. Without anything to learn from, the reader stays as it is and the error is NaN.
    """
    mouths, gaps = read_mouths(files, autoencode)
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(mouths), generator=generator)
    wanted = gaps
    if known is None:
        if len(mouths) < 2 / KEPT:
            return math.nan
        kept, used = order[: round(KEPT * len(order))], order[round(KEPT * len(order)) :]
        sources = [(used, BATCH)]
    else:
        first, count = len(mouths), round(KEPT * len(known[0]) / FRAMES) * FRAMES  # whole photos
        middle = known[1].mean()
        wanted = torch.cat([gaps, (middle + STRETCH * (known[1] - middle)).clamp(min=0)])
        mouths, gaps = torch.cat([mouths, known[0]]), torch.cat([gaps, known[1]])
        kept, used = torch.arange(first, first + count), torch.arange(first + count, len(mouths))
        own = round(KNOWN * BATCH) if len(order) else BATCH
        sources = [(used, own), (order, BATCH - own)]
    optimizer = torch.optim.AdamW(reader.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    for step in range(steps):
        rate = min(1.0, (step + 1) / WARMUP) * 0.5 * (1 + math.cos(math.pi * step / steps))
        for group in optimizer.param_groups:
            group["lr"] = LEARNING_RATE * rate
        chosen = torch.cat(
            [rows[torch.randint(len(rows), (size,), generator=generator)] for rows, size in sources if size]
        )
        loss = ((reader(augment(mouths[chosen], generator)) - wanted[chosen]) / GAP).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(reader.parameters(), 1.0)
        optimizer.step()
    with torch.no_grad():
        read = reader(mouths[kept].float() / 127.5 - 1)
    error = (read - gaps[kept]).abs().mean().item()
    correlation = torch.corrcoef(torch.stack([read, gaps[kept]]))[0, 1].item()
    numbers = {"mouths": len(mouths) - len(kept), "error": round(error, 4), "correlation": round(correlation, 3)}
    print(json.dumps({"gap_reader": numbers}), flush=True)
    return error


def side_by_side(one: GapReader, other: GapReader) -> GapReader:
    """Return a reader as wide as both together, which reads their mean (before the last function makes it positive).

    Two that learned from different mouths are wrong in different places.
    """
    both = GapReader(one.width + other.width)
    mine, its = one.state_dict(), other.state_dict()
    weights = {}
    for name, value in both.state_dict().items():
        if name == "out.weight":
            weights[name] = torch.cat([mine[name], its[name]], dim=1) / 2
        elif name == "out.bias":
            weights[name] = (mine[name] + its[name]) / 2
        elif value.ndim == 1 or name == "body.0.0.weight":  # both see the picture
            weights[name] = torch.cat([mine[name], its[name]])
        else:  # neither sees the other's features
            weights[name] = torch.zeros_like(value)
            rows, columns = mine[name].shape[:2]
            weights[name][:rows, :columns], weights[name][rows:, columns:] = mine[name], its[name]
    both.load_state_dict(weights)
    return both


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="whose reference decoder gets a new reader")
    parser.add_argument("--photos", type=Path, required=True, help="folder of aligned photos")
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument(
        "--pairs", type=Path, help="folder of the reference decoder's pairs, whose truth it reads as well"
    )
    parser.add_argument("--count", type=int, default=420, help="photos that are drawn")
    parser.add_argument("--beside", metavar="MODEL", help="a model whose reader is kept: the mean of both is read")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True, help="the model with its reader, to be written")
    add_debug(parser)
    args = parser.parse_args()
    config, weights, provenance = read_checkpoint(find_checkpoint(args.model))
    model = build(config, weights, args.model, untrained=provenance.get("untrained", ()))
    known = draw_known_mouths(model, args.photos, args.data, args.count, args.seed)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(args.seed)
        reader = GapReader(config.reference_decoder.reader_width)
    files = sorted(args.pairs.glob("*.safetensors")) if args.pairs else []
    autoencode = partial(through_autoencoder, model)
    error = fit_gap_reader(reader, files, args.seed, known=known, autoencode=autoencode)
    made = {"known_mouths": len(known[0]), "seed": args.seed, "error_of_image_sides": round(error, 4)}
    if args.beside is not None:
        other = load_checkpoint(args.beside, torch.float32).reference_decoder
        reader = side_by_side(reader, other.gap_reader)
        made["beside"] = Path(args.beside).name
    decoder = provenance.get("reference_decoder", {}) | {"gap_reader": made}
    model.reference_decoder.gap_reader = reader
    model.config = replace(config, reference_decoder=replace(config.reference_decoder, reader_width=reader.width))
    save_checkpoint(args.out, model, provenance | {"reference_decoder": decoder})


if __name__ == "__main__":
    raise SystemExit(run_command("fit the gap reader", main))
