"""AnimateDiff's motion modules for Stable Diffusion 1.5: the original files (v1, v2, v3) and diffusers'
`MotionAdapter`.

v2 has a module in the middle block, v1 and v3 have none. v1 knows 24 frames, the others 32.
"""

from __future__ import annotations

from pathlib import Path

import torch

from ...errors import CheckpointError
from ..layers import SinusoidalPositionalEmbedding
from .layouts import Layout, Part, Shapes, fit, listed, recognise, renaming
from .weights import Lazy, open_weights, weights_file

TITLE = "an AnimateDiff motion module for Stable Diffusion 1.5"
MIDDLE = "mid_block."
# The original keeps the frame positions once an attention, diffusers once a block. They are no weights: see
# `positions`.
LAYOUTS = (
    Layout(
        "original",
        r"\.temporal_transformer\.",
        renaming(
            (r"\.temporal_transformer", ""),
            (r"\.norms\.0", ".norm1"),
            (r"\.norms\.1", ".norm2"),
            (r"\.ff_norm", ".norm3"),
            (r"\.attention_blocks\.0\.(?!pos)", ".attn1."),
            (r"\.attention_blocks\.1\.(?!pos)", ".attn2."),
        ),
    ),
    Layout("diffusers", r"\.motion_modules\.", lambda names: {name: name for name in names}),
)


def read_motion(path: str | Path, expected: Shapes) -> Part:
    """facts: `frames`, how many the module has positions for, and `middle`, whether it has one for the middle block."""
    file = weights_file(path, TITLE)
    layout, found = recognise(open_weights(file, TITLE), file, TITLE, LAYOUTS)
    tables = {name: found.pop(name) for name in list(found) if name.endswith(".pe")}
    expected = {name: shape for name, shape in expected.items() if not name.endswith(".pe")}
    middle = any(name.startswith(MIDDLE) for name in found)
    if not middle:
        expected = {name: shape for name, shape in expected.items() if not name.startswith(MIDDLE)}
    weights = fit(found, expected, file, TITLE)
    return Part(file, layout.name, weights, {"frames": positions(tables, file), "middle": middle})


def positions(tables: dict[str, Lazy], file: Path) -> int:
    """How many frames the modules know. Their positions must be the sinusoids that ours are."""
    frames = {table.shape[-2] for table in tables.values()} or {32}
    for name, table in tables.items():
        ours = SinusoidalPositionalEmbedding(table.shape[-1], table.shape[-2]).pe
        if len(frames) > 1 or not torch.allclose(table.read().float().reshape(ours.shape), ours, atol=2e-3):
            raise CheckpointError(
                "motion modules with sinusoidal frame positions, as many in each",
                f"{file.name} with others ({listed([name])})",
                "Use the published mm_sd_v15_v2 or v3_sd15_mm.",
            )
    return frames.pop()
