"""Photos of real people, who look like no render the built-in model was trained on: does the face stay, and the skin?

    python -m starcaster_core.evaluation.photos --model mini --photos DIR --voice voice.flac --out photos.json

Every face says what the voice says. Figures of a photo: `found`, share of the looked-at frames in which dlib sees a face;
`distance` of these to the photo's embedding, beside that of the crop `through_autoencoder` (the best the model could do)
and of the other photos (`strangers`); `colour`, how far the mean colour of the middle of the face is off, in grey levels
(0..255); `sharpness` of the frames as a share of the crop's.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..errors import FaceError
from ..identity import as_rgb, make_identity, read_picture
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from ..sampling.settings import Conditions, SamplerSettings
from ..speech import load_audio, mono16k
from ..types import Identity
from .autoencoder import picture_files
from .drift import sharpness
from .footage import as_bytes, generate, through_autoencoder
from .identity import embed_picture

EVERY = 8  # frames; dlib takes a tenth of a second for each


def faces_in(folder: Path, size: int) -> dict[str, Identity]:
    """file name -> its largest face; pictures without one are left out"""
    found = {}
    for path in picture_files(folder):
        try:
            found[path.name] = make_identity([as_rgb(read_picture(path))], size)
        except FaceError:
            continue
    return found


def measure(model: Starcaster, video: Tensor, who: Identity, others: list[Identity]) -> dict[str, float | None]:
    crop = torch.from_numpy(who.portrait)[None]
    best = as_bytes(through_autoencoder(model, crop))
    looked_at = video[::EVERY]
    seen = [vector for vector in map(embed_picture, looked_at.numpy()) if vector is not None]

    def distance(vectors) -> float | None:
        apart = [float(np.linalg.norm(vector - who.embedding)) for vector in vectors if vector is not None]
        return round(float(np.mean(apart)), 3) if apart else None

    return {
        "found": round(len(seen) / len(looked_at), 3),
        "distance": distance(seen),
        "through_autoencoder": distance([embed_picture(best[0].numpy())]),
        "strangers": distance([other.embedding for other in others]),
        "colour": round((middle(looked_at) - middle(crop)).abs().mean().item(), 1),
        "sharpness": round((sharpness(looked_at.float()).mean() / sharpness(crop.float())[0]).item(), 2),
    }


def middle(frames: Tensor) -> Tensor:
    """Mean colour of the middle, where an FFHQ crop has cheeks and nose: [N, S, S, 3] -> [N, 3]"""
    side = frames.shape[1]
    low, high = round(0.35 * side), round(0.65 * side)
    return frames[:, low:high, low:high].float().mean(dim=(1, 2))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="'mini' or a checkpoint")
    parser.add_argument("--photos", type=Path, required=True, help="folder of pictures")
    parser.add_argument("--voice", type=Path, required=True, help="what they say")
    parser.add_argument("--sheet", type=Path, help="picture to write: each crop, then frames of its video")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    args = parser.parse_args()
    model = load_checkpoint(args.model)
    settings = SamplerSettings.of(model.config)
    people = faces_in(args.photos, model.config.image_size)
    speech = model.encode_speech(mono16k(*load_audio(args.voice)))
    figures, rows = {}, []
    for name, who in people.items():
        video = generate(model, Conditions(who, speech), settings)
        figures[name] = measure(model, video, who, [other for key, other in people.items() if key != name])
        rows.append(np.concatenate([who.portrait, *video[:: max(1, len(video) // 7)][:7].numpy()], axis=1))
        print(name, json.dumps(figures[name]), flush=True)
    args.out.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    if args.sheet:
        from PIL import Image

        Image.fromarray(np.concatenate(rows)).save(args.sheet)


if __name__ == "__main__":
    main()
