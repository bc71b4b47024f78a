"""Spectacles, made round a person's eyes: two rims, a bridge, two temples, and lenses that only shine.

All lengths are decimetres in the person's own space (x to the subject's left, y up, z forward).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

AROUND = 28  # points along a rim
SIDES = 6  # of the wire
EARS_BEHIND_EYES = 1.0
USUAL_EYES = 0.62  # from eye to eye


@dataclass(frozen=True)
class Glasses:
    """width, height: of a lens before usual eyes. squareness: 2 an ellipse .. 5 nearly a rectangle. wire: its radius.
    colour: linear RGB [3]."""

    width: float
    height: float
    squareness: float
    wire: float
    colour: np.ndarray


def sample_glasses(rng: np.random.Generator) -> Glasses:
    """Draw a frame that exists: thin and metallic, or thick and dark or coloured."""
    thick = rng.random() < 0.5
    metal = rng.uniform(0.15, 0.5) * np.array([1.0, rng.uniform(0.85, 1.0), rng.uniform(0.6, 1.0)])
    plastic = rng.choice([0.01, 0.03, 0.12]) * rng.uniform(0.4, 1.6, 3)
    return Glasses(
        width=float(rng.uniform(0.42, 0.52)),
        height=float(rng.uniform(0.30, 0.42)),
        squareness=float(rng.uniform(2.0, 4.5)),
        wire=float(rng.uniform(0.018, 0.028) if thick else rng.uniform(0.008, 0.013)),
        colour=(plastic if thick else metal).clip(0.004, 0.6),
    )


def build_glasses(kind: Glasses, left_eye: np.ndarray, right_eye: np.ndarray, face: float):
    """Build frame and lenses for eyes at `left_eye`, `right_eye` [3] (the middle of the lids), in front of z = `face`.

    Returns (vertices [N, 3], normals [N, 3], triangles [F, 3]) of the frame and the same of the lenses.
    """
    apart = float(np.linalg.norm(left_eye - right_eye))
    kind = replace(kind, width=kind.width * apart / USUAL_EYES, height=kind.height * apart / USUAL_EYES)
    front = max(left_eye[2], right_eye[2], face - 0.14) + 0.14
    middle = (left_eye + right_eye) / 2
    centres = [np.array([middle[0] + side * 0.515 * apart, middle[1] - 0.03, front]) for side in (1, -1)]
    outlines = [centre + _outline(kind) for centre in centres]
    inner = [centre - [side * kind.width / 2, -0.06, 0] for centre, side in zip(centres, (1, -1))]
    arch = (inner[0] + inner[1]) / 2 + [0, 0.05, 0.03]
    tubes = [_tube(outline, kind.wire, closed=True) for outline in outlines]
    tubes.append(_tube(np.array([inner[0], arch, inner[1]]), kind.wire))
    for centre, side in zip(centres, (1, -1)):
        hinge = centre + [side * kind.width / 2, 0.08, 0.0]
        ear = np.array([hinge[0] + side * 0.14, hinge[1] + 0.02, middle[2] - EARS_BEHIND_EYES])
        tubes.append(_tube(np.array([hinge, hinge + [side * 0.06, 0, -0.05], ear]), kind.wire))
    return _joined(tubes), _joined([_disc(centre, outline) for centre, outline in zip(centres, outlines)])


def _outline(kind: Glasses) -> np.ndarray:
    """A superellipse [AROUND, 3], bent a little round the face."""
    angle = np.linspace(0, 2 * np.pi, AROUND, endpoint=False)
    power = 2 / kind.squareness
    x = kind.width / 2 * np.sign(np.cos(angle)) * np.abs(np.cos(angle)) ** power
    y = kind.height / 2 * np.sign(np.sin(angle)) * np.abs(np.sin(angle)) ** power
    return np.column_stack([x, y, -0.25 * x**2])


def _tube(line: np.ndarray, radius: float, closed: bool = False):
    """A wire of `radius` along points [P, 3] -> vertices, normals, triangles."""
    if closed:
        ahead, behind = np.roll(line, -1, axis=0), np.roll(line, 1, axis=0)
    else:
        ahead, behind = line[[*range(1, len(line)), -1]], line[[0, *range(len(line) - 1)]]
    along = ahead - behind
    along /= np.linalg.norm(along, axis=1, keepdims=True)
    aside = np.cross(along, [0.0, 0.31, 0.95])
    aside /= np.linalg.norm(aside, axis=1, keepdims=True)
    above = np.cross(aside, along)
    angle = np.linspace(0, 2 * np.pi, SIDES, endpoint=False)
    normals = np.cos(angle)[:, None] * aside[:, None] + np.sin(angle)[:, None] * above[:, None]
    vertices = line[:, None] + radius * normals
    count = len(line)
    triangles = []
    for i in range(count if closed else count - 1):
        for j in range(SIDES):
            a, b = i * SIDES + j, i * SIDES + (j + 1) % SIDES
            c, d = (i + 1) % count * SIDES + j, (i + 1) % count * SIDES + (j + 1) % SIDES
            triangles += [(a, c, b), (b, c, d)]
    return vertices.reshape(-1, 3), normals.reshape(-1, 3), np.array(triangles)


def _disc(centre: np.ndarray, outline: np.ndarray):
    vertices = np.vstack([centre, outline])
    bend = (vertices - centre) * [0.7, 0.7, 0] + [0, 0, 1.0]  # as if it bulged: a wandering glint, not a flash
    normals = bend / np.linalg.norm(bend, axis=1, keepdims=True)
    rim = np.arange(len(outline))
    return vertices, normals, np.column_stack([np.zeros_like(rim), rim + 1, (rim + 1) % len(outline) + 1])


def _joined(meshes):
    starts = np.cumsum([0, *(len(vertices) for vertices, _, _ in meshes)])
    vertices, normals, _ = (np.concatenate(parts) for parts in zip(*meshes))
    return vertices, normals, np.concatenate([t + s for (_, _, t), s in zip(meshes, starts)])
