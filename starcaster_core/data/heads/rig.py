"""A person's head made ready to be posed: everything about the meshes that no frame changes.

World units and axes are the project's (origin in the head, x right of a frontal view, y up, z to the frontal viewer).
Size and place are chosen so that a frontal, neutral picture taken by the default camera (radius 2.7, focal 4.2647)
is its own FFHQ crop. Only the expression changes the meshes: V = neutral + weights @ morphs; the head's turn is left
to the vertex shader.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...conventions import CAMERA_RADIUS, FOCAL_LENGTH, smoothstep
from .glasses import build_glasses
from .identity import Collar, HeadIdentity
from .kit import HeadKit, Proxy

# Vertices of MakeHuman's base mesh; those of the subject's right side are found as mirror images.
LEFT_LANDMARKS = {
    "eye_outer": 6808,
    "eye_upper_outer": 6790,
    "eye_upper_inner": 6838,
    "eye_inner": 6847,
    "eye_lower_inner": 6831,
    "eye_lower_outer": 6820,
    "brow_inner": 6996,
    "brow_outer": 6982,
    "mouth": 7129,
}
MIDDLE_LANDMARKS = {
    "upper_lip_top": 455,
    "upper_lip_bottom": 474,
    "lower_lip_top": 493,
    "lower_lip_bottom": 491,
    "nose_bridge": 132,
    "nose_tip": 5054,
    "chin": 747,
}
LANDMARKS = (
    *(f"left_{name}" for name in LEFT_LANDMARKS),
    *(f"right_{name}" for name in LEFT_LANDMARKS),
    *MIDDLE_LANDMARKS,
)
EYE = ("outer", "upper_outer", "upper_inner", "inner", "lower_inner", "lower_outer")
ORIGIN_BEHIND_EYES = 0.75  # decimetres
PIVOT_FROM_EYES = np.array([0.0, -0.80, -1.05], np.float32)  # where the head turns, decimetres from between the eyes
NECK = (5.55, 6.25)  # height on the base mesh over which the turn of the head fades out
BLENDED = ("brows", "lashes")  # drawn from the inside out; the others from the outside in, which hides more early
PARTS = ("skin", "teeth", "tongue", "eyes", "brows", "lashes")
# The kit's upper teeth end where the lips meet and its lower ones stand above that, so that every open mouth would show
# the lower row alone; and they follow the jaw less than the lip does.
TEETH_DOWN = {"upper": 0.06, "lower": 0.08}  # decimetres
JAW_ON_TEETH = 1.3
LIP_GAP, LIP_STEP = -0.001, 0.012  # between the lips at rest, up and forward, decimetres; the step at the most


@dataclass(frozen=True)
class Part:
    """One drawable: `triangles` int32 [F, 3] into the render vertices."""

    name: str
    triangles: np.ndarray


@dataclass(frozen=True)
class HeadRig:
    """Positions [N, 3] and morphs [52, N, 3] in world units; render vertex i shows position `expand[i]`.

    static float32 [M, 8] per render vertex: u, v, follow (0 body .. 1 head), shade (0 dark .. 1), cloth (> 0 dressed),
    and what can be painted: beard, lips, lids (0 .. 1).
    worn: what no expression moves, name -> (float32 [H, 14] position, normal, static; triangles from the inside out).
    landmarks int [K]: positions of `LANDMARKS`. scale: world units a decimetre.
    """

    identity: HeadIdentity
    scale: float
    pivot: np.ndarray
    neutral: np.ndarray
    morphs: np.ndarray
    normals: np.ndarray
    skin_count: int
    skin_faces: np.ndarray
    expand: np.ndarray
    static: np.ndarray
    parts: tuple[Part, ...]
    worn: dict[str, tuple[np.ndarray, np.ndarray]]
    landmarks: np.ndarray

    def pose(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and normals, float32 [N, 3] each, under expression `weights` [52], before the turn."""
        on = np.flatnonzero(weights)
        positions = self.neutral
        if len(on):
            moved = np.asarray(weights, np.float32)[on] @ self.morphs[on].reshape(len(on), -1)
            positions = positions + moved.reshape(-1, 3)
        normals = self.normals.copy()
        normals[: self.skin_count] = self._smooth(positions)
        return positions, normals

    def turned(self, points: np.ndarray, follow: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Turn `points` [..., 3] by the head's rotation [3, 3] about the pivot; `follow` [...] says how much."""
        turned = (points - self.pivot) @ np.asarray(rotation, np.float32).T + self.pivot
        return points + follow[..., None] * (turned - points)

    def landmark_points(self, positions: np.ndarray, rotation: np.ndarray) -> np.ndarray:
        """Return the points [K, 3] of `LANDMARKS` in the world, for positions from `pose` and the head's turn."""
        points = positions[self.landmarks]
        return self.turned(points, np.ones(len(points), np.float32), rotation)

    def _smooth(self, positions: np.ndarray) -> np.ndarray:
        return vertex_normals(positions[: self.skin_count], self.skin_faces)


def vertex_normals(positions: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Return unit normals [V, 3]: the area-weighted mean over the triangles that meet in a vertex."""
    a, b, c = (positions[faces[:, k]] for k in range(3))
    e, f = b - a, c - a
    count, total = len(positions), np.zeros_like(positions)
    for axis in range(3):
        i, j = (axis + 1) % 3, (axis + 2) % 3
        area = e[:, i] * f[:, j] - e[:, j] * f[:, i]
        for k in range(3):
            total[:, axis] += np.bincount(faces[:, k], area, count)
    return total / (np.linalg.norm(total, axis=1, keepdims=True) + 1e-9)


def build_rig(kit: HeadKit, identity: HeadIdentity) -> HeadRig:
    """Build the rig of `identity`: shape, fit the proxies, normalise as FFHQ would crop, and lay out the buffers."""
    base = _close_lips(kit, kit.shape(identity.targets))
    skin = np.unique(kit.faces)
    compact = np.full(len(base), -1)
    compact[skin] = np.arange(len(skin))
    landmarks = compact[landmark_vertices(kit)]
    sides = len(LEFT_LANDMARKS)
    eyes = [base[skin][landmarks][first : first + len(EYE)].mean(axis=0) for first in (0, sides)]
    eyes_at = (eyes[0] + eyes[1]) / 2
    to_world, scale, roll = _normalisation(base[skin][landmarks], eyes_at)

    proxies = {
        "teeth": kit.proxies[f"teeth/{identity.teeth}"],
        "tongue": kit.proxies["tongue/tongue01"],
        "eyes": kit.proxies["eyes/high-poly"],
        "brows": kit.proxies[f"eyebrows/{identity.brows}"],
        "lashes": kit.proxies[f"eyelashes/{identity.lashes}"],
    }
    positions, rest, morphs = [base[skin]], [kit.vertices[skin]], [kit.units[:, skin]]
    dressed = _cloth("skin", rest[0], identity.collar)
    positions[0] = _dress(positions[0], dressed, vertex_normals(base[skin], compact[kit.faces]))
    normals = [np.zeros_like(base[skin])]
    for name, proxy in proxies.items():
        fitted, moves = proxy.fit(base), proxy.follow(kit.units)
        if name == "teeth":
            fitted, moves = _bite(kit, fitted, moves)
        positions.append(fitted)
        rest.append(proxy.fit(kit.vertices))
        morphs.append(moves)
        normals.append(vertex_normals(fitted, proxy.faces))
    starts = np.cumsum([0, *map(len, positions)])

    meshes = [(compact[kit.faces], kit.uv_faces, kit.uv)]
    meshes += [(p.faces, p.uv_faces, p.uv) for p in proxies.values()]
    expand, static, parts, filled = [], [], [], 0
    for k, (name, (faces, uv_faces, uv)) in enumerate(zip(PARTS, meshes)):
        pairs, triangles = _split(faces, uv_faces)
        places = rest[k][pairs[:, 0]]
        coords = uv[pairs[:, 1]]
        static.append(_static(name, places, coords, identity.collar))
        if name == "skin":
            static[-1][:, 5:] = _paint(kit, skin)[pairs[:, 0]]
        expand.append(pairs[:, 0] + starts[k])
        layers = _by_layer(triangles, positions[k], pairs[:, 0])
        parts.append(Part(name, (layers if name in BLENDED else layers[::-1]) + filled))
        filled += len(pairs)

    neutral = to_world(np.concatenate(positions))
    return HeadRig(
        identity=identity,
        scale=scale,
        pivot=to_world(eyes_at + PIVOT_FROM_EYES),
        neutral=neutral,
        morphs=np.concatenate(morphs, axis=1) @ roll.T * np.float32(scale),
        normals=np.concatenate(normals) @ roll.T,
        skin_count=len(skin),
        skin_faces=compact[kit.faces],
        expand=np.concatenate(expand),
        static=np.concatenate(static).astype(np.float32),
        parts=tuple(parts),
        worn=_worn(kit, identity, base, to_world, roll, eyes, base[skin][landmarks]),
        landmarks=landmarks,
    )


def landmark_vertices(kit: HeadKit) -> np.ndarray:
    """Return the kit vertices of `LANDMARKS`, int [K]."""
    skin = np.unique(kit.faces)
    left = [kit.index_of(v) for v in LEFT_LANDMARKS.values()]
    mirrored = kit.vertices[left] * np.array([-1, 1, 1], np.float32)
    right = [skin[np.argmin(np.linalg.norm(kit.vertices[skin] - point, axis=1))] for point in mirrored]
    return np.array([*left, *right, *(kit.index_of(v) for v in MIDDLE_LANDMARKS.values())])


def ffhq_quad(landmarks: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return FFHQ's crop of an image with `landmarks` [K, 2] (y down): centre [2], half side vector x [2].

    Karras et al. 2019, the dataset's own alignment: x along eye-to-eye minus the turned eye-to-mouth, of length
    max(2.0 |eye to eye|, 1.8 |eye to mouth|); centre 0.1 eye-to-mouth below the eyes.
    """
    at = dict(zip(LANDMARKS, landmarks))
    # The viewer's left eye is the subject's right one.
    right_eye = np.mean([at[f"right_eye_{name}"] for name in EYE], axis=0)
    left_eye = np.mean([at[f"left_eye_{name}"] for name in EYE], axis=0)
    mouth = (at["right_mouth"] + at["left_mouth"]) / 2
    eyes, across = (right_eye + left_eye) / 2, left_eye - right_eye
    down = mouth - eyes
    x = across - np.array([-down[1], down[0]])
    x = x / np.linalg.norm(x) * max(2.0 * np.linalg.norm(across), 1.8 * np.linalg.norm(down))
    return eyes + 0.1 * down, x


def _normalisation(points: np.ndarray, eyes_at: np.ndarray):
    """The map from decimetres to world units under which FFHQ's crop of a frontal view is the whole picture."""
    origin = eyes_at - np.array([0, 0, ORIGIN_BEHIND_EYES], np.float32)
    scale, roll = 0.246, np.eye(3)
    for _ in range(20):  # the scale changes the depth, so a fixed point; converges in a few rounds
        world = (points - origin) @ roll.T * scale
        depth = CAMERA_RADIUS - world[:, 2:]
        image = 0.5 + FOCAL_LENGTH * world[:, :2] * [1, -1] / depth
        centre, x = ffhq_quad(image)
        angle = np.arctan2(x[1], x[0])
        c, s = np.cos(angle), np.sin(angle)
        roll = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ roll
        shift = (centre - 0.5) * [1, -1] * (CAMERA_RADIUS - ORIGIN_BEHIND_EYES * scale) / FOCAL_LENGTH
        origin = origin + np.append(shift / scale, 0) @ roll
        scale *= 0.5 / np.linalg.norm(x)
    turn = roll.astype(np.float32)

    def to_world(places: np.ndarray) -> np.ndarray:
        return ((places - origin) @ turn.T * scale).astype(np.float32)

    return to_world, float(scale), turn


def _split(faces: np.ndarray, uv_faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Unique (vertex, uv) pairs [M, 2] and triangles [F, 3] into them."""
    both = np.stack([faces.ravel(), uv_faces.ravel()], axis=1)
    pairs, inverse = np.unique(both, axis=0, return_inverse=True)
    return pairs, inverse.reshape(-1, 3)


def _by_layer(triangles: np.ndarray, positions: np.ndarray, vertex_of: np.ndarray) -> np.ndarray:
    """Triangles from the inside out, so that blended layers cover each other rightly from every side one can see."""
    centres = positions[vertex_of[triangles]].mean(axis=1)
    middle = positions.mean(axis=0) - np.array([0, 0, 0.4], np.float32)
    return triangles[np.argsort(np.linalg.norm(centres - middle, axis=1), kind="stable")]


def _static(name: str, rest: np.ndarray, uv: np.ndarray, collar: Collar) -> np.ndarray:
    """uv, follow, shade and cloth of render vertices at `rest` [M, 3] (on the base mesh, decimetres); no paint yet."""
    cloth = _cloth(name, rest, collar)
    return np.column_stack([uv, _follow(rest), _shade(name, rest, uv), cloth, np.zeros((len(rest), 3))])


def _follow(rest: np.ndarray) -> np.ndarray:
    """How much a point turns with the head: the fade lies along the neck, which leans forward under the chin."""
    return _rise(*NECK, rest[:, 1] + 0.45 * (rest[:, 2] - 0.2))


def _shade(name: str, rest: np.ndarray, uv: np.ndarray) -> np.ndarray:
    """Light that reaches a point: little in the mouth, less towards the throat."""
    z = rest[:, 2]
    if name == "teeth":
        return 0.10 + 0.75 * _rise(0.95, 1.48, z)
    if name == "tongue":
        return 0.04 + 0.28 * _rise(0.85, 1.38, z)
    if name == "skin":
        cavity = (uv[:, 0] > 0.74) & (uv[:, 0] < 0.96) & (uv[:, 1] < 0.14)
        return np.where(cavity, 0.02 + 0.26 * _rise(1.05, 1.52, z), 1.0)
    return np.ones(len(rest))


def _cloth(name: str, rest: np.ndarray, collar: Collar) -> np.ndarray:
    """How far a point lies outside the collar, about decimetres; above 0 it is dressed."""
    if name != "skin":
        return np.full(len(rest), -1.0)
    from_axis = np.hypot(rest[:, 0], rest[:, 2] - 0.15)
    cut_out = collar.vee * np.clip(1 - np.abs(rest[:, 0]) / 0.6, 0, 1) * (rest[:, 2] > 0)
    return 0.5 * (from_axis - collar.radius) + 0.5 * (collar.height - rest[:, 1]) - 0.5 * cut_out


def _dress(positions: np.ndarray, cloth: np.ndarray, normals: np.ndarray) -> np.ndarray:
    """Cloth has thickness."""
    return positions + 0.05 * _rise(-0.02, 0.05, cloth)[:, None] * normals


def _close_lips(kit: HeadKit, base: np.ndarray) -> np.ndarray:
    """`base` with the jaw set so that the lips just meet at rest: sums of targets leave some apart, some crossed."""
    upper, lower = (kit.index_of(MIDDLE_LANDMARKS[name]) for name in ("upper_lip_bottom", "lower_lip_top"))
    jaw = np.stack([kit.unit("jawOpen"), kit.unit("jawForward")])
    apart = (base[upper] - base[lower])[1:]
    wanted = np.array([LIP_GAP, np.clip(apart[1], -LIP_STEP, LIP_STEP)])
    by_unit = (jaw[:, upper] - jaw[:, lower])[:, 1:].T
    weights = np.linalg.solve(by_unit, wanted - apart).astype(np.float32)
    return base + np.tensordot(weights, jaw, axes=1)


def _bite(kit: HeadKit, teeth: np.ndarray, moves: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Teeth [N, 3] and their morphs [52, N, 3] with the upper row in sight below the lip, the lower row behind its
    own."""
    jaw = kit.unit_names.index("jawOpen")
    drop = np.linalg.norm(moves[jaw], axis=1)
    lower = drop > 0.3 * drop.max()
    teeth, moves = teeth.copy(), moves.copy()
    teeth[:, 1] -= np.where(lower, TEETH_DOWN["lower"], TEETH_DOWN["upper"]).astype(np.float32)
    moves[jaw] *= JAW_ON_TEETH
    return teeth, moves


def _paint(kit: HeadKit, skin: np.ndarray) -> np.ndarray:
    """Where beard, lipstick and eye shadow go, 0 .. 1 [V, 3]: read off the expression units, which know lips and
    lids."""

    def moved(*units: str) -> np.ndarray:
        motion = sum(np.linalg.norm(kit.unit(unit)[skin], axis=1) for unit in units)
        return motion / motion.max()

    lips = _rise(0.45, 0.85, moved("mouthRollUpper", "mouthRollLower"))
    lids = _rise(0.15, 0.75, moved("eyeBlinkLeft", "eyeBlinkRight"))
    chin, above_lip = _rise(0.35, 0.75, moved("jawOpen")), _rise(0.25, 0.7, moved("mouthShrugUpper"))
    return np.column_stack([np.maximum(chin, above_lip) * (1 - lips), lips, lids])


def _worn(kit: HeadKit, identity: HeadIdentity, base: np.ndarray, to_world, roll: np.ndarray, eyes, landmarks) -> dict:
    worn = {}
    if identity.hair != "none":
        worn["hair"] = _hair(kit, identity, base, to_world, roll)
    if identity.glasses is not None:
        bridge = landmarks[LANDMARKS.index("nose_bridge"), 2]
        for name, mesh in zip(("frame", "lenses"), build_glasses(identity.glasses, *eyes, bridge)):
            vertices, normals, triangles = mesh
            static = np.tile(np.float32([0, 0, 1, 1, -1, 0, 0, 0]), (len(vertices), 1))
            packed = np.column_stack([to_world(vertices), normals @ roll.T, static])
            worn[name] = packed.astype(np.float32), triangles
    return worn


def _hair(kit: HeadKit, identity: HeadIdentity, base: np.ndarray, to_world, roll: np.ndarray):
    proxy: Proxy = kit.proxies[f"hair/{identity.hair}"]
    fitted, rest = _lowered(proxy.fit(base), base[:, 1].max()), proxy.fit(kit.vertices)
    pairs, triangles = _split(proxy.faces, proxy.uv_faces)
    vertex_of = pairs[:, 0]
    triangles = _by_layer(triangles, fitted, vertex_of)
    normals = vertex_normals(fitted, proxy.faces) @ roll.T
    static = _static("hair", rest[vertex_of], proxy.uv[pairs[:, 1]], identity.collar)
    vertices = np.column_stack([to_world(fitted)[vertex_of], normals[vertex_of], static])
    return vertices.astype(np.float32), triangles


def _lowered(hair: np.ndarray, crown: float) -> np.ndarray:
    """Hair that towers over the crown, pressed down to a few centimetres."""
    above = np.clip(hair[:, 1] - crown - 0.05, 0, None)
    return hair - above[:, None] * np.float32([0, 0.75, 0])


def _rise(low: float, high: float, x: np.ndarray) -> np.ndarray:
    """Rise smoothly from 0 at `low` to 1 at `high`."""
    return smoothstep((x - low) / (high - low))
