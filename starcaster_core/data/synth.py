"""Makes synthetic talking-head clips with exact ground truth, shard by shard.

    python -m starcaster_core synth --clips 1400 --out DIR --seed 1 --workers 2

A clip is a pure function of the settings and its number. Kinds: "temporal" (the head talks and moves, the camera
stands near the front), "spatial" (one frozen instant, the camera moves), "joint" (both). The truth of a clip of T
frames, K landmarks, S pixels a side: expression float32 [T, 52] (`unit_names`), world_from_cam [T, 4, 4], intrinsics
[T, 3, 3], head_rotation [T, 3, 3], landmarks [T, K, 2] and mouth_box [T, 4] (x0, y0, x1, y1) in pixels, embedding [128]
(dlib), phoneme and viseme int64 [T] (`phonemes.CLASS_NAMES`, `visemes.VISEMES`; silence where there is no sound).
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import threading
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..camera.poses import default_intrinsics, world_from_cam
from ..command import add_debug, run_command
from ..conventions import CAMERA_RADIUS, FOCAL_LENGTH, FPS, KINDS, SAMPLE_RATE, SPLITS, smoothstep
from ..errors import InputError
from .heads.camera import project
from .heads.degradation import degrade, sample_degradation
from .heads.identity import sample_identity
from .heads.kit import load_kit
from .heads.lighting import neutral_lighting, sample_lighting
from .heads.render import Renderer
from .heads.rig import EYE, LANDMARKS, HeadRig, build_rig
from .natural import NATURAL_VOICES, require_voices, synthesize_natural
from .overview import contact_sheet, four_in_turn, portraits, previews, write_statistics
from .performance import Performance, perform
from .recordings import read_recording, speakers_rows, table_rows
from .shards import Clip, find_shards, shard_path, write_shard
from .splits import members, split_of
from .tts import SENTENCES, VOICES, Phoneme, Utterance, phoneme_track, synthesize
from .visemes import VISEME_OF_CLASS

CLIPS_A_SHARD = 32
RENAMED_SETTINGS = {"filmed": "degraded"}  # in the manifests of earlier versions
NEWER_SETTINGS = ("recorded", "recordings")  # which those lack
MOUTH = [LANDMARKS.index(n) for n in ("left_mouth", "right_mouth", "upper_lip_top", "lower_lip_bottom")]
WIDEST_YAW, WIDEST_PITCH = 70.0, 35.0
TRIES = 20  # recordings whose words do not fit, before the folder is given up
FOCAL_SPREAD = 0.12  # of the logarithm of the focal length, where the camera is a condition


@dataclass(frozen=True)
class Settings:
    """Everything that decides the clips.

    clips: how many. frames: of each. size: side of the frames in pixels. people: identity seeds are below this. kinds:
    (name, fraction) pairs. degraded: fraction of the clips whose frames a camera degrades (`heads/degradation.py`).
    natural: fraction spoken in a natural voice (`natural.py`), where the split has one; with any, sets made on
    different kinds of processor may differ. static_yaw: degrees from the front within which the camera of "temporal"
    clips stands; half as many up and down.
    """

    clips: int
    frames: int = 48
    size: int = 128
    seed: int = 1
    people: int = 700
    kinds: tuple[tuple[str, float], ...] = (("temporal", 0.6), ("spatial", 0.4))
    splits: tuple[str, ...] = SPLITS
    degraded: float = 0.6
    natural: float = 0.0
    static_yaw: float = 12.0
    recorded: float = 0.0
    recordings: str = ""


def make_clip(settings: Settings, number: int) -> Clip:
    """Clip `number` of the set. Needs the head kit, espeak-ng and OpenGL."""
    rng = np.random.default_rng([settings.seed, number, 0xC11B])
    names, fractions = zip(*settings.kinds)
    kind = str(rng.choice(names, p=np.array(fractions) / sum(fractions)))
    people = [who for split in settings.splits for who in members("identity", range(settings.people), split)]
    person = people[rng.integers(len(people))]
    split = split_of("identity", person)
    moment_seed = int(rng.integers(2**31))

    speech = draw_speech(rng, split, settings)
    kit, world = load_kit(), synthetic_world()
    performance = perform(
        speech["phonemes"], speech["samples"], SAMPLE_RATE, settings.frames, kit.unit_names, moment_seed, FPS
    )
    if kind == "spatial":
        performance = _frozen(performance, rng, kit.unit_names)
    if kind == "temporal":
        poses = _static_camera(rng, settings.frames, settings.static_yaw)
    else:
        poses = camera_path(rng, settings.frames)
    lighting = sample_lighting(moment_seed)

    lens = default_intrinsics(
        FOCAL_LENGTH * (1.0 if kind == "temporal" else float(np.exp(rng.uniform(-1, 1) * FOCAL_SPREAD)))
    )
    rig = world.load_person(person)
    frames, landmarks = world.render_clip(rig, lighting, performance, poses, lens, settings.size)
    degraded = bool(rng.random() < settings.degraded)
    if degraded:
        frames = degrade(frames, sample_degradation(moment_seed), moment_seed)
    sounding = kind != "spatial"
    info = {
        "seed": settings.seed,
        "number": number,
        "identity": person,
        "split": split,
        "kind": kind,
        "fps": FPS,
        "frames": settings.frames,
        "size": settings.size,
        "voice": speech["voice"] if sounding else None,
        "text": speech["text"] if sounding else None,
        "phonemes": [[round(s, 4), round(e, 4), p] for s, e, p in speech["phonemes"]] if sounding else [],
        "style": rig.identity.facts | {"background": lighting.kind, "filmed": degraded},
        "embedding_frames_detected": world.detected(person),
        "unit_names": list(kit.unit_names),
        "landmark_names": list(LANDMARKS),
    }
    truth = {
        "expression": performance.expression,
        "world_from_cam": poses,
        "intrinsics": np.repeat(lens[None], settings.frames, axis=0),
        "head_rotation": performance.head_rotation,
        "landmarks": landmarks,
        "mouth_box": mouth_boxes(landmarks, settings.size),
        "embedding": world.embedding(person),
        **sound_tracks(info["phonemes"], settings.frames),
    }
    audio = speech["samples"] if sounding else None
    return Clip(f"{settings.seed:04d}-{number:06d}", info, frames, audio, truth)


def sound_tracks(phonemes: list[tuple[float, float, str]], frames: int) -> dict[str, np.ndarray]:
    """Return what is being said in the middle of every frame: "phoneme" and "viseme", int64 [T]."""
    spoken = [Phoneme(*phoneme) for phoneme in phonemes]
    track = phoneme_track(spoken, frames, FPS)
    return {"phoneme": track, "viseme": VISEME_OF_CLASS[track]}


def camera_path(rng: np.random.Generator, frames: int) -> np.ndarray:
    """Draw a smooth path about the head, world_from_cam float32 [T, 4, 4]: a sweep, an oscillation or a slow wander."""
    t = np.linspace(0, 1, frames)
    style = rng.choice(["sweep", "swing", "wander"])
    if style == "sweep":
        ends = rng.uniform(-1, 1, (2, 2)) * [WIDEST_YAW, WIDEST_PITCH]
        if rng.random() < 0.6:  # from one side to the other
            ends[1, 0] = -np.sign(ends[0, 0]) * abs(ends[1, 0])
        angles = ends[0] + smoothstep(t)[:, None] * (ends[1] - ends[0])
    elif style == "swing":
        phase, turns = rng.uniform(0, 2 * np.pi, 2), rng.uniform(0.5, 1.5, 2)
        reach = rng.uniform(0.3, 1.0, 2) * [WIDEST_YAW, WIDEST_PITCH]
        angles = reach * np.sin(2 * np.pi * t[:, None] * turns + phase)
    else:
        knots = np.cumsum(rng.normal(0, 1, (5, 2)) * [26, 12], axis=0) + rng.uniform(-1, 1, 2) * [45, 20]
        angles = np.column_stack([_through(knots[:, k], t) for k in range(2)])
    bounds = np.array([WIDEST_YAW, WIDEST_PITCH])
    angles = np.clip(angles, -bounds, bounds)
    near = 1 + 0.05 * rng.normal() * np.sin(2 * np.pi * t * rng.uniform(0.3, 1.0) + rng.uniform(0, 6))
    return np.stack(
        [world_from_cam(yaw, pitch, CAMERA_RADIUS * r) for (yaw, pitch), r in zip(angles, np.clip(near, 0.9, 1.1))]
    )


def mouth_boxes(landmarks: np.ndarray, size: int) -> np.ndarray:
    """Return a box round the mouth with a margin, float32 [T, 4] in pixels, from landmarks [T, K, 2]."""
    mouth = landmarks[:, MOUTH]
    margin = 0.06 * size
    low = np.clip(mouth.min(axis=1) - margin, 0, size - 1)
    high = np.clip(mouth.max(axis=1) + margin, low + 1, size)
    return np.concatenate([low, high], axis=1).astype(np.float32)


def _through(knots: np.ndarray, t: np.ndarray) -> np.ndarray:
    """A smooth curve through equally spaced knots, at t in 0..1 (cosine steps, then smoothed)."""
    dense = np.interp(t, np.linspace(0, 1, len(knots)), knots)
    width = max(3, len(t) // 5)
    kernel = np.hanning(width + 2)[1:-1]
    return np.convolve(np.pad(dense, width, mode="edge"), kernel / kernel.sum(), mode="same")[width:-width]


def _static_camera(rng: np.random.Generator, frames: int, yaw: float) -> np.ndarray:
    pose = world_from_cam(rng.uniform(-yaw, yaw), rng.uniform(-yaw / 2, yaw / 2))
    return np.repeat(pose[None], frames, axis=0)


def _frozen(performance: Performance, rng: np.random.Generator, unit_names: tuple[str, ...]) -> Performance:
    """One instant of a performance, held; not one in the middle of a blink."""
    open_eyes = np.flatnonzero(performance.expression[:, unit_names.index("eyeBlinkLeft")] < 0.3)
    at = int(rng.choice(open_eyes)) if len(open_eyes) else 0
    frames = len(performance.expression)
    return Performance(*(np.repeat(a[at : at + 1], frames, axis=0) for a in asdict(performance).values()))


def draw_speech(rng: np.random.Generator, split: str, settings: Settings) -> dict:
    """A stretch of an utterance as long as the clip, often with a little silence before or after."""
    said, voice, text = _utterance(rng, split, settings)
    count = int(round(settings.frames / FPS * SAMPLE_RATE))
    start = rng.uniform(-0.5, max(0.0, said.seconds - count / SAMPLE_RATE) + 0.4)
    first = int(round(start * SAMPLE_RATE))
    samples = np.zeros(count, np.float32)
    source = said.samples[max(first, 0) : max(first + count, 0)]
    samples[max(-first, 0) : max(-first, 0) + len(source)] = source
    peak = np.abs(said.samples).max()
    samples *= rng.uniform(0.3, 0.9) / max(float(peak), 1e-3)
    end = count / SAMPLE_RATE
    phonemes = [(p.start - start, p.end - start, p.symbol) for p in said.phonemes]
    inside = [(max(s, 0.0), min(e, end), p) for s, e, p in phonemes if e > 0 and s < end]
    return {"voice": voice, "text": text, "samples": samples, "phonemes": inside}


def _utterance(rng: np.random.Generator, split: str, settings: Settings) -> tuple[Utterance, str, str]:
    """Draw what is said, by whom, and the words: recorded, in a natural voice, or by espeak-ng."""
    if settings.recorded and rng.random() < settings.recorded:
        return _recorded(rng, split, settings.recordings)
    chosen = members("voice", NATURAL_VOICES, split) if settings.natural and rng.random() < settings.natural else ()
    voices, sentences = chosen or members("voice", VOICES, split), members("sentence", SENTENCES, split)
    voice, text = voices[rng.integers(len(voices))], sentences[rng.integers(len(sentences))]
    if chosen:
        said = synthesize_natural(text, voice, stretch=rng.uniform(0.8, 1.2), seed=int(rng.integers(2**31)))
    else:
        said = synthesize(text, voice, rate=int(rng.integers(115, 185)), pitch=int(rng.integers(30, 71)))
    return said, voice, text


def _recorded(rng: np.random.Generator, split: str, folder: str) -> tuple[Utterance, str, str]:
    """Draw a recording whose words fit."""
    rows = _speakers_rows(folder, split != "train")
    for _ in range(TRIES):
        recording = read_recording(Path(folder), rows[rng.integers(len(rows))])
        if recording is not None:
            return recording.utterance(), recording.speaker, recording.text
    raise InputError("recordings that say their texts", f"{TRIES} in a row in {folder} that do not", "Check its table.")


@lru_cache(maxsize=2)
def _speakers_rows(folder: str, held_out: bool) -> list[dict[str, str]]:
    return speakers_rows(Path(folder), held_out)


class SyntheticWorld:
    """The renderer, the head kit, and the person who is loaded. One a process: `synthetic_world`."""

    def __init__(self):
        self.kit = load_kit()
        self.renderer = Renderer(self.kit.root)
        self.person: int | None = None
        self.known: dict[int, tuple[np.ndarray, int]] = {}

    def load_person(self, person: int) -> HeadRig:
        if self.person != person:
            self.renderer.load(build_rig(self.kit, sample_identity(self.kit, person)))
            self.person = person
        return self.renderer.loaded.rig

    def render_clip(
        self, rig: HeadRig, lighting, performance: Performance, poses: np.ndarray, lens: np.ndarray, size: int
    ):
        """Render a performance: frames uint8 [T, S, S, 3] and landmarks float32 [T, K, 2] in pixels."""
        frames, landmarks, last = [], [], None
        for weights, turn, pose in zip(performance.expression, performance.head_rotation, poses):
            if last is None or not np.array_equal(weights, last):
                positions, last = self.renderer.pose(weights), weights
            frames.append(self.renderer.draw(lighting, pose, lens, turn, size))
            landmarks.append(project(rig.landmark_points(positions, turn), pose, lens) * size)
        return np.stack(frames), np.stack(landmarks).astype(np.float32)

    def embedding(self, person: int) -> np.ndarray:
        return self._known(person)[0]

    def detected(self, person: int) -> int:
        return self._known(person)[1]

    def _known(self, person: int) -> tuple[np.ndarray, int]:
        """dlib's embedding float32 [128], the mean over two pictures in even light, and in how many of them dlib found
        the face by itself; in the others it is told where the face is."""
        if person not in self.known:
            rig = self.load_person(person)
            positions = self.renderer.pose(np.zeros(len(rig.morphs), np.float32))
            lens, size, found, vectors = default_intrinsics(3.4), 256, 0, []
            for yaw in (-7, 7):
                pose = world_from_cam(yaw, 0)
                picture = self.renderer.draw(neutral_lighting(), pose, lens, size=size)
                points = project(rig.landmark_points(positions, np.eye(3)), pose, lens) * size
                vector, seen = embed_known_face(picture, points)
                vectors.append(vector)
                found += seen
            self.known[person] = np.mean(vectors, axis=0).astype(np.float32), found
        return self.known[person]


def embed_known_face(picture: np.ndarray, landmarks: np.ndarray) -> tuple[np.ndarray, bool]:
    """Embed a face with known `landmarks` [K, 2] in pixels: dlib's float32 [128], and whether dlib found the face."""
    from ..identity.embed import embed
    from ..identity.faces import Face, detect

    faces = detect(picture)
    if faces:
        return embed(picture, faces[0]), True
    at = dict(zip(LANDMARKS, landmarks))
    points = np.array([at[n] for n in ("right_eye_outer", "right_eye_inner", "left_eye_inner", "left_eye_outer")])
    base = 0.5 * (at["nose_tip"] + at["upper_lip_top"])
    eyes = np.mean([at[f"{side}_eye_{n}"] for side in ("left", "right") for n in EYE], axis=0)
    centre, half = (eyes + at["chin"]) / 2, np.linalg.norm(at["chin"] - eyes) * 0.75
    box = np.concatenate([centre - half, centre + half])
    return embed(picture, Face(box, np.vstack([points, base]), 0.0)), False


