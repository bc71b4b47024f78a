"""How the network is called, as opposed to what it is asked: guidance in one batch, compiled, replayed as a CUDA graph.

Every way gives the same numbers but for rounding. What a machine cannot do is said once, in a warning, and left out.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..models.offload import is_offloaded
from .guidance import Branch

if TYPE_CHECKING:  # the nodes read this file's settings while ComfyUI starts
    from ..models.attention_cache import ConditionCache

COMPILER = "inductor"  # the backend of torch.compile
WARM_UP = 3  # calls before a CUDA graph is captured: libraries choose their kernels and workspaces then


@dataclass(frozen=True)
class Execution:
    """batch_guidance: ask for all branches of the guidance in one call, which fills a GPU better; None = on GPUs alone.

    compile: let torch.compile fuse the blocks (minutes once, then faster steps). cuda_graphs: record the network once
    for each kind of condition and replay it, which spares the CPU's part of the work.
    """

    batch_guidance: bool | None = None
    compile: bool = False
    cuda_graphs: bool = False


class Network:
    """Asks a model's UNet under the branches of a guidance, the way an `Execution` says. One for a rollout."""

    def __init__(self, model, execution: Execution = Execution()):
        self.model = model
        batched = execution.batch_guidance
        self.batched = model.device.type == "cuda" if batched is None else batched
        (compile_blocks if execution.compile else release_blocks)(model.unet)
        self.run = model.unet
        if execution.cuda_graphs:
            if model.device.type != "cuda":
                warnings.warn(f"CUDA graphs need a CUDA device; running without on {model.device}.", stacklevel=3)
            elif is_offloaded(model.unet):
                warnings.warn("CUDA graphs need all weights on the device; running without.", stacklevel=3)
            else:
                self.run = Replayed(model.unet)

    def rounds(self, branches: list[Branch]) -> list[list[Branch]]:
        """The branches that go into one network call each"""
        return [branches] if self.batched else [[branch] for branch in branches]

    def predict(self, latents: Tensor, timestep: Tensor, branches: list[Branch]) -> Tensor:
        """The weighted sum of the network's answers, float32. latents [1, C, T, h, w]; timestep [1], on the device."""
        latents = self.model.like_weights(latents)
        if len(branches) == 1:
            return self.run(latents, timestep, branches[0].condition).float() * branches[0].weight
        repeated = latents.expand(len(branches), *latents.shape[1:])
        answers = self.run(repeated, timestep, [branch.condition for branch in branches]).float()
        return sum(answer * branch.weight for answer, branch in zip(answers.split(1), branches))


def compile_blocks(unet: torch.nn.Module) -> None:
    """Compile the parts that repeat, one by one: far quicker than the whole, and blocks of one shape share the result.

    A block that the compiler gives up on runs as it is; the reason is said once.
    """
    for block in unet.blocks():
        if not isinstance(block.__dict__.get("forward"), _Compiled):
            block.forward = _Compiled(block)


def release_blocks(unet: torch.nn.Module) -> None:
    """Undo `compile_blocks`."""
    for block in unet.blocks():
        block.__dict__.pop("forward", None)


class _Compiled:
    """A module's forward, compiled, until the compiler fails."""

    def __init__(self, module: torch.nn.Module):
        self.plain = type(module).forward.__get__(module)
        self.compiled: Callable | None = torch.compile(self.plain, backend=COMPILER, dynamic=False)

    def __call__(self, *args, **kwargs):
        # The reference pass fills a list, `record`; it runs once a chunk and stays as it is.
        if self.compiled is None or torch.is_grad_enabled() or any(isinstance(x, list) for x in args):
            return self.plain(*args, **kwargs)
        try:
            # The default of 8 shapes a function is used up by the levels, with and without a bank.
            with torch._dynamo.config.patch(recompile_limit=64):
                return self.compiled(*args, **kwargs)
        except torch._dynamo.exc.TorchDynamoException as error:
            self.compiled = None
            warnings.warn(f"torch.compile failed, so this block runs without: {str(error)[:300]}", stacklevel=2)
            return self.plain(*args, **kwargs)


class Replayed:
    """The UNet as recorded CUDA graphs, one for each shape of its inputs. Inputs are copied where the graph reads them:
    latents and time at every call, a condition when another one comes, which is once a chunk."""

    def __init__(self, unet: torch.nn.Module, capture: Callable | None = None):
        """capture(work) -> (replay, output): records `work()`; by default into a CUDA graph."""
        self.unet, self.capture = unet, capture or CudaCapture()
        self.recordings: dict[tuple, _Recording] = {}

    def __call__(self, latents: Tensor, timestep: Tensor, condition) -> Tensor:
        conditions = list(condition) if isinstance(condition, (list, tuple)) else [condition]
        tensors = [latents, *(x for one in conditions for x in one.tensors())]
        shape = tuple((tuple(x.shape), x.dtype) for x in tensors), tuple(one.kind() for one in conditions)
        if shape not in self.recordings:
            self.recordings[shape] = _Recording(self.unet, latents, timestep, conditions, self.capture)
        return self.recordings[shape].play(latents, timestep, conditions)


class _Recording:
    def __init__(self, unet, latents: Tensor, timestep: Tensor, conditions: list[ConditionCache], capture: Callable):
        self.latents, self.timestep = latents.clone(), timestep.clone()
        self.conditions = [one.map(torch.clone) for one in conditions]
        self.shown = list(conditions)  # kept alive, so that `is` can tell whether another came
        self.replay, self.output = capture(lambda: unet(self.latents, self.timestep, self.conditions))

    def play(self, latents: Tensor, timestep: Tensor, conditions: list[ConditionCache]) -> Tensor:
        self.latents.copy_(latents)
        self.timestep.copy_(timestep)
        if any(new is not old for new, old in zip(conditions, self.shown)):
            for target, source in zip(self.conditions, conditions):
                target.copy_(source)
            self.shown = list(conditions)
        self.replay()
        return self.output


class CudaCapture:
    """Records work into CUDA graphs that share one pool of memory."""

    def __init__(self):
        self.pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable) -> tuple[Callable, Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UP):
                work()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            output = work()
        return graph.replay, output
