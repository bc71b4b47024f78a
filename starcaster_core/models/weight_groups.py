"""The groups of weights that STARCaster's training adds to the public ones."""

from __future__ import annotations

import re

GROUPS = {
    "lora": r"\.attn1\.lora\.",
    "audio": r"\.attn2\.audio\.|^speech_tokens\.",
    "camera": r"\.attn2\.camera\.|^camera_tokens\.",
    "motion": r"\.motion_modules\.",
}


def group_of(name: str) -> str | None:
    """Return the group of one of the model's weights, None for public weights."""
    return next((group for group, pattern in GROUPS.items() if re.search(pattern, name)), None)
