"""The training loop of every network: time or step budget, learning-rate schedule, weight average, resuming, logging.

A task computes the loss of micro-batch n. Everything random in it comes from a generator seeded with n, so that a
resumed run sees the data that an uninterrupted one would have seen. The gradients of `micro_batches` of them are
accumulated into one step. Several processes divide a step's micro-batches among themselves: their number changes how
long a step takes, not its result.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, StarcasterError
from ..files import atomic_write
from .curves import Log
from .distributed import Distributed


@dataclass(frozen=True)
class LoopSettings:
    """Settings of `train`.

    minutes: wall-clock budget, all resumed runs together. steps: above 0, the budget in steps instead of minutes.
    learning_rate: the peak; linear warm-up over `warmup` steps, then a cosine over the budget down to a twentieth.
    ema: decay of the exponential moving average of the weights, which is the result; 0 keeps the weights themselves.
    save_minutes, show_minutes: time between two saved states, and between two calls of `show`.
    log_every: steps of a row in the log. micro_batches: accumulated into a step; 0 = one for each process.
    loss_scaling: scale the loss, as float16 needs. betas: AdamW's.
    discriminator_lr_factor: learning rate of the discriminator's parameters in units of `learning_rate`.
    """

    minutes: float
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup: int = 50
    ema: float = 0.998
    clip_norm: float = 1.0
    save_minutes: float = 4.0
    show_minutes: float = 10.0
    log_every: int = 20
    steps: int = 0
    micro_batches: int = 0
    loss_scaling: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    discriminator_lr_factor: float = 1.0


FIRST_ROWS = (1, 2, 5, 10)  # steps that are logged even if `log_every` is larger
TREND_DECAY, TREND_WARMUP = 0.95, 20  # of the loss's moving average; steps until it is meaningful
SUSPICIOUS, DIVERGED = 3.0, 10.0  # in units of the moving average's minimum
FINAL_LR = 0.05  # at the end of the cosine, in units of the peak


class Trend:
    """Moving average of the loss (`recent`), with its first meaningful value and its minimum (`least`)."""

    def __init__(self, recent: float = 0.0, first: float = math.inf, least: float = math.inf, steps: int = 0):
        self.recent, self.first, self.least, self.steps = recent, first, least, steps

    def add(self, loss: float) -> None:
        self.recent = TREND_DECAY * self.recent + (1 - TREND_DECAY) * loss if self.steps else loss
        self.steps += 1
        if self.steps == TREND_WARMUP:
            self.first = self.recent
        if self.steps >= TREND_WARMUP:
            self.least = min(self.least, self.recent)

    def has_grown(self, factor: float) -> bool:
        """Return whether the average exceeds `factor` times its minimum, and its first value.

        The second condition lets a loss near zero fluctuate.
        """
        return self.recent > self.first and self.recent > factor * self.least


class DivergedError(StarcasterError):
    """The loss is not finite, or its moving average is ten times its minimum."""


def train(
    module: nn.Module,
    compute_loss: Callable[[int], tuple[Tensor, dict[str, float]]],
    settings: LoopSettings,
    folder: Path,
    name: str,
    parameters: list[nn.Parameter] | None = None,
    before_step: Callable[[float], None] | None = None,
    show: Callable[[int], None] | None = None,
    discriminator_parameters: Sequence[nn.Parameter] = (),
) -> nn.Module:
    """Train `parameters` of `module` in place with AdamW, leave their moving average in it, and return it.

    parameters: default, all that require gradients. discriminator_parameters: trained by the same loss, in a parameter
    group of their own.
    compute_loss(n) -> scalar loss of micro-batch n, and metrics to log. before_step(fraction of the budget spent,
    0..1). show(step): called every `show_minutes` and at the end, in the main process, with the averaged weights in
    place. Writes `folder/name.state.pt`, from which a later call goes on, the log `folder/name.csv` and its curves
    `folder/name.png`.
    Raises DivergedError, the last good state kept; InputError where the processes cannot divide the micro-batches
    evenly.
    """
    trained = parameters or [p for p in module.parameters() if p.requires_grad]
    run = Run(trained, settings, folder, name, discriminator_parameters)
    saved = shown = time.monotonic()
    while (done := run.progress()) < 1:
        if before_step:
            before_step(done)
        run.take_step(compute_loss, done)
        if time.monotonic() - saved > settings.save_minutes * 60 and not run.trend.has_grown(SUSPICIOUS):
            run.save()  # a state that is about to diverge must not replace a good one
            saved = time.monotonic()
        if show and time.monotonic() - shown > settings.show_minutes * 60:
            run.show_average(show)
            shown = time.monotonic()
    run.save()
    run.processes.barrier()
    run.copy_average_to_parameters()
    if show and run.processes.is_main:
        show(run.step)
    return module


class Run:
    """The state of a training run, and one step of it."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        settings: LoopSettings,
        folder: Path,
        name: str,
        discriminator_parameters: Sequence[nn.Parameter] = (),
    ):
        self.processes, self.settings, self.name = Distributed(), settings, name
        world_size = self.processes.world_size
        self.micro_batches = settings.micro_batches or world_size
        if self.micro_batches % world_size:
            got = f"{self.micro_batches} for {world_size}"
            raise InputError("micro-batches that the processes divide evenly", got, "Change --micro-batches.")
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{name}.state.pt"
        groups = [{"params": list(parameters)}]
        self.lr_factors = [1.0]
        if discriminator_parameters:
            groups.append({"params": list(discriminator_parameters)})
            self.lr_factors.append(settings.discriminator_lr_factor)
        self.parameters = parameters = [*parameters, *discriminator_parameters]
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=settings.betas
        )
        self.scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=settings.loss_scaling)
        self.average = [p.detach().clone() for p in parameters]
        self.step, self.seconds, self.sums, self.trend = 0, 0.0, {}, Trend()
        if self.file.exists():
            self.resume()
        self.started = time.monotonic()
        self.log = Log(folder, name, self.step) if self.processes.is_main else None

    def elapsed(self) -> float:
        """Return seconds of training, those of earlier runs included."""
        return self.seconds + time.monotonic() - self.started

    def progress(self) -> float:
        """Return the fraction of the budget that is spent, 0..1, the same in all processes."""
        if self.settings.steps:
            return self.step / self.settings.steps
        minutes = self.settings.minutes
        return self.processes.broadcast(self.elapsed()) / (minutes * 60) if minutes else 1.0

    def take_step(self, compute_loss: Callable[[int], tuple[Tensor, dict[str, float]]], done: float) -> None:
        """Accumulate the gradients of this process's micro-batches, reduce, update weights and average.

        Raises DivergedError before the update.
        """
        settings, processes = self.settings, self.processes
        rate = learning_rate(settings, self.step, done)
        for group, factor in zip(self.optimizer.param_groups, self.lr_factors):
            group["lr"] = rate * factor
        self.optimizer.zero_grad(set_to_none=True)
        metrics: dict[str, float] = {}
        for index in range(processes.rank, self.micro_batches, processes.world_size):
            loss, extra = compute_loss(self.step * self.micro_batches + index)
            self.scaler.scale(loss / self.micro_batches).backward()
            for key, value in {"loss": loss.item(), **extra}.items():
                metrics[key] = metrics.get(key, 0.0) + value / self.micro_batches
        metrics = processes.all_reduce(self.parameters, metrics)
        self.trend.add(metrics["loss"])
        if not math.isfinite(metrics["loss"]) or self.trend.has_grown(DIVERGED):
            got = f"{metrics['loss']:g} at step {self.step} of {self.name}, {self.trend.least:g} on average before"
            advice = f"The last good state is in {self.file}. Lower the learning rate."
            raise DivergedError("a loss that does not grow without bounds", got, advice)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        decay = min(settings.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.log_step(metrics, rate, done)

    def log_step(self, metrics: dict[str, float], rate: float, done: float) -> None:
        """Add the metrics of a step to the log, whose rows are means of the steps since the row before."""
        for key, value in metrics.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        if self.log:
            self.log.show_progress(self.step, metrics["loss"], done, self.elapsed())
        if is_logged(self.step, self.settings.log_every):
            count = steps_of_row(self.step, self.settings.log_every)
            if self.log:
                means = {key: value / count for key, value in self.sums.items()}
                row = {"step": self.step, "minutes": self.elapsed() / 60, "rate": rate, **means}
                self.log.write(row, done)
            self.sums = {}

    def copy_average_to_parameters(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)

    def show_average(self, show: Callable[[int], None]) -> None:
        """Call `show` with the averaged weights in place, then restore the trained ones."""
        if self.processes.is_main:
            trained = [p.detach().clone() for p in self.parameters]
            self.copy_average_to_parameters()
            show(self.step)
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, trained)
        self.processes.barrier()

    def save(self) -> None:
        """Write the state file and draw the curves, in the main process."""
        if not self.processes.is_main:
            return
        state = {
            "parameters": [p.detach() for p in self.parameters],
            "average": self.average,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "step": self.step,
            "seconds": self.elapsed(),
            "sums": self.sums,
            "trend": vars(self.trend),
            "settings": asdict(self.settings),
        }
        with atomic_write(self.file) as part:
            torch.save(state, part)
        self.log.draw()

    def resume(self) -> None:
        """Load the state file. Raises ValueError where it has another number of parameters."""
        state = torch.load(self.file, weights_only=True, map_location=self.parameters[0].device)
        with torch.no_grad():
            for targets, values in ((self.parameters, state["parameters"]), (self.average, state["average"])):
                for target, value in zip(targets, values, strict=True):
                    target.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.step, self.seconds, self.sums = state["step"], state["seconds"], state.get("sums", {})
        self.trend = Trend(**state.get("trend", {}))


