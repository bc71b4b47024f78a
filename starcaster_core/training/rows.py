"""One tensor in several files: what is too large for memory stays on disk until it is asked for."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate

import torch
from torch import Tensor


class Rows:
    """Tensors [N_i, T, ...] one after the other, indexed like the one [N, T, ...] that `torch.cat` would make of them, by a
    number or a tensor of numbers, then by what indexes a row. Memory-mapped parts, as safetensors loads them, are
    read only where they are indexed."""

    def __init__(self, parts: list[Tensor]):
        self.parts = parts
        self.ends = list(accumulate(len(part) for part in parts))

    @property
    def shape(self) -> torch.Size:
        return torch.Size([self.ends[-1], *self.parts[0].shape[1:]])

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int | Tensor | tuple) -> Tensor:
        number, *rest = index if isinstance(index, tuple) else (index,)
        if not isinstance(number, Tensor):
            return self.row(number)[tuple(rest)]
        # [B, 1] and [B, L], or [B] and [B]: a row each
        others = [torch.broadcast_to(other, torch.broadcast_shapes(other.shape, number.shape)) for other in rest]
        numbers = number.flatten().tolist()
        picked = [self.row(n)[tuple(other[i] for other in others)] for i, n in enumerate(numbers)]
        return torch.stack(picked)

    def row(self, number: int) -> Tensor:
        number = range(len(self))[number]  # negative ones count from the end, IndexError beyond
        part = bisect_right(self.ends, number)
        return self.parts[part][number - (self.ends[part - 1] if part else 0)]
