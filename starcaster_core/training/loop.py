"""One training loop for everything: a budget, a warm-up and a cosine, moving averages, resuming, a log, many processes.

A task gives a loss for draw number n; everything random in it is to be drawn from a generator seeded with n, so that a
resumed run sees the data an uninterrupted one would have seen. A step is made of `parts` draws, which the processes of
a team share out among them: how many there are changes how long a step takes, not what it is.
"""

from __future__ import annotations

import csv
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, StarcasterError
from .curves import draw_curve
from .team import Team


@dataclass(frozen=True)
class LoopSettings:
    """minutes: time on the clock for this task, all resumed runs together; with `steps` above 0, that many steps
    instead. learning_rate: the peak, reached after `warmup` steps, falling to a twentieth along a cosine of the budget.
    ema: decay of the moving average that is kept. parts: draws a step, 0 = one a process."""

    minutes: float
    learning_rate: float = 3e-4
    weight_decay: float = 0.01
    warmup: int = 50
    ema: float = 0.998
    clip_norm: float = 1.0
    save_minutes: float = 4.0
    log_every: int = 20
    steps: int = 0
    parts: int = 0


class DivergedError(StarcasterError):
    """The loss is no longer a number."""


def train(
    module: nn.Module,
    loss_of_draw: Callable[[int], tuple[Tensor, dict[str, float]]],
    settings: LoopSettings,
    folder: Path,
    name: str,
    parameters: list[nn.Parameter] | None = None,
) -> nn.Module:
    """Trains `parameters` (default: all that require gradients) of `module` in place; leaves the averaged weights in it.

    loss_of_draw(n) -> (scalar loss, numbers to log). State goes to `folder/name.state.pt` (written, then renamed), the
    log to `folder/name.csv` and its curve to `folder/name.png`; called again, it goes on from there. Raises
    DivergedError, the last state kept; InputError where the processes cannot share out a step's parts evenly.
    """
    team = Team()
    parts = settings.parts or team.size
    if parts % team.size:
        raise InputError("parts that all processes get as many of", f"{parts} for {team.size}", "Change --parts.")
    folder.mkdir(parents=True, exist_ok=True)
    parameters = parameters or [p for p in module.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    average = [p.detach().clone() for p in parameters]
    state_file = folder / f"{name}.state.pt"
    step, seconds = resume(state_file, parameters, average, optimizer)
    started = saved = time.monotonic()
    sums: dict[str, float] = {}

    def elapsed() -> float:
        return seconds + time.monotonic() - started

    def keep() -> None:
        if team.is_main:
            save(state_file, parameters, average, optimizer, step, elapsed(), settings)
            draw_curve(folder / f"{name}.csv", folder / f"{name}.png")

    while (done := progress(settings, step, team.agreed(elapsed()))) < 1:
        rate = learning_rate(settings, step, done)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        numbers: dict[str, float] = {}
        for part in range(team.number, parts, team.size):
            loss, extra = loss_of_draw(step * parts + part)
            (loss / parts).backward()
            for key, value in {"loss": loss.item(), **extra}.items():
                numbers[key] = numbers.get(key, 0.0) + value / parts
        numbers = team.add_up(parameters, numbers)
        if not math.isfinite(numbers["loss"]):
            got = f"{numbers['loss']} at step {step} of {name}"
            raise DivergedError("a finite loss", got, f"The last good state is in {state_file}.")
        nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
        optimizer.step()
        step += 1
        decay = min(settings.ema, step / (step + 10))
        torch._foreach_lerp_(average, [p.detach() for p in parameters], 1 - decay)
        for key, value in numbers.items():
            sums[key] = sums.get(key, 0.0) + value / settings.log_every
        if step % settings.log_every == 0:
            if team.is_main:
                minutes = elapsed() / 60
                row = {"step": step, "minutes": minutes, "rate": rate, **sums}
                log(folder / f"{name}.csv", row, minutes_left=minutes * (1 / max(done, 1e-6) - 1))
            sums = {}
        if time.monotonic() - saved > settings.save_minutes * 60:
            keep()
            saved = time.monotonic()
    keep()
    team.wait()
    with torch.no_grad():
        for parameter, mean in zip(parameters, average):
            parameter.copy_(mean)
    return module


def progress(settings: LoopSettings, step: int, seconds: float) -> float:
    """0 at the beginning .. 1 when the budget is spent."""
    if settings.steps:
        return step / settings.steps
    return seconds / (settings.minutes * 60) if settings.minutes else 1.0


def learning_rate(settings: LoopSettings, step: int, done: float) -> float:
    cosine = 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return settings.learning_rate * min(1.0, (step + 1) / settings.warmup) * cosine


def save(path: Path, parameters, average, optimizer, step: int, seconds: float, settings: LoopSettings) -> None:
    state = {
        "parameters": [p.detach() for p in parameters],
        "average": average,
        "optimizer": optimizer.state_dict(),
        "step": step,
        "seconds": seconds,
        "settings": asdict(settings),
    }
    unfinished = path.with_suffix(".part")
    torch.save(state, unfinished)
    unfinished.replace(path)


def resume(path: Path, parameters, average, optimizer) -> tuple[int, float]:
    """Puts a saved state back; returns the step and the seconds it stood at, (0, 0) without one."""
    if not path.exists():
        return 0, 0.0
    state = torch.load(path, weights_only=True, map_location=parameters[0].device)
    with torch.no_grad():
        for targets, values in ((parameters, state["parameters"]), (average, state["average"])):
            for target, value in zip(targets, values, strict=True):
                target.copy_(value)
    optimizer.load_state_dict(state["optimizer"])
    return state["step"], state["seconds"]


def log(path: Path, row: dict[str, float], minutes_left: float) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file)
        if new:
            writer.writerow(row)
        writer.writerow([f"{value:.6g}" for value in row.values()])
    told = {key: round(value, 5) for key, value in row.items()} | {"minutes_left": round(minutes_left, 1)}
    print(path.stem, json.dumps(told), flush=True)


def step_generator(seed: int, name: str, step: int) -> torch.Generator:
    """Randomness of one training step, the same whether or not the run was interrupted before it."""
    from ..sampling.schedules import seeded_generator

    return seeded_generator(seed, step, name)


def training_device() -> torch.device:
    """This process's GPU, if there is one"""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def autocast():
    """bfloat16 on GPUs and on CPUs with matrix hardware for it, float32 elsewhere."""
    from ..models.checkpoint import cpu_precision

    device = training_device().type
    enabled = device == "cuda" or cpu_precision() == torch.bfloat16
    return torch.autocast(device, torch.bfloat16, enabled=enabled)