def read_progress(folder: Path, name: str) -> tuple[int, float]:
    """Return the steps and the minutes of a run, from its state file."""
    state = torch.load(folder / f"{name}.state.pt", weights_only=True, map_location="cpu", mmap=True)
    return state["step"], state["seconds"] / 60


def is_logged(step: int, every: int) -> bool:
    """Return whether the log has a row of this step: every `every` steps, and some of the very first."""
    return step % every == 0 or (step in FIRST_ROWS and step < every)


def steps_of_row(step: int, every: int) -> int:
    """Return how many steps the row of `step` is the mean of."""
    return next(count for count in range(1, step + 1) if count == step or is_logged(step - count, every))


def learning_rate(settings: LoopSettings, step: int, done: float) -> float:
    """Return the learning rate of a step; done: fraction of the budget that is spent."""
    cosine = FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * min(1.0, (step + 1) / settings.warmup) * cosine


def step_generator(seed: int, name: str, step: int) -> torch.Generator:
    """Return the generator of one micro-batch, the same whether or not the run was interrupted before it."""
    from ..sampling.schedules import seeded_generator

    return seeded_generator(seed, step, name)


def training_device() -> torch.device:
    """Return this process's GPU, or the CPU where there is none."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str = "auto"):
    """Return an autocast context for one of PRECISIONS.

    auto: bfloat16 on GPUs and on CPUs with matrix hardware for it, float32 elsewhere.
    """
    from ..models.checkpoint import cpu_precision

    device = training_device().type
    chosen = torch.bfloat16 if device == "cuda" else cpu_precision()
    dtype = PRECISIONS.get(precision, chosen)
    # autocast warns about a dtype of float32 even when it is disabled.
    enabled = dtype != torch.float32
    return torch.autocast(device, dtype if enabled else torch.bfloat16, enabled=enabled)
