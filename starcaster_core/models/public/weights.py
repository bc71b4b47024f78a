"""Files of weights that others published: opened without trusting them and without holding them in memory."""

from __future__ import annotations

import hashlib
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError
from ..checkpoint import shorten

# What a folder in the layout of diffusers or transformers calls its weights, the best first.
FOLDER_FILES = tuple(
    f"{stem}{variant}"
    for variant in (".safetensors", ".fp16.safetensors", ".bin")
    for stem in ("diffusion_pytorch_model", "model", "pytorch_model")
)
PICKLES = (".ckpt", ".pt", ".pth", ".bin")


@dataclass(frozen=True)
class Lazy:
    """A tensor that is still on the disk."""

    shape: tuple[int, ...]
    read: Callable[[], Tensor]

    def reshaped(self, shape: tuple[int, ...]) -> Lazy:
        return self if shape == self.shape else Lazy(shape, lambda: self.read().reshape(shape))

    def plus(self, change: Callable[[], Tensor]) -> Lazy:
        return Lazy(self.shape, lambda: self.read().float() + change().reshape(self.shape))


def weights_file(path: str | Path, wanted: str) -> Path:
    """The file itself, or the one that holds the weights of a folder. Raises CheckpointError when there is none."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise CheckpointError(wanted, f"nothing at {path}", "Check the path; nothing is downloaded by itself.")
    for name in FOLDER_FILES:
        if (path / name).is_file():
            return path / name
    raise CheckpointError(wanted, f"the folder {path} without {FOLDER_FILES[0]} or its like", "Name the file itself.")


def open_weights(path: Path, wanted: str) -> dict[str, Lazy]:
    """Tensors by the names they have in the file: safetensors, or a pickle of plain tensors and nothing else.

    Raises CheckpointError for a file that is truncated, of another kind, or a pickle that holds objects or code.
    """
    if path.suffix in PICKLES:
        return open_pickle(path, wanted)
    return open_safetensors(path, wanted)


def open_safetensors(path: Path, wanted: str) -> dict[str, Lazy]:
    from safetensors import SafetensorError, safe_open

    try:
        file = safe_open(path, framework="pt")
        return {
            key: Lazy(tuple(file.get_slice(key).get_shape()), lambda key=key: file.get_tensor(key))
            for key in file.keys()
        }
    except (SafetensorError, OSError) as error:
        raise unreadable(path, wanted, error) from None


def open_pickle(path: Path, wanted: str) -> dict[str, Lazy]:
    try:
        # Mapped files are read tensor by tensor; the format before PyTorch 1.6 cannot be mapped.
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{wanted} as plain tensors",
            f"{path.name}, a pickle that is damaged or holds objects or code, which is not run "
            f"({shorten(str(error), 160)})",
            "Use the .safetensors version of the file, from the project that published it.",
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise unreadable(path, wanted, error) from None
    tensors = content.get("state_dict", content) if isinstance(content, dict) else content
    strangers = [] if isinstance(tensors, dict) else [type(tensors).__name__]
    if not strangers:
        strangers = [f"{key} ({type(value).__name__})" for key, value in tensors.items() if not torch.is_tensor(value)]
    if strangers:
        raise CheckpointError(
            f"{wanted} as plain tensors", f"{path.name} with {', '.join(strangers[:4])}", "Use another version of it."
        )
    # What was trained on several GPUs carries their wrapper's name.
    return {
        key.removeprefix("module."): Lazy(tuple(tensor.shape), lambda tensor=tensor: tensor)
        for key, tensor in tensors.items()
    }


def unreadable(path: Path, wanted: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        wanted,
        f"{path.name}, which cannot be read ({shorten(str(error), 160)})",
        "The file is truncated or of another kind: copy or download it again.",
    )


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()
