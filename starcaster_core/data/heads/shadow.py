"""Where light does not reach: depth maps from the key light, and how much of the sky a point sees.

Both are orthographic pictures of depth. The sky's share is measured once a head, at rest, from many directions; the key
light's shadow is drawn anew whenever the head moved.
"""

from __future__ import annotations

import numpy as np

VERTEX = """#version 330
in vec3 p; in vec2 uv; in float follow;
uniform mat4 clip_from_world; uniform mat3 turn; uniform vec3 pivot;
out vec2 T;
void main() {
    gl_Position = clip_from_world * vec4(mix(p, turn * (p - pivot) + pivot, follow), 1.);
    T = vec2(uv.x, 1. - uv.y);
}"""
FRAGMENT = """#version 330
in vec2 T; uniform sampler2D first; uniform float cut;
void main() { if (cut > 0. && texture(first, T).a < cut) discard; }"""
REACH = 0.85  # half the side of the pictures, world units: head and shoulders
SKY_DIRECTIONS, SKY_SIDE = 40, 160
SHADOW_SIDE = 512
BIAS = 0.012  # world units a point is lifted off its surface


def light_matrix(direction: np.ndarray) -> np.ndarray:
    """Clip space [4, 4] of a picture taken from `direction` (unit vector towards the light), all of the head within."""
    away = np.asarray(direction, np.float64) / np.linalg.norm(direction)
    up = np.array([0.0, 1.0, 0.0]) if abs(away[1]) < 0.95 else np.array([0.0, 0.0, 1.0])
    right = np.cross(up, away)
    right /= np.linalg.norm(right)
    matrix = np.eye(4)
    matrix[:3, :3] = np.stack([right, np.cross(away, right), -away]) / REACH
    return matrix


def sky_directions() -> np.ndarray:
    """Return unit vectors [D, 3], evenly spread (a Fibonacci spiral)."""
    index = np.arange(SKY_DIRECTIONS) + 0.5
    y, turn = 1 - 2 * index / SKY_DIRECTIONS, index * np.pi * (3 - np.sqrt(5))
    flat = np.sqrt(1 - y**2)
    return np.column_stack([flat * np.cos(turn), y, flat * np.sin(turn)])


def seen_from(matrix: np.ndarray, depth: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Return which of `points` [N, 3] nothing hides in `depth` [S, S] (0 near .. 1 far) taken with `matrix`."""
    clip = points @ matrix[:3, :3].T
    side = len(depth)
    column, row = ((clip[:, :2] * 0.5 + 0.5) * side).astype(int).clip(0, side - 1).T
    return clip[:, 2] * 0.5 + 0.5 <= depth[row, column] + 1e-4


def sky_share(points: np.ndarray, normals: np.ndarray, take) -> np.ndarray:
    """Return the fraction 0..1 [N] of an even sky's light that reaches `points` [N, 3] with unit `normals` [N, 3].

    take(matrix) -> depth picture [S, S] of everything that casts shadows.
    """
    received, possible = np.zeros(len(points)), np.full(len(points), 1e-6)
    lifted = points + BIAS * normals
    for direction in sky_directions():
        matrix = light_matrix(direction)
        facing = np.maximum(normals @ direction, 0)
        received += facing * seen_from(matrix, take(matrix), lifted)
        possible += facing
    return (received / possible).astype(np.float32)
