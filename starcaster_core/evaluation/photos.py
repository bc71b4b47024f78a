"""Measure videos made from photos of real people: identity, sharpness, colour, lips, and views from the side.

    python -m starcaster_core.evaluation.photos --photos DIR --voice voice.flac --out photos.json --sheet photos.png
    python -m starcaster_core.evaluation.photos --photos DIR --held-out --people 40 ...

Every face says what the voice says. VERSIONS are measured on the same latents: frames out of the photo
(`frame_decoder.py`), the autoencoder's frames enlarged, and the photo standing still, which is as good as the
instruments see. Figures of a photo:

found           fraction of the looked-at frames in which dlib sees a face
distance        of these to the photo's dlib embedding, in the mean
sharpness       of the face, as a fraction of the photo's at the same size (root mean square of the Laplacian)
colour          difference of the face's mean colour from the photo's, grey levels of 255
lips            how the mouth's opening goes along with the autoencoder's frames, which the lips were drawn in:
                correlation, and size of the motion as a fraction of theirs (standard deviations, image sides)
views           for a camera 15 and 30 degrees aside, with a still head: found, distance, and whether the person is the
                nearest of all the folder's (rank 1)

dlib's recogniser measures here and has taught nothing. The landmarker, which measures the lips, has taught what reads
them.
--held-out takes the photos that training leaves out (`split_of`).
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..camera import CameraMove, preset_path
from ..command import add_debug, run_command
from ..data.splits import split_of
from ..errors import FaceError
from ..frame_decoder import FrameDecoder
from ..identity import as_rgb, make_identity, read_picture
from ..identity.landmarks import find_landmarks
from ..models.checkpoint import load_checkpoint
from ..models.lip_warp import mouth_gap
from ..models.starcaster import Starcaster
from ..pipeline import CROP_SIZE, generate_latents
from ..sampling.settings import Conditions, SamplerSettings
from ..speech import load_audio, mono16k
from ..types import Identity, Speech
from .autoencoder import PICTURES
from .drift import sharpness
from .identity import embed_picture
from .videos import to_uint8

EVERY = 2  # frames that are kept
SEEN = 4  # every so many of these: dlib takes a tenth of a second for each
VIEWS = (15.0, 30.0)  # degrees of camera yaw, to both sides
VERSIONS = {
    "photo": "frames out of the photo",
    "autoencoder": "the autoencoder's frames, enlarged",
    "still": "the photo standing still",
}
FACE = slice(0.22, 0.88), slice(0.2, 0.8)  # rows and columns of the crop, fractions


@dataclass(frozen=True)
class Video:
    """frames: uint8 [N, S, S, 3] by version. seconds: of computing for a second of video."""

    frames: dict[str, Tensor]
    seconds: float


def identities_in(folder: Path, held_out: bool = False, people: int | None = None) -> dict[str, Identity]:
    """Return the largest face of each picture, by file name; pictures without one are left out."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if held_out:
        paths = [path for path in paths if split_of("photo", path.name) != "train"]
    found: dict[str, Identity] = {}
    for path in paths[:: max(1, len(paths) // people)] if people else paths:
        try:
            found[path.name] = make_identity([as_rgb(read_picture(path))], CROP_SIZE, "largest")
        except FaceError:
            continue
    return dict(list(found.items())[:people])


def generate_versions(
    model: Starcaster, conditions: Conditions, settings: SamplerSettings, every: int = EVERY
) -> Video:
    """Generate a video and decode it in each version, keeping every so many frames."""
    by_photo, plain = FrameDecoder(model, conditions.identity), FrameDecoder(model, None, size=CROP_SIZE)
    made: dict[str, list[Tensor]] = {name: [] for name in VERSIONS}
    began, other = time.monotonic(), 0.0
    for chunk in generate_latents(model, conditions, settings):
        made["photo"].append(to_uint8(by_photo(chunk.latents, chunk.pose)))
        paused = time.monotonic()
        made["autoencoder"].append(to_uint8(plain(chunk.latents)))
        other += time.monotonic() - paused
    seconds = (time.monotonic() - began - other) * model.config.fps / conditions.frames
    frames = {name: torch.cat(parts)[::every] for name, parts in made.items() if parts}
    still = torch.from_numpy(np.array(conditions.identity.portrait))[None]
    frames["still"] = still.expand(len(frames["photo"]), -1, -1, -1)
    if frames["photo"].shape[1] != CROP_SIZE:  # a model without a reference decoder
        frames["photo"] = frames["autoencoder"]
    return Video(frames, seconds)


def face_of(frames: Tensor) -> Tensor:
    """Cut FACE out of frames [N, S, S, 3]."""
    side = frames.shape[1]
    rows, columns = (slice(round(part.start * side), round(part.stop * side)) for part in FACE)
    return frames[:, rows, columns]


def measure(frames: Tensor, who: Identity) -> dict[str, float | None]:
    """Return the figures of frames uint8 [N, S, S, 3] beside a person's portrait of the same size."""
    crop = torch.from_numpy(np.array(who.portrait))[None]
    seen = [vector for vector in map(embed_picture, frames.numpy()) if vector is not None]
    share = sharpness(face_of(frames).float()).mean() / sharpness(face_of(crop).float())[0]
    colour = (face_of(frames).float().mean((1, 2)) - face_of(crop).float().mean((1, 2))).abs().mean()
    return {
        "found": len(seen) / len(frames),
        "distance": float(np.mean([np.linalg.norm(vector - who.embedding) for vector in seen])) if seen else None,
        "sharpness": float(share),
        "colour": float(colour),
    }


def measure_lips(video: Video) -> dict[str, float | None]:
    """Return how the lips of the frames out of the photo follow those of the autoencoder's frames."""
    openings = []
    for version in ("autoencoder", "photo"):
        faces = [find_landmarks(np.array(frame)) for frame in video.frames[version].numpy()]
        openings.append([np.nan if face is None else mouth_gap(face.points) / CROP_SIZE for face in faces])
    drawn, shown = np.array(openings)
    both = ~(np.isnan(drawn) | np.isnan(shown))
    drawn, shown = drawn[both], shown[both]
    if len(drawn) < 3 or not drawn.std():
        return {"correlation": None, "motion": None}
    return {"correlation": float(np.corrcoef(drawn, shown)[0, 1]), "motion": float(shown.std() / drawn.std())}


def measure_views(
    model: Starcaster, who: Identity, people: dict[str, Identity], name: str, settings: SamplerSettings
) -> dict[str, dict[str, dict[str, float | None]]]:
    """Return what a camera aside sees: degrees -> version -> found, distance, rank_1."""
    embeddings = np.stack([other.embedding for other in people.values()])
    own = list(people).index(name)
    figures = {}
    for degrees in VIEWS:
        seen: dict[str, list[np.ndarray | None]] = {version: [] for version in VERSIONS if version != "still"}
        for yaw in (-degrees, degrees):
            path = preset_path(CameraMove("static", start_yaw=yaw), 1, model.config.fps)
            motion = torch.zeros(1, 7)
            video = generate_versions(model, Conditions(who, None, path, 1, motion), settings)
            for version in seen:
                seen[version].append(embed_picture(video.frames[version][0].numpy()))
        figures[f"{degrees:g}"] = {
            version: {
                "found": float(np.mean([vector is not None for vector in vectors])),
                "distance": mean_or_none(
                    [float(np.linalg.norm(vector - who.embedding)) for vector in vectors if vector is not None]
                ),
                "rank_1": float(
                    np.mean(
                        [
                            vector is not None and np.linalg.norm(embeddings - vector, axis=1).argmin() == own
                            for vector in vectors
                        ]
                    )
                ),
            }
            for version, vectors in seen.items()
        }
    return figures


def mean_or_none(values: list) -> float | None:
    """Return the mean of the numbers among values, None where there is none."""
    numbers = [value for value in values if value is not None]
    return float(np.mean(numbers)) if numbers else None


def summarise(figures: dict[str, dict]) -> dict:
    """Return the means over all photos, and over those taken within 15 degrees of the front."""
    groups = {"all": list(figures.values())}
    groups["frontal"] = [one for one in figures.values() if abs(one["yaw"]) <= 15]
    summary: dict = {}
    for group, members in groups.items():
        summary[group] = {"photos": len(members)}
        for version in VERSIONS:
            names = ("found", "distance", "sharpness", "colour")
            summary[group][version] = {
                name: mean_or_none([one["video"][version][name] for one in members]) for name in names
            }
        summary[group]["lips"] = {
            name: mean_or_none([one["lips"][name] for one in members]) for name in ("correlation", "motion")
        }
        for degrees in {key for one in members for key in one["views"]}:
            summary[group][f"view_{degrees}"] = {
                version: {
                    name: mean_or_none([one["views"][degrees][version][name] for one in members])
                    for name in ("found", "distance", "rank_1")
                }
                for version in VERSIONS
                if version != "still"
            }
    return summary


def rounded(value):
    """Round every number in nested dictionaries to three places."""
    if isinstance(value, dict):
        return {key: rounded(part) for key, part in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def evaluate_photos(
    model: Starcaster, people: dict[str, Identity], speech: Speech, settings: SamplerSettings, views: bool = True
) -> tuple[dict, list[np.ndarray]]:
    """Return the figures (see the module) and, for each person, a row of pictures: photo, then frames above enlarged
    ones."""
    figures, rows = {}, []
    for name, who in people.items():
        video = generate_versions(model, Conditions(who, speech), settings)
        figures[name] = {
            "yaw": who.yaw,
            "video": {version: measure(frames[::SEEN], who) for version, frames in video.frames.items()},
            "lips": measure_lips(video),
            "views": measure_views(model, who, people, name, settings) if views else {},
            "seconds": video.seconds,
        }
        rows.append(portrait_strip(who, video))
        print(name, json.dumps(rounded(figures[name]["video"]["photo"])), flush=True)
    return rounded({"summary": summarise(figures), "photos": figures}), rows


def portrait_strip(who: Identity, video: Video, columns: int = 6, side: int = 256) -> np.ndarray:
    """Draw the photo and frames out of it, and below the autoencoder's: uint8 [2 side, (columns + 1) side, 3]."""
    chosen = np.linspace(0, len(video.frames["photo"]) - 1, columns).round().astype(int)

    def row(version: str) -> np.ndarray:
        pictures = [torch.from_numpy(np.array(who.portrait))[None], *video.frames[version][chosen].split(1)]
        small = [F.interpolate(x.movedim(-1, 1).float(), (side, side), mode="area") for x in pictures]
        return torch.cat(small, dim=3)[0].movedim(0, -1).round().byte().numpy()

    return np.concatenate([row("photo"), row("autoencoder")])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="'mini' or a checkpoint")
    parser.add_argument("--photos", type=Path, required=True, help="folder of pictures, searched with its subfolders")
    parser.add_argument("--held-out", action="store_true", help="only the photos that training leaves out")
    parser.add_argument("--people", type=int, help="so many of them, evenly spread")
    parser.add_argument("--voice", type=Path, required=True, help="what they say")
    parser.add_argument("--seconds", type=float, default=2.0, help="of it")
    parser.add_argument("--no-views", action="store_true", help="leave the cameras aside out")
    parser.add_argument("--sheet", type=Path, help="picture to write: each photo, then frames of its video")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args()
    model = load_checkpoint(args.model)
    people = identities_in(args.photos, args.held_out, args.people)
    speech = model.encode_speech(mono16k(*load_audio(args.voice), args.seconds))
    figures, rows = evaluate_photos(model, people, speech, SamplerSettings.of(model.config), not args.no_views)
    args.out.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(figures["summary"], indent=1))
    if args.sheet:
        from PIL import Image

        Image.fromarray(np.concatenate(rows)).save(args.sheet)


if __name__ == "__main__":
    raise SystemExit(run_command("measure on photos", main))
