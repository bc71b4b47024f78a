"""Measure portraits that the image model draws from embeddings alone: are they the people, and do seeds agree?

    python -m starcaster_core.evaluation.identity_only --photos DIR --people 64 --out identity-only.json --sheet s.png

The people are held-out photos and, with --people, held-out people of the synthetic world. Of each group:

found     fraction of the drawn portraits in which dlib sees a face
distance  dlib distance from the drawn portrait to the embedding that it was drawn from, in the mean
others    the same to the embeddings of all other people
rank_1    fraction of portraits whose nearest embedding in the group is their own; not found counts as wrong
seeds     dlib distance between two portraits of one person, drawn from two noises
skin      difference of the cheeks' brightness from the true picture's, grey levels, in the mean

dlib's recogniser measures here; its embedding is also what portraits are drawn from, and no loss uses it.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..command import add_debug, run_command
from ..data.splits import members
from ..identity_only import draw_identity
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from ..pipeline import CROP_SIZE
from ..types import Identity
from .identity import embed_picture
from .photos import identities_in, mean_or_none, rounded

SEEDS = (0, 1)
CHEEKS = slice(0.5, 0.68), slice(0.3, 0.7)  # rows and columns of a portrait, fractions
KNOWN = 20000  # people of the synthetic world


def rendered_people(count: int) -> dict[str, Identity]:
    """Return held-out people of the synthetic world, seen from the front in even light."""
    from ..data.portraits import render_plainly

    people = {}
    for person in members("identity", range(KNOWN), "test")[:count]:
        picture, embedding = render_plainly(person, CROP_SIZE)
        people[str(person)] = Identity(embedding, picture)
    return people


def brightness(portrait: np.ndarray) -> float:
    """Return how bright the cheeks of a portrait uint8 [S, S, 3] are, grey levels."""
    rows, columns = (slice(round(part.start * len(portrait)), round(part.stop * len(portrait))) for part in CHEEKS)
    return float(np.median(portrait[rows, columns].mean(axis=-1)))


def measure_people(model: Starcaster, people: dict[str, Identity]) -> tuple[dict, list[np.ndarray]]:
    """Return the figures of a group, and for each person the true portrait and the drawn ones."""
    embeddings = np.stack([who.embedding for who in people.values()])
    figures: dict[str, list] = {name: [] for name in ("found", "distance", "others", "rank_1", "seeds", "skin")}
    strips = []
    for own, who in enumerate(people.values()):
        bare = replace(who, portrait=None)
        drawn = [draw_identity(model, bare, seed).portrait for seed in SEEDS]
        seen = [embed_picture(portrait) for portrait in drawn]
        for portrait, vector in zip(drawn, seen):
            figures["found"].append(float(vector is not None))
            figures["skin"].append(abs(brightness(portrait) - brightness(who.portrait)))
            if vector is None:
                figures["rank_1"].append(0.0)
                continue
            distances = np.linalg.norm(embeddings - vector, axis=1)
            figures["distance"].append(float(distances[own]))
            figures["others"].append(float(np.delete(distances, own).mean()))
            figures["rank_1"].append(float(distances.argmin() == own))
        if all(vector is not None for vector in seen):
            figures["seeds"].append(float(np.linalg.norm(seen[0] - seen[1])))
        strips.append(np.concatenate([who.portrait, *drawn], axis=1))
    return {"people": len(people)} | {name: mean_or_none(values) for name, values in figures.items()}, strips


def contact_sheet(strips: list[np.ndarray], columns: int = 4, side: int = 128) -> np.ndarray:
    """Lay strips of portraits out, each `side` pixels high: uint8 [H, W, 3]."""
    small = [
        torch.nn.functional.interpolate(
            torch.from_numpy(strip.copy()).permute(2, 0, 1)[None].float(), (side, side * (1 + len(SEEDS))), mode="area"
        )[0]
        for strip in strips
    ]
    small += [torch.full_like(small[0], 255)] * (-len(small) % columns)
    rows = [torch.cat(small[first : first + columns], dim=2) for first in range(0, len(small), columns)]
    return torch.cat(rows, dim=1).permute(1, 2, 0).round().byte().numpy()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="'mini' or a checkpoint")
    parser.add_argument("--photos", type=Path, help="folder of photos, of which the held-out ones are taken")
    parser.add_argument("--people", type=int, default=0, help="held-out people of the synthetic world")
    parser.add_argument("--sheet", type=Path, help="picture to write: true portraits, two drawn ones beside each")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args()
    model = load_checkpoint(args.model)
    groups = {"photos": identities_in(args.photos, held_out=True)} if args.photos else {}
    if args.people:
        groups["renders"] = rendered_people(args.people)
    results, strips = {}, []
    for name, people in groups.items():
        results[name], more = measure_people(model, people)
        strips += more
        print(name, json.dumps(rounded(results[name])), flush=True)
    args.out.write_text(json.dumps(rounded(results), indent=1) + "\n", encoding="utf-8")
    if args.sheet:
        from PIL import Image

        Image.fromarray(contact_sheet(strips)).save(args.sheet)


if __name__ == "__main__":
    raise SystemExit(run_command("measure portraits from embeddings", main))
