"""Several memory-mapped tensors, indexed as one."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor


class LazyConcat:
    """Tensors [N_i, T, ...], indexed like their concatenation [N, T, ...] without making it.

    The first index is an integer or a tensor of integers; the others index a row. Memory-mapped tensors, as safetensors
    loads them, are read from the disk only where they are indexed.
    """

    def __init__(self, tensors: list[Tensor]):
        self.tensors = tensors
        self.ends = list(accumulate(len(tensor) for tensor in tensors))

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.ends[-1], *self.tensors[0].shape[1:]])

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int | Tensor | tuple) -> Tensor:
        first, *rest = index if isinstance(index, tuple) else (index,)
        if not isinstance(first, Tensor):
            return self.row(first)[tuple(rest)]
        # [B, 1] and [B, L], or [B] and [B]: one row of the result for each element of `first`.
        others = [torch.broadcast_to(other, torch.broadcast_shapes(other.shape, first.shape)) for other in rest]
        picked = [self.row(n)[tuple(other[i] for other in others)] for i, n in enumerate(first.flatten().tolist())]
        return torch.stack(picked)

    def row(self, index: int) -> Tensor:
        """Return row `index`, [T, ...]; negative ones count from the end. Raises IndexError beyond the ends."""
        index = range(len(self))[index]
        tensor = bisect_right(self.ends, index)
        return self.tensors[tensor][index - (self.ends[tensor - 1] if tensor else 0)]
