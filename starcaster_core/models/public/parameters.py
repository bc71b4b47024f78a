"""How many weights each part of a model has, counted without making any.

python -m starcaster_core.models.public.parameters --preset sd15
"""

from __future__ import annotations

import argparse
import math
from dataclasses import replace

from ...command import add_debug, run_command
from ...presets import PRESETS, ModelConfig
from ..weight_groups import group_of
from .assemble import shapes_of

# Billions, as reported of the paper: 1.6 in all.
PAPER = {"image UNet": "0.9", "motion": "0.5", "audio and camera": "0.2"}


def count_by_part(config: ModelConfig) -> dict[str, int]:
    """{part: weights}, buffers such as frame positions not counted"""
    counts: dict[str, int] = {}
    for name, shape in shapes_of(config).items():
        if name.endswith(".pe"):
            continue
        part = part_of(name)
        counts[part] = counts.get(part, 0) + math.prod(shape)
    return counts


def part_of(name: str) -> str:
    groups = {
        "audio": "audio and camera",
        "camera": "audio and camera",
        "lora": "self-attention LoRA",
        "motion": "motion",
    }
    first = {"vae": "VAE", "identity_tokens": "identity encoder", "speech_encoder": "speech encoder"}
    return groups.get(group_of(name)) or first.get(name.split(".")[0], "image UNet")


def table(counts: dict[str, int]) -> str:
    """Markdown, millions of weights."""
    rows = [f"| {part} | {number / 1e6:.1f} | {PAPER.get(part, '')} |" for part, number in counts.items()]
    return "\n".join(["| part | weights, millions | paper, billions |", "|---|---|---|", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=PRESETS, default="sd15")
    add_debug(parser)
    config = PRESETS[parser.parse_args().preset]
    if config.speech_encoder == "wav2vec2-base":
        config = replace(config, conditioning=replace(config.conditioning, wav2vec2_inside=True))
    print(table(count_by_part(config)))


if __name__ == "__main__":
    raise SystemExit(run_command("count parameters", main))
