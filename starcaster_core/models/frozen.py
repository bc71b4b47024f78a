"""Small networks that are trained once and then only used: one safetensors file each, configuration and facts in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from torch import nn

from ..errors import CheckpointError
from ..files import atomic_write


def save_frozen(path: Path, kind: str, network: nn.Module, config: dict, facts: dict) -> None:
    """Writes the weights; `kind` names what they are for, config rebuilds the network, facts say how it was made."""
    from safetensors.torch import save_file

    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in network.state_dict().items()}
    with atomic_write(path) as part:
        save_file(weights, part, {kind: json.dumps(config), "facts": json.dumps(facts)})


def load_frozen(path: str | Path, kind: str, build: Callable[[dict], nn.Module]) -> nn.Module:
    """The network that `build` makes of the file's configuration, with its weights; it takes no more gradients.

    Raises CheckpointError for a file that is missing, torn, of another kind, or does not fit.
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
    if kind not in metadata:
        found = ", ".join(sorted(metadata)) or "nothing"
        raise CheckpointError(wanted, f"{path.name}, which says it is: {found}", "Choose the right file.")
    try:
        network = build(json.loads(metadata[kind]))
        network.load_state_dict(weights)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"a {kind} this version understands", f"{path.name} ({error})", "Train it anew."
        ) from None
    return network.eval().requires_grad_(False)


def facts_of(path: str | Path) -> dict:
    """How a file of `save_frozen` was made, and what was measured."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return json.loads((file.metadata() or {}).get("facts", "{}"))
