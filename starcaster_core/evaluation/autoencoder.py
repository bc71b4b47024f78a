"""How well a model's autoencoder gives pictures back: held-out renders, and photos, of which it was shown none.

    python -m starcaster_core.evaluation.autoencoder --model mini --data clips --photos DIR --out autoencoder.json

PSNR in dB over the whole frame and over the mouth, beside that of always answering with the mean picture of the set.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..command import add_debug, run_command
from ..identity import align, as_rgb, detect
from ..models.checkpoint import load_checkpoint
from ..training.autoencoder import evaluate, load_frames, psnr

PICTURES = {".png", ".jpg", ".jpeg", ".webp"}


def crops(photo: np.ndarray, size: int) -> tuple[str, list[np.ndarray]]:
    """Cut uint8 [H, W, 3]: ("faces", the FFHQ crop of each face), or ("other", the largest square)."""
    from PIL import Image

    faces = detect(photo)
    if faces:
        return "faces", [align(photo, face.points, size)[0] for face in faces]
    side, (height, width) = min(photo.shape[:2]), photo.shape[:2]
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(photo[top : top + side, left : left + side])
    return "other", [np.asarray(square.resize((size, size), Image.Resampling.LANCZOS))]


def picture_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix.lower() in PICTURES)


def load_photos(folder: Path, size: int) -> dict[str, Tensor]:
    """Load a folder of pictures: "faces" and "other", if there are any, each uint8 [N, 3, size, size]."""
    from PIL import Image

    found: dict[str, list[np.ndarray]] = {}
    for path in picture_files(folder):
        kind, made = crops(as_rgb(Image.open(path)), size)
        found.setdefault(kind, []).extend(made)
    return {kind: torch.from_numpy(np.stack(made)).permute(0, 3, 1, 2) for kind, made in found.items()}


def figures(vae: torch.nn.Module, images: Tensor) -> dict[str, float]:
    """Measure the PSNR of uint8 [N, 3, S, S] through the autoencoder, whole and mouth, and of the mean (chance)."""
    pixels = images.float() / 127.5 - 1
    mean = pixels.mean(0, keepdim=True) if len(pixels) > 1 else pixels.mean((2, 3), keepdim=True)
    return {"pictures": len(images), **evaluate(vae, images), "mean_picture": psnr(mean, pixels)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="'mini' or a checkpoint file")
    parser.add_argument("--data", type=Path, help="folder of shards made by `synth`: people of val and test")
    parser.add_argument(
        "--photos", type=Path, help="folder of pictures: faces are cut the FFHQ way, others to a square"
    )
    parser.add_argument("--frames", type=int, default=4, help="of each held-out clip")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args()
    model = load_checkpoint(args.model, torch.float32)
    sets = {}
    if args.data:
        sets["renders"] = torch.cat([load_frames(args.data, split, args.frames) for split in ("val", "test")])
    if args.photos:
        sets |= load_photos(args.photos, model.config.image_size)
    found = {name: figures(model.vae, images) for name, images in sets.items()}
    args.out.write_text(json.dumps(found, indent=2))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    raise SystemExit(run_command("measure the autoencoder", main))
