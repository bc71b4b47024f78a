"""Gradient checkpointing: activations of the denoiser are computed again in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..models.attention import SpatialTransformer
from ..models.layers import ResidualBlock
from ..models.motion import MotionModule

BLOCKS = (ResidualBlock, SpatialTransformer, MotionModule)


@contextmanager
def checkpointed_blocks(unet: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Let the residual, spatial and temporal blocks of a UNet keep their inputs alone (Chen et al. 2016).

    Outputs and gradients are the same.
    """
    blocks = [module for module in unet.modules() if isinstance(module, BLOCKS)] if enabled else []
    for block in blocks:
        block.forward = checkpointed(block.forward)
    try:
        yield
    finally:
        for block in blocks:
            del block.forward


def checkpointed(forward):
    def run(*args, **kwargs):
        if not torch.is_grad_enabled():  # the reference pass, which also records features
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    return run
