"""The one list of nodes, and what happens once when ComfyUI loads the pack."""

from .assemble import AssembleCheckpoint
from .camera import CameraTrajectory
from .comfy_bridge import ComfyExtension, install_sample_inputs, register_model_folder
from .decode import Decode
from .execution import ExecutionOptions
from .identity import IdentityLoader
from .model import ModelLoader
from .sampler import Sampler
from .speech import AudioEncoder
from .video import VideoCombine

NODES = [
    ModelLoader,
    IdentityLoader,
    AudioEncoder,
    CameraTrajectory,
    Sampler,
    VideoCombine,
    AssembleCheckpoint,
    ExecutionOptions,
    Decode,
]


class StarcasterExtension(ComfyExtension):
    async def on_load(self) -> None:
        register_model_folder()
        install_sample_inputs()

    async def get_node_list(self) -> list[type]:
        return NODES
