"""Pairs of pictures of one person with exact correspondence: the portrait and later frames, for the reference decoder.

A pair of the synthetic world is a portrait, as a user would give it, and a frame of a clip of the same person in the
same light: another expression, another head pose, another camera. For every place of the frame the renderer says where
it lies in the portrait, and whether it is seen there.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..camera.poses import default_intrinsics, world_from_cam
from ..conventions import FPS, SAMPLE_RATE
from .heads.camera import project
from .heads.lighting import sample_lighting
from .heads.rig import EYE, LANDMARKS
from .performance import Performance, perform
from .splits import members
from .synth import Settings, camera_path, draw_speech, synthetic_world

SIDE, FLOW_SIDE = 512, 128  # pixels of the pictures, and of flow and visibility
FRAMES = 16  # of a scene's clip, a few of which are rendered
HIDDEN = 0.004  # difference in depth from which a point is hidden by another
WIDEST = 70.0  # degrees of camera yaw
REGIONS = ("mouth", "right_eye", "left_eye")  # of the subject


@dataclass(frozen=True)
class Scene:
    """One portrait and some frames of a clip.

    portrait, frames: uint8 [S, S, 3] and [N, S, S, 3]. flow: float32 [N, 2, F, F], to be added to a place of the frame
    to come to the portrait's, x right and y down in image sides. visible: float32 [N, F, F], 1 where that place is seen
    in the portrait.
    regions: float32 [3, 2], where mouth and eyes lie in the portrait, image sides. rows: which of the clip's FRAMES the
    frames are.
    samples: float32 [FRAMES / FPS seconds at SAMPLE_RATE], silence where none is heard. performance: of all FRAMES;
    portrait_rotation [3, 3], portrait_camera [4, 4]: of the portrait. cameras: [FRAMES, 4, 4]. moving_camera: whether
    the camera is a condition.
    embedding: float32 [128].
    """

    person: int
    portrait: np.ndarray
    frames: np.ndarray
    flow: np.ndarray
    visible: np.ndarray
    regions: np.ndarray
    rows: np.ndarray
    samples: np.ndarray
    heard: bool
    performance: Performance
    portrait_rotation: np.ndarray
    portrait_camera: np.ndarray
    cameras: np.ndarray
    moving_camera: bool
    embedding: np.ndarray


def render_scene(seed: int, number: int, people: int = 700, split: str = "train", count: int = 3) -> Scene:
    """Render scene `number`, a pure function of its arguments. Needs the head kit, espeak-ng and OpenGL."""
    rng = np.random.default_rng([seed, number, 0x9A12])
    world, kit = synthetic_world(), synthetic_world().kit
    candidates = members("identity", range(people), split)
    person = int(candidates[rng.integers(len(candidates))])
    moment = int(rng.integers(2**31))
    speech = draw_speech(rng, split, Settings(1, FRAMES))
    moving = bool(rng.random() < 0.45)
    heard = not moving or bool(rng.random() < 0.6)
    performance = perform(speech["phonemes"], speech["samples"], SAMPLE_RATE, FRAMES, kit.unit_names, moment, FPS)
    still = perform([], np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, FRAMES, kit.unit_names, moment + 1, FPS)
    portrait = portrait_expression(still.expression[0], kit.unit_names, rng)
    turn = still.head_rotation[0]
    wide = 35 if rng.random() < 0.25 else 15
    portrait_camera = world_from_cam(rng.uniform(-wide, wide), rng.uniform(-wide / 2, wide / 2)).astype(np.float32)
    cameras = camera_path(rng, FRAMES) if moving else np.repeat(portrait_camera[None], FRAMES, axis=0)
    if moving:
        cameras = narrowed(cameras, float(rng.uniform(0.3, 0.75)))
    lighting, lens = sample_lighting(moment), default_intrinsics()
    rows = np.sort(rng.choice(FRAMES, count, replace=False))

    embedding = world.embedding(person)
    rig = world.load_person(person)
    renderer = world.renderer
    positions = renderer.pose(portrait)
    picture = renderer.draw(lighting, portrait_camera, lens, turn, SIDE)
    points = project(rig.landmark_points(positions, turn), portrait_camera, lens)
    at = dict(zip(LANDMARKS, points))
    eyes = [np.mean([at[f"{side}_eye_{name}"] for name in EYE], axis=0) for side in ("right", "left")]
    regions = np.stack([(at["left_mouth"] + at["right_mouth"]) / 2, *eyes]).astype(np.float32)

    # The portrait's own depth: where it lies in itself.
    itself = renderer.match((portrait,) * 2, (turn,) * 2, (portrait_camera,) * 2, (lens,) * 2, 2 * FLOW_SIDE)
    frames, flows, seen = [], [], []
    for row in rows:
        weights, rotation, camera = performance.expression[row], performance.head_rotation[row], cameras[row]
        renderer.pose(weights)
        frames.append(renderer.draw(lighting, camera, lens, rotation, SIDE))
        found = renderer.match(
            (weights, portrait), (rotation, turn), (camera, portrait_camera), (lens, lens), FLOW_SIDE
        )
        flow, visible = correspondence(found, itself, still=not moving)
        flows.append(flow)
        seen.append(visible)
    return Scene(
        person=person,
        portrait=picture,
        frames=np.stack(frames),
        flow=np.stack(flows),
        visible=np.stack(seen),
        regions=regions,
        rows=rows,
        samples=speech["samples"] if heard else np.zeros_like(speech["samples"]),
        heard=heard,
        performance=performance,
        portrait_rotation=turn,
        portrait_camera=portrait_camera,
        cameras=cameras.astype(np.float32),
        moving_camera=moving,
        embedding=embedding,
    )


def unit_names() -> tuple[str, ...]:
    """Return the names of the 52 expression units, in order."""
    return synthetic_world().kit.unit_names


def intrinsics_of(frames: int) -> np.ndarray:
    """Return the intrinsics of a scene's cameras, float32 [frames, 3, 3]."""
    return np.repeat(default_intrinsics()[None], frames, axis=0)


