"""Are frames out of the photo near the truth, does their texture stay on the face, and does no seam show?

    python benchmarks/photo_frames.py --videos VIDEOS --out benchmarks/results/photo-frames.json

Held-out heads are rendered at 512 x 512 and held-out videos of people are aligned; the portrait is one frame, the
others are the truth. The model draws them at 128 x 128 from their own sound, head motion and camera (videos: partly
from the frames themselves). Compared are its frames out of the portrait, the drawn frames enlarged, and the portrait as
it is.

| figure | what |
|---|---|
| psnr, ssim, perceptual | of the mouth's region, 192 x 160 pixels, against the truth; perceptual: by features of a \
network that taught nothing here (`PerceptualDistance`), less is better |
| swim | renders: grey levels by which the texture of a face changes from a frame to the next at the same place of the \
skin, ratio to the truth's |
| seam | whole pictures: step across the border of the face's crop, grey levels, less the photo's own |
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor

from starcaster_core.data.clips import CONTAINERS, frames_at
from starcaster_core.data.pairs import FRAMES, render_scene, unit_names
from starcaster_core.data.splits import split_of
from starcaster_core.frame_decoder import FrameDecoder
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.extensions.portrait_warp import pixel_centres
from starcaster_core.models.judges.perceptual import PerceptualDistance
from starcaster_core.models.reference_decoder import CROPS, corner_of, take_crops
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.pipeline import generate_latents, prepare
from starcaster_core.sampling.settings import SamplerSettings
from starcaster_core.training.decoder_batches import collate, lips_of
from starcaster_core.training.decoder_pairs import AGREE, Pair, clip_pairs, scene_pairs

SEED, PEOPLE = 20_000, 20_000  # of the rendered scenes: no training had this seed
VERSIONS = ("photo", "enlarged", "still")
SWIM_FRAMES, LEAD = 4, 4  # frames whose texture is followed; those before them, which motion is smoothed with
STEPS = 20  # of finding a place of one frame in the next


@torch.no_grad()
def decode(model: Starcaster, pairs: list[Pair], in_a_row: bool = False) -> dict[str, Tensor]:
    """Return the truth and the VERSIONS of pairs' frames [N, 3, S, S], 0..1, and `regions` [N, 3, 2], where mouth and
    eyes lie. in_a_row: the frames follow each other in a video."""
    pairs = [pair.with_lips() for pair in pairs]
    batch, decoder = collate(pairs), model.reference_decoder
    made, before = [], None
    for one in range(len(pairs)):
        row = collate(pairs[one : one + 1])
        # A portrait without a landmarked face has no lips to move.
        lips = None if np.isnan(pairs[one].gaps[0]) else lips_of(row)
        photo = decoder.open_photo(row.source, row.source_regions, lips)
        decoded = decoder(row.drawn, photo, row.geometry, row.regions, in_a_row=in_a_row, before=before)
        made.append(decoded.frame)
        before = decoded.found if in_a_row else None
    enlarged = F.interpolate(batch.drawn, batch.target.shape[-2:], mode="bicubic", align_corners=False)
    found = {"truth": batch.target, "photo": torch.cat(made), "enlarged": enlarged, "still": batch.source}
    return {name: (x / 2 + 0.5).clamp(0, 1) for name, x in found.items()} | {"regions": batch.regions}


@cache
def judge() -> PerceptualDistance:
    return PerceptualDistance("lite2")


@torch.no_grad()
def mouth_figures(frames: dict[str, Tensor]) -> dict[str, dict[str, float]]:
    """Return PSNR in dB, SSIM and the perceptual distance of the mouth's region, by version."""
    width, height = CROPS["mouth"]
    corner = corner_of(frames["regions"][:, 0], CROPS["mouth"])
    truth = take_crops(frames["truth"], corner, width, height)
    figures = {}
    for name in VERSIONS:
        crop = take_crops(frames[name], corner, width, height)
        error = (crop - truth).square().mean(dim=(1, 2, 3))
        psnr = -10 * torch.log10(error.clamp(min=1e-8)).mean()
        unlike = judge()(2 * crop - 1, 2 * truth - 1).mean()
        figures[name] = {
            "psnr": psnr.item(),
            "ssim": ssim(crop, truth, 11).mean().item(),
            "perceptual": unlike.item(),
        }
    return figures


