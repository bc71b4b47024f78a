"""The processes that train one model together: one alone, or those that a launcher started.

    accelerate launch --num_processes 4 -m starcaster_core train ...               # GPUs
    python -m torch.distributed.run --nproc_per_node 2 -m starcaster_core train ...  # CPUs

The gradients are added up here rather than by a wrapper round the module, because a loss calls several of its parts.
"""

from __future__ import annotations

import atexit

import torch
from torch import Tensor, nn

from ..errors import MissingDependencyError


class Team:
    """size processes, this one's number in it, and what they do together. is_main: the one that writes files."""

    def __init__(self):
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise MissingDependencyError("accelerate", str(error), "pip install accelerate") from error
        self.state = PartialState(cpu=not torch.cuda.is_available())
        atexit.unregister(leave)
        atexit.register(leave)
        self.size, self.number, self.is_main = (
            self.state.num_processes,
            self.state.process_index,
            self.state.is_main_process,
        )

    def agreed(self, seconds: float) -> float:
        """The main process's clock: all must stop at the same step."""
        if self.size == 1:
            return seconds
        from accelerate.utils import broadcast

        return broadcast(torch.tensor([seconds], dtype=torch.float64, device=self.state.device)).item()

    def add_up(self, parameters: list[nn.Parameter], numbers: dict[str, float]) -> dict[str, float]:
        """Sums the gradients of `parameters` in place, and `numbers` (the same names everywhere), over the processes."""
        if self.size == 1:
            return numbers
        from accelerate.utils import reduce

        names = sorted(numbers)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        extra = torch.tensor([numbers[name] for name in names], device=grads[0].device)
        total = reduce(torch.cat([*(grad.flatten().float() for grad in grads), extra]), "sum")
        for parameter, piece in zip(parameters, self._pieces(total, grads)):
            parameter.grad = piece
        return dict(zip(names, total[len(total) - len(names) :].tolist()))

    @staticmethod
    def _pieces(total: Tensor, like: list[Tensor]) -> list[Tensor]:
        pieces = total[: sum(grad.numel() for grad in like)].split([grad.numel() for grad in like])
        return [piece.view_as(grad).to(grad.dtype) for piece, grad in zip(pieces, like)]

    def wait(self) -> None:
        self.state.wait_for_everyone()


def leave() -> None:
    """Ends the threads that talk to the other processes: alive when the interpreter goes, they may abort it."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
