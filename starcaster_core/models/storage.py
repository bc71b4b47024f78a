"""Weights kept in eight bits and multiplied in sixteen: half the memory, the same arithmetic on rounded weights.

Each output channel has a scale of its own that puts its largest weight at the format's largest number, so small weights
do not fall among the few numbers that float8 has near zero.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError

SMALLEST = 2**12  # weights; below that the scales and the extra work buy nothing


def weight_of(layer: nn.Module, device: torch.device | None = None) -> Tensor:
    """A layer's weight in the precision it computes in, whether or not it is stored in eight bits; on `device`, or
    where it is."""
    return layer.full_weight(device) if is_compact(layer) else layer.weight.to(device)


def is_compact(layer: nn.Module) -> bool:
    return isinstance(layer, (CompactLinear, CompactConv2d))


class Compact:
    """Mixed into a layer whose weight is float8; `scale` [out, 1, ...] has the precision it computes in."""

    def full_weight(self, device: torch.device | None = None) -> Tensor:
        """In the precision it computes in, on `device` or where it is; it travels in eight bits."""
        return self.weight.to(device).to(self.scale.dtype) * self.scale.to(device)

    def here(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """Weight and bias beside x, from wherever they are kept"""
        return self.full_weight(x.device), None if self.bias is None else self.bias.to(x.device)


class CompactLinear(Compact, nn.Linear):
    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, *self.here(x))


class CompactConv2d(Compact, nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, *self.here(x))


COMPACT = {nn.Linear: CompactLinear, nn.Conv2d: CompactConv2d}


def store_in_float8(module: nn.Module, keep: tuple[str, ...] = ()) -> None:
    """Turns the large linear and convolutional weights below `module` into float8_e4m3fn, in place.

    keep: parts whose names contain one of these stay as they are. Raises InputError without float8 in this PyTorch.
    """
    if not hasattr(torch, "float8_e4m3fn"):
        raise InputError("a PyTorch with float8_e4m3fn", torch.__version__, "Choose another precision.")
    # Conv2d subclasses with a forward of their own are left alone: `type`, not `isinstance`.
    layers = [
        layer
        for name, layer in module.named_modules()
        if type(layer) in COMPACT and layer.weight.numel() >= SMALLEST and not any(part in name for part in keep)
    ]
    for layer in layers:
        compact(layer)


@torch.no_grad()
def compact(layer: nn.Module) -> None:
    weight, kind = layer.weight, torch.float8_e4m3fn
    largest = weight.float().abs().amax(dim=tuple(range(1, weight.ndim)), keepdim=True)
    scale = (largest / torch.finfo(kind).max).clamp(min=torch.finfo(torch.float32).tiny).to(weight.dtype)
    layer.__class__ = COMPACT[type(layer)]
    layer.register_buffer("scale", scale, persistent=False)
    layer.weight = nn.Parameter((weight / scale).to(kind), requires_grad=False)
