"""Do the synthetic heads pass for faces, and for different people? Asked of dlib's detector and recogniser.

    python -m starcaster_core.data.faces --data DIR --out faces.json --histogram faces.png

Measured on frames of the clips themselves, light, background, grain and expression as they come, within LIMIT of yaw;
and, for one person under different lights, on pictures made for it, since a clip has one light.
"""

from __future__ import annotations

import argparse
import json
from itertools import combinations
from pathlib import Path

import numpy as np

from ..camera.poses import angles
from ..command import add_debug, run_command
from ..identity import detect, embed
from ..identity.pictures import enlarged
from .shards import Clip, read_clips

LIMIT = 45.0  # degrees of yaw of the camera


def frames_within(clip: Clip, count: int) -> list[np.ndarray]:
    """Return up to `count` evenly spaced frames among those within LIMIT, at least 256 pixels wide for the detector."""
    yaw, _, _ = angles(clip.truth["world_from_cam"])
    usable = np.flatnonzero(np.abs(yaw) <= LIMIT)
    if not len(usable):
        return []
    chosen = usable[np.linspace(0, len(usable) - 1, min(count, len(usable))).round().astype(int)]
    times = -(-256 // clip.frames.shape[1])
    return [enlarged(clip.frames[i], times) for i in chosen]


def read_faces(folder: Path, frames_per_clip: int) -> tuple[int, dict[int, list[np.ndarray]]]:
    """Return how many frames were searched, and the embeddings of those with a face, by person."""
    asked, people = 0, {}
    for clip in read_clips(folder):
        for picture in frames_within(clip, frames_per_clip):
            asked += 1
            faces = detect(picture)
            if faces:
                people.setdefault(clip.info["identity"], []).append(embed(picture, faces[0]))
    return asked, people


def distances(people: dict[int, list[np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Return the dlib distances between frames of one person, and between the first frames of different people."""

    def between(vectors) -> list[float]:
        return [float(np.linalg.norm(a - b)) for a, b in combinations(vectors, 2)]

    same = [distance for vectors in people.values() for distance in between(vectors)]
    return np.array(same), np.array(between([vectors[0] for vectors in people.values()]))


def relit(persons: list[int], pictures: int = 4) -> dict[int, list[np.ndarray]]:
    """Embed `persons` (identity seeds), each rendered under `pictures` lights and from as many sides."""
    from ..camera.poses import default_intrinsics, world_from_cam
    from .heads.lighting import sample_lighting
    from .synth import synthetic_world

    world, people = synthetic_world(), {}
    for person in persons:
        rig = world.load_person(person)
        world.renderer.pose(np.zeros(len(rig.morphs), np.float32))
        for number, yaw in enumerate(np.linspace(-20, 20, pictures)):
            lighting = sample_lighting(1000 * person + number)
            picture = world.renderer.draw(lighting, world_from_cam(yaw, 0), default_intrinsics(3.4), size=256)
            for face in detect(picture)[:1]:
                people.setdefault(person, []).append(embed(picture, face))
    return people


def told(values: np.ndarray) -> dict:
    if not len(values):
        return {"pairs": 0}
    low, high = np.percentile(values, [5, 95])
    return {"pairs": len(values), "mean": round(values.mean(), 3), "5%": round(low, 3), "95%": round(high, 3)}


def draw_histogram(same: np.ndarray, different: np.ndarray, path: Path) -> None:
    """Draw two outlines over distances 0 .. 1: one person (blue), different people (orange); a grey line at 0.6."""
    from PIL import Image, ImageDraw

    width, height, bins = 720, 300, np.linspace(0, 1, 51)
    picture = Image.new("RGB", (width, height + 24), "white")
    pen = ImageDraw.Draw(picture)
    pen.line([(0.6 * width, 0), (0.6 * width, height)], fill="#bbbbbb")
    for values, colour in ((same, "#2b6cb0"), (different, "#dd6b20")):
        shares = np.histogram(values, bins)[0] / max(len(values), 1)
        tops = height - shares / max(shares.max(), 1e-9) * 0.9 * height
        pen.line([(x * width, y) for x, y in zip((bins[:-1] + bins[1:]) / 2, tops)], fill=colour, width=3)
    for tick in np.arange(0, 1.0, 0.2):
        pen.text((tick * width + 3, height + 6), f"{tick:.1f}", fill="black")
    picture.save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument("--frames", type=int, default=4, help="frames a clip that are looked at")
    parser.add_argument("--relit", type=int, default=0, help="how many people to render under four lights each")
    parser.add_argument("--histogram", type=Path, help="picture of the distances to write")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args()
    asked, people = read_faces(args.data, args.frames)
    same, different = distances(people)
    found = sum(len(vectors) for vectors in people.values())
    result = {
        "frames": asked,
        "faces_found": round(found / max(asked, 1), 4),
        "people": len(people),
        "distance_same_person": told(same),
        "distance_different_people": told(different),
        "share_of_different_people_below_0.45": round(float((different < 0.45).mean()), 4) if len(different) else None,
    }
    if args.relit:
        result["distance_same_person_other_light"] = told(distances(relit(sorted(people)[: args.relit]))[0])
    args.out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    if args.histogram:
        draw_histogram(same, different, args.histogram)


if __name__ == "__main__":
    raise SystemExit(run_command("measure faces", main))
