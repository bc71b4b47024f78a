"""A UNet larger than the memory of its device: each block's weights come when it runs and go when it is done.

On CUDA the next block's weights travel on a stream of their own while the present one computes, so that as long as
computing takes longer than copying nothing is waited for. Elsewhere the same steps happen one after the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor, nn

# Asked for keys and values outside of their block's turn, once a clip or a chunk: they stay on the device.
RESIDENT = ("attn2.to_k", "attn2.to_v", "attn2.audio", "attn2.camera")


class BlockOffload:
    """Keeps the weights of a UNet's blocks in main memory, and everything else on the device.

    Use it in a `with` block; afterwards everything is on the CPU. At most two blocks are on the device at a time.
    """

    def __init__(self, unet: nn.Module, device: torch.device | str):
        self.unet, self.device = unet, torch.device(device)
        self.stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self.blocks = [_Block(block, self.device, self.stream) for block in unet.blocks()]
        self.hooks: list = []
        self.ahead: _Block | None = None  # sent before its turn

    def __enter__(self) -> BlockOffload:
        away = {id(x) for block in self.blocks for _, x in block.weights}
        for tensor in [*self.unet.parameters(), *self.unet.buffers()]:
            if id(tensor) not in away:
                tensor.data = tensor.data.to(self.device)
        for block, following in zip(self.blocks, self.blocks[1:] + self.blocks[:1]):
            self.hooks += [
                block.module.register_forward_pre_hook(partial(self.begin, block, following)),
                block.module.register_forward_hook(lambda *_, block=block: block.leave(), always_call=True),
            ]
        return self

    def begin(self, block: _Block, following: _Block, *_) -> None:
        if self.ahead not in (None, block):  # it was not its turn: the reference pass leaves the temporal blocks out
            self.ahead.leave()
        block.arrive()
        following.send()
        self.ahead = following

    def __exit__(self, *_) -> None:
        for hook in self.hooks:
            hook.remove()
        self.hooks = []
        for block in self.blocks:
            block.leave()
        self.unet.to("cpu")

    @property
    def on_device(self) -> int:
        """Blocks whose weights are on the device now"""
        return sum(block.copies is not None for block in self.blocks)


class _Block:
    def __init__(self, module: nn.Module, device: torch.device, stream):
        self.module, self.device, self.stream = module, device, stream
        self.weights = list(travelling(module))
        self.home = [x.data.pin_memory() if device.type == "cuda" else x.data for _, x in self.weights]
        self.copies: list[Tensor] | None = None
        self.sent = None
        for (_, x), home in zip(self.weights, self.home):
            x.data = home

    def send(self) -> None:
        """Start copying the weights to the device, unless they are on their way."""
        if self.copies is not None:
            return
        if self.stream is None:
            self.copies = [x.to(self.device, copy=True) for x in self.home]
            return
        with torch.cuda.stream(self.stream):
            self.copies = [x.to(self.device, non_blocking=True) for x in self.home]
            self.sent = self.stream.record_event()

    def arrive(self) -> None:
        """Have the weights in place for what is queued from now on."""
        self.send()
        if self.stream is not None:
            now = torch.cuda.current_stream(self.device)
            now.wait_event(self.sent)
            for copy in self.copies:
                copy.record_stream(now)  # their memory is reused only when the block has been computed
        for (_, x), copy in zip(self.weights, self.copies):
            x.data = copy

    def leave(self) -> None:
        for (_, x), home in zip(self.weights, self.home):
            x.data = home
        self.copies = None


def is_offloaded(unet: nn.Module) -> bool:
    """Whether weights come to the device only for their turn: sent by a BlockOffload, or fetched by whoever lent the
    layers"""
    device = unet.conv_in.weight.device
    return any(
        block._forward_pre_hooks or any(x.device != device for x in block.parameters()) for block in unet.blocks()
    )


def travelling(module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers of a block that come and go with it"""
    for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
        if not any(part in name for part in RESIDENT):
            yield name, tensor
