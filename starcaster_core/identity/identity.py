"""From photos to an `Identity`, and to a file and back."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..types import Identity
from .align import ffhq_transform, warp
from .faces import select_face
from .pictures import as_rgb
from .recognisers import Dlib

FORMAT = "starcaster-identity-1"
FIX = "Choose a file saved by the Identity Loader, or make it again from photos."


def make_identity(
    images: Sequence,
    size: int,
    which: str = "single",
    boxes: Sequence | None = None,
    masks: Sequence | None = None,
    recogniser=None,
) -> Identity:
    """Who the photos show: the mean of their embeddings, and the aligned crop of the first as portrait.

    images: one or several photos of one person, each as `as_rgb` accepts; size: side of the portrait in pixels.
    which: the face to take where a photo shows several, see `select_face`.
    boxes, masks: one a photo (None for a photo without), see `select_face`.
    recogniser: from `load_recogniser`, for the model that will show the person; None = dlib.
    Raises InputError for pictures that cannot be used, FaceError for faces that cannot, naming the photo when several.
    """
    if len(images) == 0:
        raise InputError("at least one photo", "none", "Connect or name a photo of the person.")
    boxes, masks = _one_each(boxes, len(images), "box"), _one_each(masks, len(images), "mask")
    recogniser = recogniser or Dlib()
    embeddings, portrait, yaw = [], None, 0.0
    for index, (image, box, mask) in enumerate(zip(images, boxes, masks)):
        try:
            pixels = as_rgb(image)
            face = select_face(recogniser.detect(pixels), pixels, which, box, mask, recogniser.face_at)
        except InputError as error:
            if len(images) == 1:
                raise
            raise type(error)(error.wanted, f"{error.got} (photo {index + 1} of {len(images)})", error.fix) from error
        if portrait is None:
            portrait = warp(pixels, ffhq_transform(*recogniser.eyes_and_mouth(face), size), size)
            yaw = recogniser.yaw(pixels, face)
        embeddings.append(recogniser.embed(pixels, face))
    embedding = np.mean(embeddings, axis=0, dtype=np.float64).astype(np.float32)
    return Identity(embedding, portrait, recogniser.name, yaw)


def save_identity(path: str | os.PathLike, identity: Identity) -> None:
    """Write a safetensors file: `embedding` float32 [E], `portrait` uint8 [S, S, 3] if there is one, backend and yaw."""
    from safetensors.numpy import save

    tensors = {"embedding": np.ascontiguousarray(identity.embedding, np.float32)}
    if identity.portrait is not None:
        tensors["portrait"] = np.ascontiguousarray(identity.portrait, np.uint8)
    content = save(tensors, metadata={"format": FORMAT, "backend": identity.backend, "yaw": repr(float(identity.yaw))})
    path = Path(path)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def load_identity(path: str | os.PathLike) -> Identity:
    """Read what `save_identity` wrote. InputError for a missing, truncated or foreign file."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = Path(path)
    wanted = "a saved identity file"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(wanted, f"{path.name}, which cannot be read ({error.strerror})", FIX) from error
    try:
        tensors, metadata = load(content), _metadata(content)
        yaw = float(metadata.get("yaw", 0))  # files of earlier versions do not tell
    except (SafetensorError, ValueError) as error:
        raise InputError(wanted, f"{path.name}, which is truncated or not one ({error})", FIX) from error
    embedding, portrait = tensors.get("embedding"), tensors.get("portrait")
    if metadata.get("format") != FORMAT or embedding is None:
        raise InputError(wanted, f"{path.name}, a safetensors file of something else", FIX)
    sound = embedding.ndim == 1 and np.isfinite(embedding).all() and np.isfinite(yaw)
    if not sound or not _is_portrait(portrait):
        raise InputError(wanted, f"{path.name}, whose contents are broken", FIX)
    return Identity(embedding.astype(np.float32), portrait, metadata.get("backend", "dlib"), yaw)


def _metadata(content: bytes) -> dict:
    """The text entries in a safetensors header: 8 bytes of length, then JSON."""
    length = int.from_bytes(content[:8], "little")
    return json.loads(content[8 : 8 + length]).get("__metadata__", {})


def _is_portrait(portrait: np.ndarray | None) -> bool:
    if portrait is None:
        return True
    return (
        portrait.dtype == np.uint8
        and portrait.ndim == 3
        and portrait.shape[0] == portrait.shape[1]
        and (portrait.shape[2] == 3)
    )


def _one_each(values: Sequence | None, count: int, name: str) -> Sequence:
    if values is None:
        return [None] * count
    if len(values) != count:
        raise InputError(
            f"one {name} a photo, {count} in all", f"{len(values)}", f"Give None for photos without a {name}."
        )
    return values
