"""One training loop for everything: a budget, a warm-up and a cosine, moving averages, resuming, a log, many processes.

A task gives a loss for draw number n; everything random in it is to be drawn from a generator seeded with n, so that a
resumed run sees the data an uninterrupted one would have seen. A step is made of `parts` draws, which the processes of
a team share out among them and otherwise take one after the other, adding up gradients: how many processes there are
changes how long a step takes, not what it is.
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
from .team import Team


@dataclass(frozen=True)
class LoopSettings:
    """minutes: time on the clock for this task, all resumed runs together; with `steps` above 0, that many steps
    instead. learning_rate: the peak, reached after `warmup` steps, falling to a twentieth along a cosine of the budget.
    ema: decay of the moving average that is kept. parts: draws a step, 0 = one a process. show_minutes: between two
    calls of `show`. loss_scaling: as float16 needs it. betas: AdamW's. companion_rate: how much faster companions learn."""

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
    parts: int = 0
    loss_scaling: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    companion_rate: float = 1.0


FIRST_ROWS = (1, 2, 5, 10)  # steps
RECENT, SETTLED = 0.95, 20  # decay of the loss's moving average; steps until it means something
SUSPICIOUS, DIVERGED = 3.0, 10.0  # times the least that the moving average has been


class Trend:
    """Where the loss is heading: its moving average, beside the first and the least there was of it."""

    def __init__(self, recent: float = 0.0, first: float = math.inf, least: float = math.inf, steps: int = 0):
        self.recent, self.first, self.least, self.steps = recent, first, least, steps

    def add(self, loss: float) -> None:
        self.recent = RECENT * self.recent + (1 - RECENT) * loss if self.steps else loss
        self.steps += 1
        if self.steps == SETTLED:
            self.first = self.recent
        if self.steps >= SETTLED:
            self.least = min(self.least, self.recent)

    def has_grown(self, times: float) -> bool:
        """Above the least so many times, and above where it began: near nothing, losses may well jump."""
        return self.recent > self.first and self.recent > times * self.least


class DivergedError(StarcasterError):
    """The loss is no longer a number, or ten times what it has been."""


def train(
    module: nn.Module,
    loss_of_draw: Callable[[int], tuple[Tensor, dict[str, float]]],
    settings: LoopSettings,
    folder: Path,
    name: str,
    parameters: list[nn.Parameter] | None = None,
    before_step: Callable[[float], None] | None = None,
    show: Callable[[int], None] | None = None,
    companions: Sequence[nn.Parameter] = (),
) -> nn.Module:
    """Trains `parameters` (default: all that require gradients) of `module` in place; leaves the averaged weights in it.
    companions: what else learns from the same loss, such as an adversary.

    loss_of_draw(n) -> (scalar loss, numbers to log). before_step(share of the budget that is spent, 0..1). show(step):
    called every `show_minutes` and at the end, in the main process, with the averaged weights in place.
    State goes to `folder/name.state.pt` (written, then renamed), the log to `folder/name.csv` and its curves to
    `folder/name.png`; called again, it goes on from there. Raises DivergedError, the last state kept; InputError where
    the processes cannot share out a step's parts evenly.
    """
    run = Run(parameters or [p for p in module.parameters() if p.requires_grad], settings, folder, name, companions)
    saved = shown = time.monotonic()
    while (done := run.progress()) < 1:
        if before_step:
            before_step(done)
        run.take_step(loss_of_draw, done)
        if time.monotonic() - saved > settings.save_minutes * 60 and not run.trend.has_grown(SUSPICIOUS):
            run.save()  # a good state is not to be replaced by one on its way astray
            saved = time.monotonic()
        if show and time.monotonic() - shown > settings.show_minutes * 60:
            run.show(show)
            shown = time.monotonic()
    run.save()
    run.team.wait()
    run.put_average_in_place()
    if show and run.team.is_main:
        show(run.step)
    return module


