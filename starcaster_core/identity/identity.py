"""From photos to an `Identity`, and to a file and back."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import atomic_write, numbered
from ..types import Identity
from .align import ffhq_transform, warp
from .faces import select_face
from .landmarks import FaceLandmarks, find_landmarks, mouth_and_eyes
from .pictures import as_rgb, refuse_turned
from .pose import expression_warnings
from .recognisers import Dlib

FORMAT = "starcaster-identity-1"
ANGLES = ("yaw", "pitch")
LARGEST_FILE = 200_000_000  # bytes
LARGEST_SIDE = 4096  # pixels of a portrait
NUMBERS = {"dlib": 128, "arcface": 512}  # in an embedding
LARGEST_NUMBER = 1000.0  # dlib's are below 1, ArcFace's below 10
ARRAYS = {
    "portrait": (np.uint8, ("side", "side", 3)),
    "regions": (np.float32, (3, 2)),
    "crop": (np.float64, (3, 3)),
}
PHOTO_QUALITY = 95
SUFFIXES = (".identity.safetensors", ".safetensors")
FIX = "Choose a file saved by the Identity Loader, or make it again from photos."


def make_identity(
    images: Sequence,
    size: int,
    which: str = "single",
    boxes: Sequence | None = None,
    masks: Sequence | None = None,
    recogniser=None,
    landmarks: Callable[..., FaceLandmarks | None] = find_landmarks,
) -> Identity:
    """Make an identity: the mean of the photos' embeddings; of the first, the aligned crop as portrait, the geometry of
    the face, and the whole photo.

    images: one or several photos of one person, each as `as_rgb` accepts; size: side of the portrait in pixels.
    which: the face to take where a photo shows several, see `select_face`.
    boxes, masks: one a photo (None for a photo without), see `select_face`.
    recogniser: from `load_recogniser`, for the model that will show the person; None = dlib.
    landmarks: finds them in the first photo, by picture uint8 [H, W, 3] and the face's box x0, y0, x1, y1.
    Raises InputError for pictures that cannot be used, FaceError for faces that cannot, naming the photo when several.
    """
    if len(images) == 0:
        raise InputError("at least one photo", "none", "Connect or name a photo of the person.")
    boxes, masks = _one_each(boxes, len(images), "box"), _one_each(masks, len(images), "mask")
    recogniser = recogniser or Dlib()
    embeddings, portrait, expression = [], {}, ()
    for index, (image, box, mask) in enumerate(zip(images, boxes, masks)):
        try:
            pixels = as_rgb(image)
            faces = recogniser.detect(pixels)
            if box is None and mask is None:
                refuse_turned(pixels, faces, recogniser.detect)
            face = select_face(faces, pixels, which, box, mask, recogniser.face_at)
        except InputError as error:
            if len(images) == 1:
                raise
            raise type(error)(error.wanted, f"{error.got} (photo {index + 1} of {len(images)})", error.fix) from error
        if not portrait:
            right_eye, left_eye, mouth = recogniser.eyes_and_mouth(face)  # the subject's right is the picture's left
            crop = ffhq_transform(right_eye, left_eye, mouth, size)
            found = landmarks(pixels, face.box)
            expression = expression_warnings(found)
            portrait = {
                "portrait": warp(pixels, crop, size),
                "photo": pixels,
                "crop": crop,
                "regions": in_portrait(np.stack([mouth, right_eye, left_eye]), crop, size),
                **look_at(found, crop, size),
            }
        embeddings.append(recogniser.embed(pixels, face))
    embedding = np.mean(embeddings, axis=0, dtype=np.float64).astype(np.float32)
    warnings = strangers(embeddings, recogniser.name) + expression
    return Identity(embedding, backend=recogniser.name, warnings=warnings, **portrait)


def strangers(embeddings: Sequence[np.ndarray], backend: str) -> tuple[str, ...]:
    """Name each photo that seems to show another person than the first, a sentence each.

    Beyond a Euclidean distance of 0.6 dlib's authors take two faces for two people; for ArcFace it is a cosine below
    0.25.
    """

    def is_other(one: np.ndarray, other: np.ndarray) -> bool:
        if backend == "arcface":
            return float(one @ other) < 0.25 * float(np.linalg.norm(one) * np.linalg.norm(other))
        return float(np.linalg.norm(one - other)) > 0.6

    return tuple(
        f"Photo {number} seems to show another person than photo 1; their mean is like neither of them."
        for number, embedding in enumerate(embeddings[1:], 2)
        if is_other(embeddings[0], embedding)
    )


def look_at(found: FaceLandmarks | None, crop: np.ndarray, size: int) -> dict:
    """Return what landmarks tell of a face's geometry, by the names that `Identity` has for it; nothing where there are
    none or they lie outside the portrait."""
    if found is None:
        return {}
    regions = in_portrait(mouth_and_eyes(found.points), crop, size)
    if ((regions < 0) | (regions > 1)).any():
        return {}
    return {"yaw": found.pose.yaw, "pitch": found.pose.pitch, "regions": regions}


def in_portrait(places: np.ndarray, crop: np.ndarray, size: int) -> np.ndarray:
    """Return where places [K, 2] of the picture lie in the portrait, float32 [K, 2] in 0..1."""
    return ((places.astype(np.float64) @ crop[:2, :2].T + crop[:2, 2]) / size).astype(np.float32)


def save_identity(path: str | os.PathLike, identity: Identity) -> None:
    """Write a safetensors file: the arrays that `Identity` has, under its names; backend, yaw and pitch in the
    metadata.

    The whole photo is kept as a JPEG of high quality, `photo_jpeg` uint8 [bytes].
    """
    from safetensors.numpy import save

    tensors = {"embedding": np.ascontiguousarray(identity.embedding, np.float32)}
    for name, (dtype, _) in ARRAYS.items():
        if getattr(identity, name) is not None:
            tensors[name] = np.ascontiguousarray(getattr(identity, name), dtype)
    if identity.photo is not None:
        tensors["photo_jpeg"] = np.frombuffer(encode_jpeg(identity.photo), np.uint8)
    angles = {name: repr(float(getattr(identity, name))) for name in ANGLES}
    content = save(tensors, metadata={"format": FORMAT, "backend": identity.backend, **angles})
    with atomic_write(path) as part:
        part.write_bytes(content)


def save_new_identity(path: str | os.PathLike, identity: Identity) -> Path:
    """Write like `save_identity`, but never over another identity: where the name is taken, `_2`, `_3` ... is added to
    it. Nothing is written where the file there holds this identity already. Return the path."""
    path = Path(path)
    suffix = next((end for end in SUFFIXES if path.name.endswith(end)), path.suffix)
    free = next(one for one in numbered(path, suffix) if not os.path.lexists(one) or _is_saved(one, identity))
    if not os.path.lexists(free):
        save_identity(free, identity)
    return free


def _is_saved(path: Path, identity: Identity) -> bool:
    try:
        there = load_identity(path)
    except InputError:
        return False
    return there.backend == identity.backend and all(
        np.array_equal(getattr(there, name), getattr(identity, name)) for name in ("embedding", "portrait", "crop")
    )


def load_identity(path: str | os.PathLike) -> Identity:
    """Read what `save_identity` wrote. InputError for a missing, truncated or foreign file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    wanted = "a saved identity file"
    try:
        if (size := path.stat().st_size) > LARGEST_FILE:
            raise InputError(wanted, f"{path.name}, which has {size / 1e6:.0f} MB", FIX)
        content = path.read_bytes()
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(wanted, f"{path.name}, which cannot be read ({error})", FIX) from error
    try:
        tensors, metadata = load(content), _metadata(content)
        angles = {name: float(metadata.get(name, 0)) for name in ANGLES}  # files of earlier versions do not tell
    except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(wanted, f"{path.name}, which is truncated or not one ({error})", FIX) from error
    embedding = tensors.get("embedding")
    if metadata.get("format") != FORMAT or embedding is None:
        raise InputError(wanted, f"{path.name}, a safetensors file of something else", FIX)
    arrays = {name: tensors.get(name) for name in ARRAYS}
    backend = metadata.get("backend", "dlib")
    sound = embedding.dtype.kind == "f" and embedding.shape == (NUMBERS.get(backend),)
    sound = sound and bool((np.abs(embedding) <= LARGEST_NUMBER).all())  # NaN fails this too
    sound &= all(abs(angle) <= 180 for angle in angles.values())
    sound &= all(array is None or is_right(array, *ARRAYS[name]) for name, array in arrays.items())
    sound &= arrays["portrait"] is None or len(arrays["portrait"]) <= LARGEST_SIDE
    photo = decode_jpeg(tensors["photo_jpeg"]) if sound and "photo_jpeg" in tensors else None
    if not sound or ("photo_jpeg" in tensors and photo is None):
        raise InputError(wanted, f"{path.name}, whose contents are broken", FIX)
    return Identity(embedding.astype(np.float32), backend=backend, photo=photo, **arrays, **angles)


def _metadata(content: bytes) -> dict:
    """The text entries in a safetensors header: 8 bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def is_right(array: np.ndarray, dtype: type, shape: tuple[int | str, ...]) -> bool:
    """Return whether an array has the type and shape it should have (equal letters are equal sides) and finite
    numbers."""
    if array.dtype != dtype or array.ndim != len(shape):
        return False
    sides: dict[int | str, int] = {}
    fits = all(
        side == (want if isinstance(want, int) else sides.setdefault(want, side))
        for want, side in zip(shape, array.shape)
    )
    return fits and array.size > 0 and bool(np.isfinite(array).all())


def encode_jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=PHOTO_QUALITY, subsampling=0)
    return sink.getvalue()


def decode_jpeg(content: np.ndarray) -> np.ndarray | None:
    """Return uint8 [H, W, 3]; None for bytes that are no whole picture."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content.tobytes())) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, ValueError, Image.DecompressionBombError):
        return None


def _one_each(values: Sequence | None, count: int, name: str) -> Sequence:
    if values is None:
        return [None] * count
    if len(values) != count:
        raise InputError(
            f"one {name} a photo, {count} in all", f"{len(values)}", f"Give None for photos without a {name}."
        )
    return values