def portrait_expression(weights: np.ndarray, unit_names: tuple[str, ...], rng: np.random.Generator) -> np.ndarray:
    """Open the eyes of an expression [52], let half of the people smile, and some part their lips."""
    weights = weights.copy()
    for name in ("eyeBlinkLeft", "eyeBlinkRight"):
        weights[unit_names.index(name)] *= 0.1
    smile, parted = rng.uniform(0, 0.9) * (rng.random() < 0.5), rng.uniform(0, 0.35) * (rng.random() < 0.3)
    for name, amount in {
        "mouthSmileLeft": smile,
        "mouthSmileRight": smile,
        "cheekSquintLeft": 0.4 * smile,
        "cheekSquintRight": 0.4 * smile,
        "mouthUpperUpLeft": 0.5 * parted,
        "mouthUpperUpRight": 0.5 * parted,
        "jawOpen": parted,
    }.items():
        if name in unit_names:
            weights[unit_names.index(name)] += amount
    return np.clip(weights, 0, 1)


def narrowed(cameras: np.ndarray, factor: float) -> np.ndarray:
    """Bring cameras [T, 4, 4] nearer to the front: yaw and pitch times `factor`."""
    away = cameras[:, :3, 3] / np.linalg.norm(cameras[:, :3, 3], axis=1, keepdims=True)
    yaw, pitch = np.degrees(np.arctan2(away[:, 0], away[:, 2])), np.degrees(np.arcsin(away[:, 1]))
    return np.stack([world_from_cam(factor * y, factor * p) for y, p in zip(yaw, pitch)]).astype(np.float32)


def correspondence(found: np.ndarray, itself: np.ndarray, still: bool) -> tuple[np.ndarray, np.ndarray]:
    """Turn what `Renderer.match` found [F, F, 4] into flow [2, F, F] and visibility [F, F].

    itself [G, G, 4]: the portrait matched with itself. A point is visible where nothing nearer lies at its place.
    Beside the head the background does not move, and is visible where the portrait shows background too; unless the
    camera moves: then where it lies in the portrait is not known, which counts as not visible. still: whether the
    camera stands still.
    """
    side, other = len(found), len(itself)
    ticks = (np.arange(side) + 0.5) / side
    here = np.stack(np.meshgrid(ticks, ticks))
    on_head = found[..., 3] > 0.5
    there = np.where(on_head, found[..., :2].transpose(2, 0, 1), here)
    column, row = np.clip((there * other).astype(int), 0, other - 1)
    inside = ((there >= 0) & (there <= 1)).all(axis=0)
    nearest = np.where(itself[row, column, 3] > 0.5, itself[row, column, 2], 1.0)
    seen = np.where(on_head, found[..., 2] <= nearest + HIDDEN, still & (itself[row, column, 3] < 0.5))
    return (there - here).astype(np.float32), (inside & seen).astype(np.float32)
