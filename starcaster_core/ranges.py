"""What the numbers of a configuration may be. A file's are checked before anything is built of them.

The limits leave room for models several times larger than any that exists.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

CHANNELS = (1, 4096)
# (lowest, highest) by the name of a record's field; numbers in a tuple are checked one by one.
RANGES = {
    "UNetConfig": {
        "in_channels": (1, 64),
        "block_out_channels": CHANNELS,
        "layers_per_block": (1, 8),
        "num_attention_heads": (1, 64),
        "cross_attention_dim": CHANNELS,
        "norm_num_groups": (1, 128),
        "lora_rank": (0, 1024),
        "motion_max_seq_length": (1, 256),
        "motion_num_attention_heads": (1, 64),
    },
    "AutoencoderConfig": {
        "latent_channels": (1, 64),
        "downscale": (1, 64),
        "scaling_factor": (1e-4, 1e4),
        "width": CHANNELS,
        "decoder_widths": CHANNELS,
    },
    "ConditioningConfig": {
        "identity_dim": CHANNELS,
        "identity_tokens": (1, 512),
        "speech_dim": (1, 65536),
        "speech_window": (0, 64),
        "speech_tokens": (1, 64),
        "speech_hidden": CHANNELS,
        "camera_tokens": (1, 64),
        "camera_hidden": CHANNELS,
    },
    "NoiseConfig": {"num_train_timesteps": (1, 100_000), "beta_start": (1e-9, 1), "beta_end": (1e-9, 1)},
    "ExtensionsConfig": {"head_motion_channels": (0, 64), "shared_noise": (0, 1)},
    "ReferenceDecoderConfig": {
        "feature_widths": (1, 1024),
        "hidden": (1, 1024),
        "appearance": (1, 1024),
        "fill_width": (1, 1024),
        "region_width": (1, 1024),
        "reader_width": (0, 1024),
    },
    "ModelConfig": {
        "image_size": (8, 2048),
        "fps": (1, 240),
        "chunk_frames": (1, 128),
        "context_frames": (0, 64),
        "steps": (1, 1000),
        "guidance_scale": (0, 100),
        "guidance_end": (0, 1),
    },
}
LONGEST_TUPLE, LONGEST_TEXT = 8, 64
KINDS = {"int": int, "float": (int, float), "bool": bool, "str": str}


def check_ranges(record) -> None:
    """Raise ValueError for a configuration, or a part of one, with a value of another type or outside its range."""
    kind = type(record).__name__
    for field in fields(record):
        value, declared = getattr(record, field.name), str(field.type)
        if declared.partition(" |")[0] in RANGES:
            if value is not None:
                check_ranges(value)
            continue
        name = f"{kind}.{field.name}"
        several = declared.startswith("tuple[")
        if several and (not isinstance(value, tuple) or len(value) > LONGEST_TUPLE):
            raise ValueError(f"{name} is to be a list of at most {LONGEST_TUPLE}")
        for one in value if several else (value,):
            check_value(name, one, declared.removeprefix("tuple[").split(",")[0], RANGES[kind].get(field.name))


def check_value(name: str, value: Any, declared: str, limits: tuple[float, float] | None) -> None:
    """Raise ValueError unless a value has the declared type and lies within the limits."""
    got = repr(value) if isinstance(value, (bool, int, float)) else type(value).__name__
    if not isinstance(value, KINDS[declared]) or (isinstance(value, bool) and declared != "bool"):
        raise ValueError(f"{name} is to be {declared}, and is {got[:40]}")
    if isinstance(value, str):
        if len(value) > LONGEST_TEXT or not value.isprintable():
            raise ValueError(f"{name} is to be a text of at most {LONGEST_TEXT} characters")
        return
    if limits is None:
        return
    low, high = limits
    if not low <= value <= high:  # NaN fails this too
        raise ValueError(f"{name} is to lie in {low:g} to {high:g}, and is {got[:40]}")
