"""The core's layers as ComfyUI's own operations, whose weights its memory management may keep wherever there is room.

The core is made of plain PyTorch layers and knows nothing of ComfyUI. Adopted, a layer is what it was as long as its
weights are on the computing device; where ComfyUI keeps them in main memory, it fetches them for the moment it needs
them.
"""

from __future__ import annotations

import comfy.ops
import torch
from torch import nn

from ..starcaster_core.models.storage import is_compact

OPERATIONS = {
    nn.Linear: comfy.ops.disable_weight_init.Linear,
    nn.Conv2d: comfy.ops.disable_weight_init.Conv2d,
}


def adopt(network: nn.Module) -> None:
    """Turn the linear and convolutional layers below `network`, where nearly all of the weights are, into ComfyUI's, in
    place. Layers with weights in eight bits fetch these by themselves, and are only marked as able to."""
    for layer in network.modules():
        # Subclasses with a forward of their own are left alone: `type`, not `isinstance`.
        if type(layer) in OPERATIONS:
            layer.__class__ = OPERATIONS[type(layer)]
        elif is_compact(layer):
            layer.comfy_cast_weights, layer.weight_function, layer.bias_function = False, [], []


def move_the_rest(network: nn.Module, device: torch.device) -> None:
    """Everything that cannot be fetched for a moment (norms, single parameters, buffers) onto the computing device"""
    for module in network.modules():
        if not hasattr(module, "comfy_cast_weights"):
            module._apply(lambda tensor: tensor.to(device), recurse=False)
