"""Files of small networks that are trained once and then frozen: weights, with configuration and facts in the metadata.

The autoencoder, the speech encoder, the lip reader, and the networks that evaluation measures with.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from torch import nn

from ..errors import CheckpointError
from ..files import atomic_write

Network = TypeVar("Network", bound=nn.Module)


def save_frozen(path: Path, kind: str, network: nn.Module, config: dict, facts: dict) -> None:
    """Write a network to a safetensors file.

    kind: what the network is, checked by `load_frozen`. config: what rebuilds it. facts: how it was trained, and what
    was measured. Both go into the metadata as JSON.
    """
    from safetensors.torch import save_file

    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    with atomic_write(path) as part:
        save_file(weights, part, {kind: json.dumps(config), "facts": json.dumps(facts)})


def load_frozen(
    path: str | Path,
    kind: str,
    build: Callable[[dict], Network],
    default: dict | None = None,
    renamed: Mapping[str, str] | None = None,
) -> Network:
    """Read a network in eval mode, without gradients; build: configuration -> network.

    default: the configuration of files without one, which earlier versions wrote for some kinds. renamed: beginnings of
    weights' names in files of earlier versions -> today's.
    Raises CheckpointError for a file that is missing, damaged, of another kind, or does not fit.
    """
    from safetensors import SafetensorError, safe_open

    path, wanted = Path(path), f"a {kind} file"
    if not path.is_file():
        raise CheckpointError(wanted, f"no file at {path}", "Train one: docs/training.md says how.")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            weights = {key: file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(wanted, f"{path.name}, which cannot be read ({error})", "Write it again.") from None
    if kind not in metadata and default is None:
        found = ", ".join(sorted(metadata)) or "nothing"
        raise CheckpointError(wanted, f"{path.name}, which says it is: {found}", "Choose the right file.")
    try:
        network = build(json.loads(metadata[kind]) if kind in metadata else default)
        network.load_state_dict({rename(name, renamed or {}): tensor for name, tensor in weights.items()})
    except (TypeError, ValueError, RuntimeError) as error:
        # A wrong network has hundreds of missing weights: the first line says enough.
        raise CheckpointError(
            f"a {kind} this version understands", f"{path.name} ({str(error).splitlines()[0]})", "Train it anew."
        ) from None
    return network.eval().requires_grad_(False)


def rename(name: str, renamed: Mapping[str, str]) -> str:
    """Replace the beginning of a name: the first of `renamed` that it begins with."""
    for old, new in renamed.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


def facts_of(path: str | Path) -> dict:
    """Read how the network of a file was trained, and what was measured.

    Files of earlier versions keep their facts under other names: of those the whole metadata is returned.
    """
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    if "facts" in metadata:
        return json.loads(metadata["facts"])
    return {key: json.loads(value) if value[:1] in "{[" else value for key, value in metadata.items()}
