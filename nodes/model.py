"""STARCaster_ModelLoader: a checkpoint by name -> the model and its VAE."""

from __future__ import annotations

import os

from . import sockets
from .comfy_bridge import CATEGORY, LoadedModel, StarcasterVAE, choose_dtype, io, model_files, model_path, user_errors

BUILT_IN = "mini"
PRECISIONS = ["auto", "float32", "bfloat16", "float16", "float8"]


class ModelLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_ModelLoader",
            display_name="STARCaster Model Loader",
            category=CATEGORY,
            description="Loads a STARCaster model. The small model 'mini' is part of the pack, so nothing is "
            "downloaded.",
            search_aliases=["talking head model", "portrait animation model", "load starcaster", "lip sync model"],
            inputs=[
                io.Combo.Input(
                    "checkpoint",
                    options=[BUILT_IN, *model_files()],
                    default=BUILT_IN,
                    tooltip="'mini' ships with the pack and runs on a CPU. Other models are .safetensors files in "
                    "ComfyUI/models/starcaster.",
                ),
                io.Combo.Input(
                    "precision",
                    options=PRECISIONS,
                    default="auto",
                    tooltip="Number format of the weights. 'auto' picks what is fast and safe on this machine. "
                    "'float8' stores the large weights in eight bits and computes as 'auto' does: half the memory, a "
                    "little less exact.",
                    advanced=True,
                ),
            ],
            outputs=[
                sockets.Model.Output(display_name="model", tooltip="For the Audio Encoder and the Sampler."),
                io.Vae.Output(display_name="vae", tooltip="For Video Combine, and for ComfyUI's own VAE nodes."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, checkpoint, precision):
        path = model_path(checkpoint) if checkpoint != BUILT_IN else None
        return (checkpoint, precision, os.path.getmtime(path) if path else None)

    @classmethod
    @user_errors
    def execute(cls, checkpoint, precision) -> io.NodeOutput:
        from ..starcaster_core.models.checkpoint import load_checkpoint

        path = checkpoint if checkpoint == BUILT_IN else model_path(checkpoint) or checkpoint
        core = load_checkpoint(path, dtype=choose_dtype(precision), float8=precision == "float8")
        return io.NodeOutput(LoadedModel(core), StarcasterVAE(core.vae))
