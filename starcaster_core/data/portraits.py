"""Portraits of people of the synthetic world, as somebody would take them: nearly from the front, eyes open."""

from __future__ import annotations

from itertools import count

import numpy as np

from ..camera.poses import default_intrinsics, world_from_cam
from ..conventions import FPS, SAMPLE_RATE
from .heads.lighting import neutral_lighting, sample_lighting
from .pairs import portrait_expression
from .performance import perform
from .synth import synthetic_world

WIDEST = 12.0  # degrees that the camera stands to the side; half as many up and down


def render_portraits(person: int, seed: int, pictures: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a person in several lights, poses and moods before plain backgrounds, a pure function of the arguments.

    Returns uint8 [pictures, side, side, 3] and the person's embedding float32 [128].
    """
    rng = np.random.default_rng([seed, person, 0x1D9])
    world = synthetic_world()
    units = world.kit.unit_names
    embedding = world.embedding(person)
    world.load_person(person)
    made = []
    for _ in range(pictures):
        moment = int(rng.integers(2**31))
        still = perform([], np.zeros(SAMPLE_RATE, np.float32), SAMPLE_RATE, 1, units, moment, FPS)
        world.renderer.pose(portrait_expression(still.expression[0], units, rng))
        camera = world_from_cam(rng.uniform(-WIDEST, WIDEST), rng.uniform(-WIDEST / 2, WIDEST / 2))
        lighting = next(light for light in map(sample_lighting, count(moment)) if light.kind != "scene")
        made.append(world.renderer.draw(lighting, camera, default_intrinsics(), still.head_rotation[0], side))
    return np.stack(made), embedding


def render_plainly(person: int, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Render a person from the front, at rest, in even light: uint8 [side, side, 3] and the embedding float32 [128]."""
    world = synthetic_world()
    embedding = world.embedding(person)
    rig = world.load_person(person)
    world.renderer.pose(np.zeros(len(rig.morphs), np.float32))
    return world.renderer.draw(neutral_lighting(), world_from_cam(0, 0), default_intrinsics(), size=side), embedding