@lru_cache(maxsize=1)
def synthetic_world() -> SyntheticWorld:
    """Return this process's world. Raises MissingDependencyError without the head kit or OpenGL."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # the software rasteriser: one thread a worker
    return SyntheticWorld()


def make_shard(settings: Settings, folder: Path, number: int) -> Path:
    """Write shard `number` unless it is there."""
    path = shard_path(folder, number)
    if not path.exists():
        first = number * CLIPS_A_SHARD
        numbers = range(first, min(first + CLIPS_A_SHARD, settings.clips))
        write_shard(path, (make_clip(settings, n) for n in numbers))
    return path


def make_set(settings: Settings, folder: Path, workers: int = 1) -> None:
    """Write all shards that are missing. Raises InputError where the folder holds a set with other settings,
    MissingDependencyError where natural voices are wanted and not all of them are installed."""
    if settings.natural:
        require_voices()
    if settings.recorded:
        table_rows(Path(settings.recordings))
    folder.mkdir(parents=True, exist_ok=True)
    manifest, wanted = folder / "manifest.json", json.loads(json.dumps(asdict(settings)))
    if manifest.exists():
        there = {RENAMED_SETTINGS.get(key, key): value for key, value in json.loads(manifest.read_text()).items()}
        there = {key: value for key, value in asdict(Settings(0)).items() if key in NEWER_SETTINGS} | there
        if there | {"clips": 0} != wanted | {"clips": 0}:
            raise InputError(
                f"a folder for {wanted}", f"one with {there}", "Choose another --out or the same settings."
            )
    manifest.write_text(json.dumps(wanted, indent=1))
    for unfinished in folder.glob(".shard-*.part*"):  # of a run that was killed
        unfinished.unlink()
    shards = range(-(-settings.clips // CLIPS_A_SHARD))
    load_kit()  # fills the cache before several workers ask for it
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=leave_with_parent) as pool:
        for path in pool.map(make_shard, *zip(*((settings, folder, n) for n in shards))):
            print(path, flush=True)


def leave_with_parent() -> None:
    """End this worker when the process that started it is gone, even killed."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of `synth`."""
    parser.add_argument("--out", type=Path, required=True, help="folder for the shards")
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--frames", type=int, default=48, help="frames a clip, at 25 a second")
    parser.add_argument("--size", type=int, default=128, help="side of the square frames in pixels")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--people", type=int, default=700, help="how many different heads to draw from")
    parser.add_argument("--kinds", default="temporal:0.6,spatial:0.4", help="fractions of temporal, spatial and joint")
    parser.add_argument(
        "--degraded", "--filmed", type=float, default=0.6, help="fraction of the clips degraded as by a camera, 0..1"
    )
    parser.add_argument("--natural", type=float, default=0.0, help="fraction of the clips in natural voices, 0..1")
    parser.add_argument("--recorded", type=Path, help="folder of recorded speech, with its table speech.tsv")
    parser.add_argument(
        "--recorded-fraction", type=float, default=0.5, help="with --recorded: fraction of the clips that say it, 0..1"
    )
    parser.add_argument(
        "--static-yaw",
        type=float,
        default=12.0,
        help="temporal clips: how far from the front the camera stands, degrees",
    )
    parser.add_argument("--splits", default=",".join(SPLITS), help="which people to use: train, val, test")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--sheet", type=Path, help="also write a contact sheet of the first clips to this PNG")
    parser.add_argument("--portraits", type=Path, help="also write the faces of the first 64 people to this picture")
    parser.add_argument("--four", type=Path, help="also write a video of four people who speak in turn to this MP4")
    parser.add_argument("--previews", type=int, default=4, help="how many clips to show as MP4 with sound")


