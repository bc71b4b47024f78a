"""The image UNet of Stable Diffusion 1.5's shape, which Arc2Face's is: diffusers' names are ours, the original ones are
not."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .layouts import Layout, Part, Shapes, read_part

TITLE = "the Arc2Face UNet"
PREFIX = "model.diffusion_model."


class Name(str):
    """A name in the place of a tensor, for converters that only move tensors about."""

    shape, ndim = (), 0


def from_original(names: Iterable[str]) -> dict[str, str]:
    """Original Stable Diffusion names, alone or in a whole checkpoint -> {diffusers' name: name in the file}"""
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    prefixed = {name if name.startswith(PREFIX) else PREFIX + name: Name(name) for name in names}
    return dict(convert_ldm_unet_checkpoint(prefixed, {"layers_per_block": 2}))


REST = r"^(first_stage_model\.|cond_stage_model\.|model_ema\.|betas|alphas_|sqrt_|log_one_|posterior_)"
LAYOUTS = (
    Layout("diffusers", r"^down_blocks\.0\.resnets", lambda names: {name: name for name in names}),
    Layout("original", r"(^|\.)input_blocks\.0", from_original, REST),
)


def read_unet(path: str | Path, expected: Shapes) -> Part:
    return read_part(path, TITLE, LAYOUTS, expected)
