"""STARCaster_Execution: a model -> the same model, called in another way, for speed."""

from __future__ import annotations

from ..starcaster_core.sampling.execution import Execution
from . import sockets
from .comfy_bridge import CATEGORY, io, user_errors

BATCHING = {"auto": None, "on": True, "off": False}


class ExecutionOptions(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_Execution",
            display_name="STARCaster Execution",
            category=CATEGORY,
            description="How the model's network is called: the same video but for rounding, in less time on a GPU. "
            "Goes between the Model Loader and the Sampler.",
            search_aliases=["torch compile starcaster", "speed up", "cuda graphs", "faster sampling"],
            inputs=[
                sockets.Model.Input("model", tooltip="From the STARCaster Model Loader."),
                io.Combo.Input(
                    "batch_guidance",
                    options=list(BATCHING),
                    default="auto",
                    tooltip="Ask for both branches of the guidance in one call, which fills a GPU better and takes "
                    "more memory. 'auto': on GPUs alone.",
                ),
                io.Boolean.Input(
                    "compile",
                    default=Execution.compile,
                    tooltip="Let torch.compile fuse the network's blocks: minutes once, then faster steps. Needs a C++ "
                    "compiler, on GPUs Triton.",
                ),
                io.Boolean.Input(
                    "cuda_graphs",
                    default=Execution.cuda_graphs,
                    tooltip="Record the network once and replay it, which spares the CPU's part of the work. Needs an "
                    "NVIDIA GPU; elsewhere it is left out.",
                ),
            ],
            outputs=[sockets.Model.Output(display_name="model", tooltip="For the Sampler.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(cls, model, batch_guidance, compile, cuda_graphs) -> io.NodeOutput:
        return io.NodeOutput(model.executed(Execution(BATCHING[batch_guidance], compile, cuda_graphs)))
