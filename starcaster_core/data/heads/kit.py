"""The head kit: where it lies, how its text files are read, and the one compact file they are cached in.

The kit is MakeHuman artwork (CC0): a base mesh, morph targets, 52 expression units, and proxies (hair, eyes, teeth ...)
whose vertices are bound to the base mesh. Only the head, neck and shoulders are kept. Lengths are decimetres.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ...errors import MissingDependencyError
from ...files import atomic_write

CACHE_FORMAT = 2
KEPT_BELOW_CROWN = 3.6  # decimetres of body kept: down to the upper chest
KEPT_PROXIES = ("hair", "eyebrows", "eyelashes", "eyes", "teeth", "tongue")


@dataclass(frozen=True)
class Proxy:
    """A mesh bound to the base: vertex = sum_k weights[k] * base[anchors[k]] + offsets * scale (MakeHuman .mhclo).

    anchors int [N, 3]; weights float32 [N, 3]; offsets float32 [N, 3]; rulers int [3, 2] (two base vertices an axis,
    whose distance divided by spans float32 [3] is the scale); uv float32 [U, 2]; faces, uv_faces int [F, 3].
    """

    anchors: np.ndarray
    weights: np.ndarray
    offsets: np.ndarray
    rulers: np.ndarray
    spans: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    uv_faces: np.ndarray

    def fit(self, base: np.ndarray) -> np.ndarray:
        """Fit the proxy to the base mesh `base` [V, 3]: vertices [N, 3]."""
        axes = np.arange(3)
        scale = np.abs(base[self.rulers[:, 0], axes] - base[self.rulers[:, 1], axes]) / self.spans
        return self.follow(base) + self.offsets * scale

    def follow(self, motion: np.ndarray) -> np.ndarray:
        """Return the displacement [..., N, 3] that one of the base, `motion` [..., V, 3], causes at fixed scale."""
        return np.einsum("nk,...nkc->...nc", self.weights, motion[..., self.anchors, :])


@dataclass(frozen=True)
class HeadKit:
    """The parsed kit.

    vertices float32 [V, 3]; uv float32 [U, 2]; faces, uv_faces int [F, 3] (the skin); source int [V], the vertex
    number in the original base mesh; units float32 [52, V, 3]; unit_names, in order; proxies "kind/name" -> Proxy.
    """

    root: Path
    vertices: np.ndarray
    uv: np.ndarray
    faces: np.ndarray
    uv_faces: np.ndarray
    source: np.ndarray
    unit_names: tuple[str, ...]
    units: np.ndarray
    target_names: tuple[str, ...]
    target_starts: np.ndarray
    target_vertices: np.ndarray
    target_moves: np.ndarray
    proxies: dict[str, Proxy]

    def shape(self, weights: dict[str, float]) -> np.ndarray:
        """Return base vertices [V, 3] under identity targets {"folder/name": weight}."""
        vertices = self.vertices.copy()
        order = {name: i for i, name in enumerate(self.target_names)}
        for name, weight in weights.items():
            span = slice(self.target_starts[order[name]], self.target_starts[order[name] + 1])
            vertices[self.target_vertices[span]] += np.float32(weight) * self.target_moves[span]
        return vertices

    def unit(self, name: str) -> np.ndarray:
        """Return the displacement [V, 3] of the expression unit `name` at full weight."""
        return self.units[self.unit_names.index(name)]

    def index_of(self, source_vertex: int) -> int:
        """Return where vertex `source_vertex` of the original base mesh stands in `vertices`."""
        return int(np.searchsorted(self.source, source_vertex))


def find_kit() -> Path:
    """Return the kit's folder.

    It is $STARCASTER_HEADS, else ~/.local/share/starcaster/heads, else ../shared/assets/heads beside the checkout.
    Raises MissingDependencyError where none holds a base.obj.
    """
    checkout = Path(__file__).resolve().parents[3]
    named = os.environ.get("STARCASTER_HEADS")
    places = [Path(named)] if named else [user_kit_folder(), checkout.parent / "shared" / "assets" / "heads"]
    for place in places:
        if (place / "base.obj").is_file():
            return place
    raise MissingDependencyError(
        "the head kit (a folder with base.obj, targets/, faceunits/, proxies/, skins/)",
        "none in " + ", ".join(map(str, places)),
        f"\nMake it from MakeHuman's CC0 files: python scripts/build_head_kit.py --out {user_kit_folder()}"
        " (another folder: name it in STARCASTER_HEADS).",
    )


def user_kit_folder() -> Path:
    """Return ~/.local/share/starcaster/heads, or the same below $XDG_DATA_HOME."""
    return Path(os.environ.get("XDG_DATA_HOME", Path.home() / ".local" / "share")) / "starcaster" / "heads"


@lru_cache(maxsize=2)
def load_kit(root: Path | None = None) -> HeadKit:
    """Load the kit at `root` (default: `find_kit()`), parsed once and kept in ~/.cache/starcaster/heads-<hash>.npz."""
    root = Path(root) if root else find_kit()
    cache = _cache_file(root)
    if not cache.is_file():
        with atomic_write(cache) as part, part.open("wb") as file:
            np.savez(file, **_parse(root))
    with np.load(cache) as arrays:
        return _assemble(root, dict(arrays))


def _cache_file(root: Path) -> Path:
    files = sorted(p for p in root.rglob("*") if p.suffix in (".obj", ".gz", ".mhclo"))
    stamp = [f"{p.relative_to(root)} {p.stat().st_size}" for p in files]
    digest = hashlib.sha256("\n".join([str(CACHE_FORMAT), *stamp]).encode()).hexdigest()[:12]
    home = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    return home / "starcaster" / f"heads-{digest}.npz"


def _parse(root: Path) -> dict[str, np.ndarray]:
    vertices, uv, faces, uv_faces, groups = read_obj(root / "base.obj")
    skin = groups == "body"
    faces, uv_faces = faces[skin], uv_faces[skin]
    floor = vertices[faces, 1].max() - KEPT_BELOW_CROWN
    near = vertices[faces, 1].mean(axis=1) > floor
    faces, uv_faces = faces[near], uv_faces[near]

    proxies = {}
    for kind in KEPT_PROXIES:
        for folder in sorted((root / "proxies" / kind).iterdir()):
            proxies[f"{kind}/{folder.name}"] = read_proxy(folder / f"{folder.name}.mhclo")

    bound = [part[key].ravel() for part in proxies.values() for key in ("anchors", "rulers")]
    source = np.unique(np.concatenate([faces.ravel(), *bound]))
    compact = np.full(len(vertices), -1)
    compact[source] = np.arange(len(source))
    for part in proxies.values():
        part["anchors"], part["rulers"] = compact[part["anchors"]], compact[part["rulers"]]

    unit_files = sorted((root / "faceunits").glob("*.target.gz"))
    units = np.stack([read_target(path, len(vertices))[source] for path in unit_files])
    target_files = sorted((root / "targets").rglob("*.target.gz"))
    moved, moves = [], []
    for path in target_files:
        motion = read_target(path, len(vertices))[source]
        moved.append(np.flatnonzero(np.abs(motion).max(axis=1) > 1e-5))
        moves.append(motion[moved[-1]])

    used_uv, uv_faces = np.unique(uv_faces, return_inverse=True)
    arrays = {
        "vertices": vertices[source],
        "uv": uv[used_uv],
        "faces": compact[faces],
        "uv_faces": uv_faces.reshape(-1, 3),
        "source": source,
        "unit_names": np.array([_target_name(p) for p in unit_files]),
        "units": units,
        "target_names": np.array([f"{p.parent.name}/{_target_name(p)}" for p in target_files]),
        "target_starts": np.cumsum([0, *map(len, moved)]),
        "target_vertices": np.concatenate(moved),
        "target_moves": np.concatenate(moves),
    }
    for name, part in proxies.items():
        arrays |= {f"proxy:{name}:{key}": value for key, value in part.items()}
    return arrays


def _assemble(root: Path, arrays: dict[str, np.ndarray]) -> HeadKit:
    parts: dict[str, dict[str, np.ndarray]] = {}
    for key in [key for key in arrays if key.startswith("proxy:")]:
        _, name, field = key.split(":")
        parts.setdefault(name, {})[field] = arrays.pop(key)
    arrays["unit_names"] = tuple(map(str, arrays["unit_names"]))
    arrays["target_names"] = tuple(map(str, arrays["target_names"]))
    return HeadKit(root=root, proxies={name: Proxy(**part) for name, part in parts.items()}, **arrays)


def _target_name(path: Path) -> str:
    return path.name.removesuffix(".target.gz")


def read_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Read a Wavefront file: vertices [V, 3], uv [U, 2], triangles [F, 3] of each, each triangle's group."""
    vertices, uv, faces, uv_faces, groups, group = [], [], [], [], [], ""
    for line in path.read_text(errors="ignore").splitlines():
        kind, _, rest = line.partition(" ")
        if kind == "v":
            vertices.append(rest.split()[:3])
        elif kind == "vt":
            uv.append(rest.split()[:2])
        elif kind == "g":
            group = rest.strip()
        elif kind == "f":
            corners = [corner.split("/") for corner in rest.split()]
            points = [int(c[0]) - 1 for c in corners]
            coords = [int(c[1]) - 1 if len(c) > 1 and c[1] else 0 for c in corners]
            for k in range(1, len(points) - 1):  # a fan of triangles
                faces.append((points[0], points[k], points[k + 1]))
                uv_faces.append((coords[0], coords[k], coords[k + 1]))
                groups.append(group)
    as_floats = [np.array(rows, dtype=np.float32) for rows in (vertices, uv or [(0, 0)])]
    return *as_floats, np.array(faces), np.array(uv_faces), np.array(groups)


