"""Data-parallel training over several processes: one alone, or those that a launcher started.

    accelerate launch --num_processes 4 -m starcaster_core train ...               # GPUs
    python -m torch.distributed.run --nproc_per_node 2 -m starcaster_core train ...  # CPUs

Gradients are reduced here and not by `DistributedDataParallel`, because a loss calls several submodules of a model,
some of them more than once.
"""

from __future__ import annotations

import atexit

import torch
from torch import nn

from ..errors import MissingDependencyError


class Distributed:
    """The process group. world_size: number of processes; rank: this one's; is_main: rank 0, which writes the files.

    Raises MissingDependencyError without accelerate.
    """

    def __init__(self):
        try:
            from accelerate import PartialState
        except ImportError as error:
            raise MissingDependencyError("accelerate", str(error), "pip install accelerate") from error
        self.state = PartialState(cpu=not torch.cuda.is_available())
        atexit.unregister(destroy_process_group)
        atexit.register(destroy_process_group)
        self.world_size = self.state.num_processes
        self.rank = self.state.process_index
        self.is_main = self.state.is_main_process

    def broadcast(self, value: float) -> float:
        """Return the main process's `value` in all processes."""
        if self.world_size == 1:
            return value
        from accelerate.utils import broadcast

        return broadcast(torch.tensor([value], dtype=torch.float64, device=self.state.device)).item()

    def all_reduce(self, parameters: list[nn.Parameter], metrics: dict[str, float]) -> dict[str, float]:
        """Sum the gradients of `parameters` over the processes, in place, and return the sums of `metrics`.

        The metrics have the same names in all processes. A missing gradient counts as zeros.
        """
        if self.world_size == 1:
            return metrics
        from accelerate.utils import reduce

        names = sorted(metrics)
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        values = torch.tensor([metrics[name] for name in names], device=grads[0].device)
        # One vector, so that a step communicates once.
        total = reduce(torch.cat([*(grad.flatten().float() for grad in grads), values]), "sum")
        *sums, values = total.split([*(grad.numel() for grad in grads), len(names)])
        for parameter, grad, summed in zip(parameters, grads, sums):
            parameter.grad = summed.view_as(grad).to(grad.dtype)
        return dict(zip(names, values.tolist()))

    def barrier(self) -> None:
        """Wait until all processes are here."""
        self.state.wait_for_everyone()


def destroy_process_group() -> None:
    """End the communication threads, which may abort an interpreter that exits while they run."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
