"""Deltas: what STARCaster's training adds to the public weights, as a small file free of their licences.

    python -m starcaster_core delta --checkpoint run/3-views.safetensors --out delta.safetensors

`assemble --delta` puts it together with the public weights again. A delta holds one or more groups of weights, each
whole: `lora` (self-attention), `audio` and `camera` (keys and values, and the networks that make their tokens),
`motion` (temporal attention). Weights have the names they have in the whole model.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, InputError
from ...files import atomic_write
from ...presets import ModelConfig
from ..checkpoint import find_checkpoint, read_checkpoint
from ..weight_groups import GROUPS, group_of
from .layouts import Shapes, fit, listed
from .weights import Lazy, open_weights, weights_file

TITLE = "a STARCaster delta"
PRECISIONS = {"float16": torch.float16, "float32": torch.float32}
METADATA = "starcaster_delta"


@dataclass(frozen=True)
class Delta:
    file: Path
    config: ModelConfig
    groups: tuple[str, ...]
    weights: dict[str, Lazy]
    provenance: dict


def save_delta(
    path: str | Path,
    config: ModelConfig,
    weights: dict[str, Tensor],
    provenance: dict,
    groups: Iterable[str] = tuple(GROUPS),
    dtype: torch.dtype = torch.float16,
) -> None:
    """Write those groups of a whole model's weights, with its configuration and how they were made.

    Raises InputError for groups that do not exist.
    """
    from safetensors.torch import save_file

    groups = tuple(groups)
    if unknown := set(groups) - GROUPS.keys():
        raise InputError(f"groups out of {', '.join(GROUPS)}", listed(unknown), "Choose from them.")
    held = {
        name: value.detach().to("cpu", dtype).contiguous()
        for name, value in weights.items()
        if group_of(name) in groups
    }
    facts = {"config": config.to_dict(), "groups": groups, "provenance": provenance}
    with atomic_write(path) as part:
        save_file(held, part, {"format": "pt", METADATA: json.dumps(facts)})


def open_delta(path: str | Path) -> tuple[Path, dict]:
    """Return the file and its metadata: config, groups, provenance. Raises CheckpointError for any other file."""
    from safetensors import SafetensorError, safe_open

    file = weights_file(path, TITLE)
    try:
        with safe_open(file, framework="pt") as content:
            facts = json.loads((content.metadata() or {})[METADATA])
            facts["config"] = ModelConfig.from_dict(facts["config"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError):
        raise CheckpointError(TITLE, f"{file.name}, which is none", "Use a file that training wrote as one.") from None
    return file, facts


def read_delta(file: Path, facts: dict, expected: Shapes) -> Delta:
    """Open the weights of a delta; expected: shapes of the whole model of the delta's configuration.

    Raises CheckpointError unless the groups that the file says it has are there, whole, and nothing else.
    """
    groups = tuple(facts["groups"])
    expected = {name: shape for name, shape in expected.items() if group_of(name) in groups}
    weights = fit(open_weights(file, TITLE), expected, file, TITLE)
    return Delta(file, facts["config"], groups, weights, facts["provenance"])


# The command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--checkpoint", required=True, metavar="FILE", help="a checkpoint that training wrote")
    parser.add_argument(
        "--groups", nargs="+", choices=GROUPS, metavar="GROUP", help=f"of {listed(GROUPS)}; default: the trained ones"
    )
    parser.add_argument("--precision", choices=PRECISIONS, default="float16", help="how the weights are stored")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")


def run(args: argparse.Namespace) -> None:
    """Write a delta. Raises InputError where the checkpoint's training is not, or not only, in the groups."""
    if args.out.suffix != ".safetensors":
        raise InputError("an output file ending in .safetensors", str(args.out), "Change --out.")
    config, weights, provenance = read_checkpoint(find_checkpoint(args.checkpoint))
    untrained = set(provenance.pop("untrained", ()))
    groups = args.groups or [group for group in GROUPS if group not in untrained]
    if missing := untrained.intersection(groups or GROUPS):
        raise InputError(
            "groups that were trained", f"{listed(missing)}, untrained in {args.checkpoint}", "Train them first."
        )
    stage = provenance.get("stage", provenance.get("last_stage", {}).get("stage"))
    if stage and not stage["trainable"]:
        got = f"{args.checkpoint}, whose stage {stage['name']} trained the image weights too"
        raise InputError(
            "a checkpoint whose image weights are the public ones", got, "Use the whole checkpoint instead."
        )
    save_delta(args.out, config, weights, provenance, groups, PRECISIONS[args.precision])
    print(f"{args.out}: {listed(groups)}, {args.out.stat().st_size / 2**20:.1f} MiB")
