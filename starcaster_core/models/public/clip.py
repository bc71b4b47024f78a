"""Arc2Face's encoder: CLIP-L's text model, as transformers saves it, in whichever version."""

from __future__ import annotations

from pathlib import Path

from .layouts import Layout, Part, Shapes, read_part, renaming

TITLE = "the Arc2Face encoder"
# Older versions wrote the constant positions as well; the projection serves image search.
LAYOUTS = (
    Layout(
        "transformers",
        r"(^|\.)encoder\.layers\.0\.self_attn\.",
        renaming((r"^(.*\.)?text_model\.", "")),
        r"position_ids$|text_projection",
    ),
)


def read_identity_encoder(path: str | Path, expected: Shapes) -> Part:
    return read_part(path, TITLE, LAYOUTS, expected)