def same_places(flow: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Find the places of a frame in another one by way of the portrait.

    flow, other: backward flows to the portrait [1, 2, F, F], image sides. Returns the flow to the other frame
    [1, 2, F, F] and where there is one [1, 1, F, F].
    """
    here = pixel_centres(flow.shape[-1], flow.device)
    wanted, way = flow.movedim(1, -1) + here, torch.zeros_like(flow).movedim(1, -1)
    for _ in range(STEPS):
        there = here + way
        found = F.grid_sample(other, 2 * there - 1, padding_mode="border", align_corners=False).movedim(1, -1) + there
        way = way + 0.7 * (wanted - found)
    exact = ((wanted - found).norm(dim=-1) < AGREE)[:, None].float()
    return way.movedim(-1, 1), exact


def swim(frames: Tensor, flow: Tensor, visible: Tensor) -> float:
    """Return the mean change of the texture at the same place of the skin from a frame to the next, grey levels.

    frames [N, 3, S, S] in 0..1, in a row; flow [N, 2, F, F] to the portrait; visible [N, 1, F, F].
    """
    changes, side = [], frames.shape[-1]
    for first, then in zip(range(len(frames) - 1), range(1, len(frames))):
        way, exact = same_places(flow[first][None], flow[then][None])
        moved = F.interpolate(way, (side, side), mode="bilinear", align_corners=False).movedim(1, -1)
        grid = 2 * (pixel_centres(side, way.device) + moved) - 1
        next_one = F.grid_sample(frames[then][None], grid, mode="bicubic", align_corners=False)
        seen = F.interpolate(exact * visible[first][None], (side, side)) > 0.5
        changes.append((next_one - frames[first][None]).abs().mean(dim=1, keepdim=True)[seen].mean() * 255)
    return torch.stack(changes).mean().item()


def seam(frames: Tensor, photo: np.ndarray, mask: Tensor) -> float:
    """Return the mean step across the border of a mask [H, W] in frames [T, H, W, 3] in 0..1, grey levels, less that of
    the photo uint8 [H, W, 3]."""
    change = frames * 255 - torch.from_numpy(photo.copy()).float()
    steps = []
    for axis in (0, 1):
        size = mask.shape[axis]
        inside, outside = (mask.narrow(axis, start, size - 1) > 0 for start in (0, 1))
        across = change.narrow(axis + 1, 0, size - 1) - change.narrow(axis + 1, 1, size - 1)
        steps.append(across[:, inside != outside].abs().flatten())
    return torch.cat(steps).mean().item()


def measure_renders(model: Starcaster, scenes: int) -> tuple[list[dict], list[dict]]:
    """Return mouth figures and swimming of rendered scenes."""
    mouths, swims = [], []
    for number in range(scenes):
        scene = render_scene(SEED, number, PEOPLE, split="test", count=FRAMES)
        rng = np.random.default_rng([SEED, number])
        pairs = scene_pairs(model, scene, unit_names(), rng)
        frames = decode(model, pairs[:: FRAMES // 4])
        mouths.append(mouth_figures(frames))
        row = pairs[FRAMES // 2 : FRAMES // 2 + SWIM_FRAMES]
        led = decode(model, pairs[FRAMES // 2 - LEAD : FRAMES // 2 + SWIM_FRAMES], in_a_row=True)
        frames = {name: x[LEAD:] for name, x in led.items()}
        flow = torch.from_numpy(np.stack([pair.flow for pair in row])).float()
        visible = torch.from_numpy(np.stack([pair.visible for pair in row])).float()[:, None]
        swims.append({name: swim(frames[name], flow, visible) for name in ("truth", "photo", "enlarged")})
        print(json.dumps({"scene": number, "mouth": mouths[-1], "swim": swims[-1]}), flush=True)
    return mouths, swims


def measure_videos(model: Starcaster, folder: Path, count: int) -> list[dict]:
    """Return mouth figures of held-out videos."""
    files = [file for file in sorted(folder.rglob("*")) if file.suffix.lower() in CONTAINERS]
    files = [file for file in files if split_of("photo", file.name) == "test"][:count]
    figures = []
    for number, file in enumerate(files):
        pairs = clip_pairs(model, list(frames_at(file)), np.random.default_rng([SEED, number]), 4)
        if pairs:
            figures.append(mouth_figures(decode(model, pairs)))
            print(json.dumps({"video": number, "mouth": figures[-1]}), flush=True)
    return figures


def measure_seam(model: Starcaster, photo: Path, voice: Path) -> float:
    """Return the seam of a photo that talks for a second, whole picture."""
    conditions = prepare(model, photo, voice, seconds=1.0)
    decoder = FrameDecoder(model, conditions.identity, "picture")
    chunks = list(generate_latents(model, conditions, SamplerSettings.of(model.config, seed=1)))
    frames = torch.cat([decoder(chunk.latents, chunk.pose) for chunk in chunks])
    return seam(frames, conditions.identity.photo, decoder.mask)


def means(rows: list[dict]) -> dict:
    """Return the means of figures that lie in dictionaries alike."""
    first = rows[0]
    if isinstance(first, dict):
        return {key: means([row[key] for row in rows]) for key in first}
    return round(float(np.mean(rows)), 3)


def swim_ratios(swims: list[dict]) -> dict:
    """Return the mean ratios of swimming to the truth's."""
    return means([{name: row[name] / row["truth"] for name in ("photo", "enlarged")} for row in swims])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--videos", type=Path, help="folder of videos of people who talk")
    parser.add_argument("--pictures", type=Path, nargs="*", default=[], help="photos with more than the face")
    parser.add_argument("--voice", type=Path, help="what the pictures say")
    parser.add_argument("--count", type=int, default=12, help="videos")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    results: dict = {}
    if args.pictures:
        model = load_checkpoint(args.model)
        results["seam"] = [round(measure_seam(model, photo, args.voice), 3) for photo in args.pictures]
        print(json.dumps(results), flush=True)
    if args.scenes:
        mouths, swims = measure_renders(load_checkpoint(args.model), args.scenes)
        results |= {"scenes": len(mouths), "renders": means(mouths), "swim": swim_ratios(swims)}
    if args.videos:
        figures = measure_videos(load_checkpoint(args.model), args.videos, args.count)
        results |= {"videos": len(figures), "people": means(figures)}
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(results), flush=True)


if __name__ == "__main__":
    main()
