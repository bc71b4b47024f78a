"""Keys and values that attention computes once, and the condition that a denoising step runs under.

Once a clip: identity, reference. Once a chunk: context, speech, camera. A step computes only what depends on the noise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from .attention_kernels import KeyValue, can_attend_apart, per_frame


class FoldedTokens(NamedTuple):
    """Keys and values of a few tokens with the query and output projections folded in (see `attention.fold_tokens`).

    keys, values: [B * T, K, C]. sizes: how many of the K, heads times tokens, belong to each source, whose softmaxes
    are apart. lambdas: the weights of audio and camera that the values hold already.
    """

    keys: Tensor
    values: Tensor
    sizes: list[int]
    lambdas: tuple[float, float]


@dataclass
class BlockCache:
    """What one transformer block attends to besides its own frame. `None` switches a source off.

    identity: keys and values [B, heads, L, d], the same for every frame.
    audio, camera: [B * T, heads, L, d], tokens of each frame's own.
    bank: [B, heads, R * h * w, d], the reference and context frames.
    splits_bank: attend to frame and bank apart, then merge the two (`attend_apart`), instead of concatenating keys.
    folded: identity, audio and camera as one, made while sampling on a CPU.
    """

    identity: KeyValue | None = None
    audio: KeyValue | None = None
    camera: KeyValue | None = None
    bank: KeyValue | None = None
    splits_bank: bool = False
    folded: FoldedTokens | None = field(default=None, repr=False)
    _buffer: KeyValue | None = field(default=None, repr=False)

    def with_bank(self, key: Tensor, value: Tensor) -> KeyValue:
        """Return a step's keys and values [B * T, heads, h * w, d] followed by the bank's, for every frame.

        While sampling on a CPU the bank is copied once into a buffer, and each step writes its own in front of it.
        """
        assert self.bank is not None
        frames = len(key) // len(self.bank[0])
        if key.device.type != "cpu" or torch.is_grad_enabled():
            (keys, values) = (per_frame(shared, frames) for shared in self.bank)
            return torch.cat([key, keys], dim=2), torch.cat([value, values], dim=2)
        length = key.shape[2]
        if self._buffer is None:
            keys, values = (leave_room(per_frame(shared, frames), length) for shared in self.bank)
            self._buffer = keys, values
        for buffer, own in zip(self._buffer, (key, value)):
            buffer[:, :, :length] = own
        return self._buffer

    def sources(self) -> tuple[KeyValue | None, ...]:
        """Return identity, audio, camera and bank."""
        return self.identity, self.audio, self.camera, self.bank

    def clear(self) -> None:
        """Drop what was derived from the sources, whose numbers have changed in place."""
        self._buffer = self.folded = None


def leave_room(shared: Tensor, length: int) -> Tensor:
    """Return [N, heads, L, d] as [N, heads, length + L, d], the first `length` places uninitialised."""
    batch, heads, behind, size = shared.shape
    buffer = shared.new_empty(batch, heads, length + behind, size)
    buffer[:, :, length:] = shared
    return buffer


@dataclass
class ConditionCache:
    """The condition of a network call: one `BlockCache` a transformer block, in the order the UNet runs them.

    lambda_audio, lambda_camera: weights of the two streams, 0..1.
    extensions: what each of the model's extensions prepared for the chunk, by name (`models/extensions`).
    """

    blocks: list[BlockCache] = field(default_factory=list)
    lambda_audio: float = 1.0
    lambda_camera: float = 1.0
    extensions: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)

    @property
    def lambdas(self) -> tuple[float, float]:
        return self.lambda_audio, self.lambda_camera

    def tensors(self) -> list[Tensor]:
        """Return everything cached, in a fixed order."""
        cached = [source for block in self.blocks for source in block.sources() if source is not None]
        return [x for group in [*cached, *self.extensions.values()] for x in group]

    def kind(self) -> tuple:
        """Return what decides how a network runs under this condition, besides the tensors' shapes."""
        sources = tuple(
            (*(source is not None for source in block.sources()), block.splits_bank) for block in self.blocks
        )
        return sources, tuple(self.extensions), self.lambdas

    def map(self, change: Callable[[Tensor], Tensor]) -> ConditionCache:
        """Return the same condition made of changed tensors."""

        def changed(pair: KeyValue | None) -> KeyValue | None:
            return None if pair is None else (change(pair[0]), change(pair[1]))

        blocks = [BlockCache(*map(changed, block.sources()), splits_bank=block.splits_bank) for block in self.blocks]
        extensions = {name: tuple(change(x) for x in prepared) for name, prepared in self.extensions.items()}
        return ConditionCache(blocks, *self.lambdas, extensions)

    def copy_(self, other: ConditionCache) -> None:
        """Take over another condition's numbers; both must be of one kind and shape."""
        for mine, its in zip(self.tensors(), other.tensors()):
            mine.copy_(its)
        for block in self.blocks:
            block.clear()


def cache_condition(
    identity: list[KeyValue],
    audio: list[KeyValue] | None = None,
    camera: list[KeyValue] | None = None,
    banks: tuple[list[KeyValue], ...] = (),
    lambda_audio: float = 1.0,
    lambda_camera: float = 1.0,
    extensions: dict[str, tuple[Tensor, ...]] | None = None,
) -> ConditionCache:
    """Lay the cached streams out block by block. `banks` (reference, context, ...) are joined along their tokens."""

    def bank(index: int) -> KeyValue | None:
        parts = [bank[index] for bank in banks]
        if len(parts) < 2:
            return parts[0] if parts else None
        return torch.cat([k for k, _ in parts], dim=2), torch.cat([v for _, v in parts], dim=2)

    def splits(key: Tensor) -> bool:
        return not torch.is_grad_enabled() and can_attend_apart(key.device.type, key.dtype, key.shape[-1])

    blocks = [
        BlockCache(
            identity=identity[index],
            audio=audio[index] if audio else None,
            camera=camera[index] if camera else None,
            bank=bank(index),
            splits_bank=bool(banks) and splits(banks[0][index][0]),
        )
        for index in range(len(identity))
    ]
    return ConditionCache(blocks, lambda_audio, lambda_camera, extensions or {})
