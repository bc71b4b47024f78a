"""Stable Diffusion's autoencoder, in diffusers' names (old and new) or the original ones."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .layouts import Layout, Part, Shapes, read_part, renaming
from .unet import Name

TITLE = "the Stable Diffusion VAE"
REST = r"^(loss\.|model_ema\.|model\.diffusion_model\.|cond_stage_model\.|betas|alphas_|sqrt_|log_one_|posterior_)"


def from_original(names: Iterable[str]) -> dict[str, str]:
    """Original names, alone or in a whole checkpoint -> {diffusers' name: name in the file}"""
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    levels = {"down_block_types": [None] * 4, "up_block_types": [None] * 4}
    return dict(convert_ldm_vae_checkpoint({name: Name(name) for name in names}, levels))


LAYOUTS = (
    Layout(
        "diffusers",
        r"^(encoder\.down_blocks|decoder\.up_blocks)\.",
        renaming(
            (r"(attentions\.0)\.(query|key|value)\.", lambda m: f"{m[1]}.to_{m[2][0]}."),
            (r"(attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
        ),
    ),
    Layout("original", r"(^|\.)(encoder\.down|decoder\.up)\.\d", from_original, REST),
)


def read_vae(path: str | Path, expected: Shapes) -> Part:
    return read_part(path, TITLE, LAYOUTS, expected)
