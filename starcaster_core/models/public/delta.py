"""What STARCaster's training adds to the public weights, as a file of its own: small, and free of their licences' weights.

groups: `lora` (self-attention), `audio` and `camera` (keys and values, and the networks that make their tokens),
`motion` (temporal attention). A delta holds any of them, each whole. Names are the whole model's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch

from ...errors import CheckpointError, InputError
from ...files import atomic_write
from ...presets import ModelConfig
from .layouts import Shapes, fit, listed
from .weights import Lazy, open_weights, weights_file

TITLE = "a STARCaster delta"
METADATA = "starcaster_delta"
GROUPS = {
    "lora": r"\.attn1\.lora\.",
    "audio": r"\.attn2\.audio\.|^speech_tokens\.",
    "camera": r"\.attn2\.camera\.|^camera_tokens\.",
    "motion": r"\.motion_modules\.",
}


@dataclass(frozen=True)
class Delta:
    file: Path
    config: ModelConfig
    groups: tuple[str, ...]
    weights: dict[str, Lazy]
    provenance: dict


def group_of(name: str) -> str | None:
    """The group of one of the model's weights; None for what is public."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), None)


def save_delta(
    path: str | Path, model, provenance: dict, groups: Iterable[str] = tuple(GROUPS), dtype=torch.float16
) -> None:
    """Writes those groups of a `Starcaster` model's weights, with its configuration and how they were made."""
    from safetensors.torch import save_file

    groups = tuple(groups)
    if unknown := set(groups) - GROUPS.keys():
        raise InputError(f"groups out of {', '.join(GROUPS)}", listed(unknown), "Choose from them.")
    weights = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in model.state_dict().items()
        if group_of(name) in groups
    }
    facts = {"config": model.config.to_dict(), "groups": groups, "provenance": provenance}
    with atomic_write(path) as part:
        save_file(weights, part, {"format": "pt", METADATA: json.dumps(facts)})


def open_delta(path: str | Path) -> tuple[Path, dict]:
    """-> the file, and its metadata: config, groups, provenance"""
    from safetensors import SafetensorError, safe_open

    file = weights_file(path, TITLE)
    try:
        with safe_open(file, framework="pt") as content:
            facts = json.loads((content.metadata() or {})[METADATA])
            facts["config"] = ModelConfig.from_dict(facts["config"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError):
        raise CheckpointError(TITLE, f"{file.name}, which is none", "Use a file that training wrote as one.") from None
    return file, facts


def read_delta(file: Path, facts: dict, expected: Shapes) -> Delta:
    """expected: shapes of the whole model of the delta's configuration.

    Raises CheckpointError unless the groups that the file says it has are there, whole, and nothing else.
    """
    groups = tuple(facts["groups"])
    expected = {name: shape for name, shape in expected.items() if group_of(name) in groups}
    weights = fit(open_weights(file, TITLE), expected, file, TITLE)
    return Delta(file, facts["config"], groups, weights, facts["provenance"])