class Run:
    """A training under way: the state that a file keeps, and what a step does to it."""

    def __init__(
        self,
        parameters: list[nn.Parameter],
        settings: LoopSettings,
        folder: Path,
        name: str,
        companions: Sequence[nn.Parameter] = (),
    ):
        self.team, self.settings, self.name = Team(), settings, name
        self.parameters = parameters = [*parameters, *companions]
        self.parts = settings.parts or self.team.size
        if self.parts % self.team.size:
            raise InputError(
                "parts that all processes get as many of", f"{self.parts} for {self.team.size}", "Change --parts."
            )
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / f"{name}.state.pt"
        others = len(parameters) - len(companions)
        groups = [{"params": parameters[:others], "pace": 1.0}]
        if companions:
            groups.append({"params": parameters[others:], "pace": settings.companion_rate})
        self.optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay, betas=settings.betas
        )
        self.scaler = torch.amp.GradScaler(parameters[0].device.type, enabled=settings.loss_scaling)
        self.average = [p.detach().clone() for p in parameters]
        self.step, self.seconds, self.sums, self.trend = 0, 0.0, {}, Trend()
        if self.file.exists():
            self.resume()
        self.started = time.monotonic()
        self.log = Log(folder, name, self.step) if self.team.is_main else None

    def elapsed(self) -> float:
        return self.seconds + time.monotonic() - self.started

    def progress(self) -> float:
        """0 at the beginning .. 1 when the budget is spent; the same in all processes."""
        if self.settings.steps:
            return self.step / self.settings.steps
        minutes = self.settings.minutes
        return self.team.agreed(self.elapsed()) / (minutes * 60) if minutes else 1.0

    def take_step(self, loss_of_draw, done: float) -> None:
        settings = self.settings
        rate = learning_rate(settings, self.step, done)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get("pace", 1.0)
        self.optimizer.zero_grad(set_to_none=True)
        numbers: dict[str, float] = {}
        for part in range(self.team.number, self.parts, self.team.size):
            loss, extra = loss_of_draw(self.step * self.parts + part)
            self.scaler.scale(loss / self.parts).backward()
            for key, value in {"loss": loss.item(), **extra}.items():
                numbers[key] = numbers.get(key, 0.0) + value / self.parts
        numbers = self.team.add_up(self.parameters, numbers)
        self.trend.add(numbers["loss"])
        if not math.isfinite(numbers["loss"]) or self.trend.has_grown(DIVERGED):
            got = f"{numbers['loss']:g} at step {self.step} of {self.name}, {self.trend.least:g} on average before"
            advice = f"The last good state is in {self.file}. Lower the learning rate."
            raise DivergedError("a loss that does not grow without bounds", got, advice)
        self.scaler.unscale_(self.optimizer)
        nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.step += 1
        decay = min(settings.ema, self.step / (self.step + 10))
        torch._foreach_lerp_(self.average, [p.detach() for p in self.parameters], 1 - decay)
        self.note(numbers, rate, done)

    def note(self, numbers: dict[str, float], rate: float, done: float) -> None:
        """Into the log, the mean of the steps since its last row."""
        for key, value in numbers.items():
            self.sums[key] = self.sums.get(key, 0.0) + value
        if self.log:
            self.log.tell(self.step, numbers["loss"], done, self.elapsed())
        if is_logged(self.step, self.settings.log_every):
            count = steps_of_row(self.step, self.settings.log_every)
            if self.log:
                means = {key: value / count for key, value in self.sums.items()}
                row = {"step": self.step, "minutes": self.elapsed() / 60, "rate": rate, **means}
                self.log.write(row, done)
            self.sums = {}

    def put_average_in_place(self) -> None:
        with torch.no_grad():
            torch._foreach_copy_(self.parameters, self.average)

    def show(self, show: Callable[[int], None]) -> None:
        """`show` with the averaged weights, then on with the others."""
        if self.team.is_main:
            trained = [p.detach().clone() for p in self.parameters]
            self.put_average_in_place()
            show(self.step)
            with torch.no_grad():
                torch._foreach_copy_(self.parameters, trained)
        self.team.wait()

    def save(self) -> None:
        if not self.team.is_main:
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
        state = torch.load(self.file, weights_only=True, map_location=self.parameters[0].device)
        with torch.no_grad():
            for targets, values in ((self.parameters, state["parameters"]), (self.average, state["average"])):
                for target, value in zip(targets, values, strict=True):
                    target.copy_(value)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scaler.load_state_dict(state.get("scaler", {}))
        self.step, self.seconds, self.sums = state["step"], state["seconds"], state.get("sums", {})
        self.trend = Trend(**state.get("trend", {}))


def is_logged(step: int, every: int) -> bool:
    """Every `every` steps; and some of the very first, so that a rehearsal leaves a curve too."""
    return step % every == 0 or (step in FIRST_ROWS and step < every)


def steps_of_row(step: int, every: int) -> int:
    """How many steps the row of `step` is the mean of."""
    return next(count for count in range(1, step + 1) if count == step or is_logged(step - count, every))


def learning_rate(settings: LoopSettings, step: int, done: float) -> float:
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * min(1.0, (step + 1) / settings.warmup) * cosine


def step_generator(seed: int, name: str, step: int) -> torch.Generator:
    """Randomness of one training step, the same whether or not the run was interrupted before it."""
    from ..sampling.schedules import seeded_generator

    return seeded_generator(seed, step, name)


def training_device() -> torch.device:
    """This process's GPU, if there is one"""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def autocast(precision: str = "auto"):
    """A context that computes in one of PRECISIONS; auto: bfloat16 on GPUs and on CPUs with matrix hardware for it,
    float32 elsewhere."""
    from ..models.checkpoint import cpu_precision

    device = training_device().type
    chosen = torch.bfloat16 if device == "cuda" else cpu_precision()
    dtype = PRECISIONS.get(precision, chosen)
    # With no lower precision to go to, autocast wants one named all the same.
    enabled = dtype != torch.float32
    return torch.autocast(device, dtype if enabled else torch.bfloat16, enabled=enabled)