def run(args: argparse.Namespace) -> int:
    """Do what the options say; returns the exit code."""
    settings = Settings(
        clips=args.clips,
        frames=args.frames,
        size=args.size,
        seed=args.seed,
        people=args.people,
        kinds=parse_kinds(args.kinds),
        splits=tuple(args.splits.split(",")),
        degraded=args.degraded,
        natural=args.natural,
        static_yaw=args.static_yaw,
        recorded=args.recorded_fraction if args.recorded else 0.0,
        recordings=str(args.recorded or ""),
    )
    make_set(settings, args.out, args.workers)
    write_statistics(args.out)
    if find_shards(args.out):
        if args.sheet:
            contact_sheet(args.out, args.sheet)
        if args.portraits:
            portraits(args.out, args.portraits)
        if args.four:
            four_in_turn(args.out, args.four)
    previews(args.out, args.previews)
    return 0


def parse_kinds(text: str) -> tuple[tuple[str, float], ...]:
    """Parse "temporal:0.6,spatial:0.4" to (("temporal", 0.6), ("spatial", 0.4)). Raises InputError for another form."""
    pairs = []
    for item in text.split(","):
        name, _, fraction = item.partition(":")
        try:
            pairs.append((name, float(fraction or 1)))
        except ValueError:
            name = ""
        if name not in KINDS:
            raise InputError("kinds such as temporal:0.6,spatial:0.4", repr(text), f"Known: {', '.join(KINDS)}.")
    return tuple(pairs)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    add_debug(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(run_command("synthesise", main))