def read_target(path: Path, count: int) -> np.ndarray:
    """Read a morph target: displacement float32 [count, 3] in decimetres; lines are "vertex dx dy dz"."""
    motion = np.zeros((count, 3), np.float32)
    with gzip.open(path, "rt") as lines:
        rows = [fields for fields in map(str.split, lines) if len(fields) == 4 and fields[0].isdigit()]
    if rows:
        table = np.array(rows, dtype=np.float64)
        motion[table[:, 0].astype(int)] = table[:, 1:]
    return motion


def read_proxy(path: Path) -> dict[str, np.ndarray]:
    """Read an .mhclo file and the mesh it names: the fields of `Proxy`, anchors numbered as in the full base mesh."""
    anchors, weights, offsets, reading = [], [], [], False
    rulers, spans, mesh = np.zeros((3, 2), int), np.ones(3, np.float32), path.with_suffix(".obj")
    for line in path.read_text(errors="ignore").splitlines():
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if words[0] == "obj_file":
            mesh = path.parent / words[1]
        elif words[0] in ("x_scale", "y_scale", "z_scale"):
            axis = "xyz".index(words[0][0])
            rulers[axis], spans[axis] = (int(words[1]), int(words[2])), float(words[3])
        elif words[0] == "verts":
            reading = True
        elif words[0] in ("weights", "delete_verts"):
            reading = False
        elif reading and len(words) == 1:
            anchors.append([int(words[0])] * 3), weights.append((1, 0, 0)), offsets.append((0, 0, 0))
        elif reading and len(words) >= 9:
            anchors.append([int(w) for w in words[:3]])
            weights.append([float(w) for w in words[3:6]]), offsets.append([float(w) for w in words[6:9]])
    _, uv, faces, uv_faces, _ = read_obj(mesh)
    return {
        "anchors": np.array(anchors),
        "weights": np.array(weights, np.float32),
        "offsets": np.array(offsets, np.float32),
        "rulers": rulers,
        "spans": spans,
        "uv": uv,
        "faces": faces,
        "uv_faces": uv_faces,
    }
