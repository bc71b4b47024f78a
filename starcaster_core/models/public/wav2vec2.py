"""wav2vec2-base: a folder or file of Hugging Face's, or the single file that ComfyUI keeps in models/audio_encoders."""

from __future__ import annotations

from pathlib import Path

import torch

from ...speech.wav2vec2 import Wav2Vec2Encoder
from .layouts import Layout, Part, Shapes, below, read_part, renaming

TITLE = "wav2vec2-base"
LAYOUTS = (
    Layout(
        "transformers",
        r"(^|\.)feature_extractor\.conv_layers\.",
        renaming(
            (r"^wav2vec2\.", ""),
            (r"pos_conv_embed\.conv\.weight_g$", "pos_conv_embed.conv.parametrizations.weight.original0"),
            (r"pos_conv_embed\.conv\.weight_v$", "pos_conv_embed.conv.parametrizations.weight.original1"),
        ),
        # What pre-training and speech recognition put on top of it.
        r"^(quantizer|project_q|project_hid|lm_head)\.|masked_spec_embed$",
    ),
)


def read_wav2vec2(path: str | Path, expected: Shapes) -> Part:
    return read_part(path, TITLE, LAYOUTS, expected)


def load_wav2vec2(path: str | Path) -> Wav2Vec2Encoder:
    """The encoder alone, for a model that was assembled without one. Float32, no gradients."""
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in Wav2Vec2Encoder().state_dict().items()}
    part = read_wav2vec2(path, below("network.", shapes))
    encoder = Wav2Vec2Encoder()
    encoder.network.load_state_dict({name: lazy.read().float() for name, lazy in part.weights.items()})
    return encoder.eval().requires_grad_(False)
