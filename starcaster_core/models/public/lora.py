"""LCM-LoRA for Stable Diffusion 1.5: few-step sampling as a low-rank change of the image UNet, merged into its
weights."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from ...errors import CheckpointError
from .layouts import Shapes, listed
from .weights import Lazy, open_weights, weights_file

TITLE = "an LCM-LoRA for Stable Diffusion 1.5"
# (pattern of a name: module, matrix), for kohya's names (as LCM-LoRA was published) and diffusers' own.
MATRICES = {"down": "down", "up": "up", "A": "down", "B": "up"}
NAMES = (
    re.compile(r"^lora_unet_(?P<module>.+)\.(?:lora_(?P<matrix>down|up)\.weight|(?P<alpha>alpha))$"),
    re.compile(
        r"^(?:unet\.|base_model\.model\.)?(?P<module>.+)\.lora(?:_|\.)(?P<matrix>down|up|A|B)(?:\.\w+)?\.weight$"
    ),
    re.compile(r"^(?:unet\.|base_model\.model\.)?(?P<module>.+)\.(?P<alpha>alpha)$"),
)


def read_lora(path: str | Path, unet: Shapes) -> tuple[Path, dict[str, Callable[[], Tensor]]]:
    """-> the file, and {weight of the UNet: what is to be added to it}.

    unet: shapes of the 2D UNet's weights. change = alpha / rank * up @ down, alpha = rank where the file names none.
    Raises CheckpointError for modules the UNet has not, halves of pairs, shapes that do not fit.
    """
    file = weights_file(path, TITLE)
    found = open_weights(file, TITLE)
    targets = {module_key(name): name for name in unet if name.endswith(".weight")}
    pairs: dict[str, dict[str, Lazy]] = {}
    strangers = []
    for name, lazy in found.items():
        match = next((m for pattern in NAMES if (m := pattern.match(name))), None)
        target = match and targets.get(module_key(match["module"] + ".weight"))
        if target is None:
            strangers.append(name)
            continue
        groups = match.groupdict()
        kind = "alpha" if groups.get("alpha") else MATRICES[groups["matrix"]]
        pairs.setdefault(target, {})[kind] = lazy
    halves = [name for name, pair in pairs.items() if not {"up", "down"} <= pair.keys()]
    misshapen = [name for name, pair in pairs.items() if name not in halves and not fits(pair, unet[name])]
    for names, what in (
        (strangers, "unexpected"),
        (halves, "without their other half"),
        (misshapen, "of another shape"),
    ):
        if names or not pairs:
            raise CheckpointError(
                TITLE,
                f"{file.name}: {len(names)} {what} ({listed(names)})",
                "Use lcm-lora-sdv1-5 (pytorch_lora_weights.safetensors); LoRAs of text encoders or SDXL do not fit.",
            )
    return file, {name: change_of(pair) for name, pair in pairs.items()}


def module_key(name: str) -> str:
    """kohya writes dots and underscores alike."""
    return name.removesuffix(".weight").replace(".", "_")


def fits(pair: dict[str, Lazy], shape: tuple[int, ...]) -> bool:
    up, down = pair["up"].shape, pair["down"].shape
    return (
        up[0] == shape[0] and up[1] == down[0] and down[1] == shape[1] and (down[2:] or (1, 1)) == (shape[2:] or (1, 1))
    )


def change_of(pair: dict[str, Lazy]) -> Callable[[], Tensor]:
    def change() -> Tensor:
        up, down = pair["up"].read().float(), pair["down"].read().float()
        rank = down.shape[0]
        alpha = float(pair["alpha"].read()) if "alpha" in pair else rank
        return alpha / rank * (up.flatten(1) @ down.flatten(1))

    return change
