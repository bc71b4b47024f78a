"""A safetensors file written tensor by tensor, so that memory holds one of them at a time.

The format: 8 bytes, the length of the header; the header, JSON; the tensors' bytes one after the other.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch

from ...errors import CheckpointError
from ...files import atomic_write
from .weights import Lazy

CODES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32"}


def write_streaming(
    path: Path,
    weights: dict[str, Lazy],
    metadata: dict[str, str],
    dtype: torch.dtype,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Writes all of them in `dtype`, or leaves nothing behind. progress: called with (tensors done, of how many).

    Raises CheckpointError for a weight that is not finite, before or after it is stored in `dtype`.
    """
    header, offset = {"__metadata__": {"format": "pt", **metadata}}, 0
    for name, lazy in weights.items():
        end = offset + torch.Size(lazy.shape).numel() * dtype.itemsize
        header[name] = {"dtype": CODES[dtype], "shape": list(lazy.shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path) as part, open(part, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for done, (name, lazy) in enumerate(weights.items(), 1):
            file.write(stored(name, lazy, dtype))
            progress(done, len(weights))


def stored(name: str, lazy: Lazy, dtype: torch.dtype) -> memoryview:
    tensor = lazy.read().to(dtype).contiguous()
    if not torch.isfinite(tensor).all():
        raise CheckpointError(
            f"finite weights in {str(dtype).removeprefix('torch.')}",
            f"{name}, which overflows or is broken",
            "Store it in float32; if that does not help, the source file is damaged.",
        )
    return memoryview(tensor.flatten().view(torch.uint8).numpy())
