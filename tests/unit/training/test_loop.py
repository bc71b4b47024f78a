"""The training loop: interrupted equals uninterrupted, divergence stops it, the average is what is left."""

from __future__ import annotations

import os
import runpy
import socket
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn

from starcaster_core.errors import InputError
from starcaster_core.training import loop
from starcaster_core.training.curves import progress_line
from starcaster_core.training.loop import DivergedError, LoopSettings, Trend, step_generator, train

# One second a step by the clock below; a state saved at every step.
SETTINGS = LoopSettings(minutes=0.5, learning_rate=1e-2, warmup=3, ema=0.9, save_minutes=0.0, log_every=5)


class Clock:
    def __init__(self):
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    return clock


def new_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))


def fit(net: nn.Module, folder, clock: Clock, stop_at: int | None = None, loss=None, settings=SETTINGS) -> list[int]:
    steps = []

    def loss_of_step(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        steps.append(step)
        clock.now += 1
        x = torch.randn(16, 4, generator=step_generator(0, "toy", step))
        return (loss or nn.functional.mse_loss)(net(x), x.sum(dim=1, keepdim=True)), {}

    train(net, loss_of_step, settings, folder, "toy")
    return steps


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, clock):
    whole = new_net()
    assert fit(whole, tmp_path / "whole", clock) == list(range(30))

    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), tmp_path / "parts", clock, stop_at=11)
    clock.now += 5000  # time off does not count
    resumed = new_net()
    resumed[0].weight.data.zero_()  # what it starts with does not matter
    assert fit(resumed, tmp_path / "parts", clock) == list(range(11, 30))
    for mine, its in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(mine, its)


def test_a_discriminator_has_a_learning_rate_of_its_own_and_is_resumed(tmp_path, clock):
    """AdamW moves a weight by about its learning rate, whatever the gradient's size."""

    def run(folder, stop_at=None):
        mine, other = nn.Linear(1, 1, bias=False), nn.Parameter(torch.zeros(1))
        nn.init.zeros_(mine.weight)

        def loss_of_draw(number: int):
            if number == stop_at:
                raise KeyboardInterrupt
            clock.now += 1
            return (mine.weight - 100).square().sum() + (other - 100).square().sum(), {}

        settings = replace(SETTINGS, discriminator_lr_factor=6.0, weight_decay=0.0, ema=0.0)
        train(mine, loss_of_draw, settings, folder, "pair", discriminator_parameters=[other])
        return mine.weight.item(), other.item()

    slow, fast = run(tmp_path / "whole")
    assert fast / slow == pytest.approx(6, rel=0.05)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_at=11)
    assert run(tmp_path / "parts") == (slow, fast)


def test_a_state_of_an_earlier_version_is_resumed(tmp_path, clock):
    """It kept the factor of the learning rate in the optimizer's groups, and called the micro-batches parts."""
    whole = new_net()
    fit(whole, tmp_path / "whole", clock)
    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), tmp_path / "old", clock, stop_at=11)
    file = tmp_path / "old" / "toy.state.pt"
    state = torch.load(file, weights_only=True)
    state["optimizer"]["param_groups"][0]["pace"] = 1.0
    state["settings"]["parts"] = state["settings"].pop("micro_batches")
    torch.save(state, file)
    resumed = new_net()
    assert fit(resumed, tmp_path / "old", clock) == list(range(11, 30))
    for mine, its in zip(whole.state_dict().values(), resumed.state_dict().values()):
        assert torch.equal(mine, its)


def test_it_learns_and_leaves_the_average_of_its_weights(tmp_path, clock):
    net = new_net()
    x = torch.randn(256, 4, generator=torch.Generator().manual_seed(1))
    before = nn.functional.mse_loss(net(x), x.sum(dim=1, keepdim=True))
    fit(net, tmp_path, clock)
    after = nn.functional.mse_loss(net(x), x.sum(dim=1, keepdim=True))
    assert after < 0.8 * before
    state = torch.load(tmp_path / "toy.state.pt", weights_only=True)
    assert all(torch.equal(p, a) for p, a in zip(net.parameters(), state["average"]))
    assert not all(torch.equal(p, a) for p, a in zip(state["parameters"], state["average"]))


def test_a_diverging_run_stops_and_keeps_the_last_good_state(tmp_path, clock):
    def loss(prediction, target):
        return nn.functional.mse_loss(prediction, target) * (float("nan") if clock.now > 1008 else 1)

    with pytest.raises(DivergedError, match="step 8 of toy"):
        fit(new_net(), tmp_path, clock, loss=loss)
    state = torch.load(tmp_path / "toy.state.pt", weights_only=True)
    assert state["step"] == 8
    assert all(parameter.isfinite().all() for parameter in state["parameters"])


def test_a_loss_that_grows_without_bounds_stops_the_run_before_it_spoils_the_state(tmp_path, clock):
    """Finite all the time, but ever further away: what a learning rate that is too high does."""
    grown = 60

    def loss(prediction, target):
        steps = clock.now - 1000
        return (nn.functional.mse_loss(prediction, target) + 1) * (1 if steps < grown else 1.2 ** (steps - grown))

    with pytest.raises(DivergedError, match="without bounds"):
        fit(new_net(), tmp_path, clock, loss=loss, settings=replace(SETTINGS, minutes=10))
    state = torch.load(tmp_path / "toy.state.pt", weights_only=True)
    assert grown <= state["step"] < grown + 20 and clock.now - 1000 > state["step"] + 5


def test_losses_may_jump_where_they_are_next_to_nothing():
    trend = Trend()
    for loss in [1.0] * 30 + [1e-6] * 400 + [1e-2] * 50:
        trend.add(loss)
        assert not trend.has_grown(10)
    for loss in [3.0] * 50:
        trend.add(loss)
    assert trend.has_grown(10)


def test_the_log_has_a_row_every_so_many_steps_and_some_of_the_first(tmp_path, clock):
    fit(new_net(), tmp_path, clock)
    rows = (tmp_path / "toy.csv").read_text().splitlines()
    assert rows[0] == "step,minutes,rate,loss"
    assert [int(row.split(",")[0]) for row in rows[1:]] == [1, 2, 5, 10, 15, 20, 25, 30]


def test_a_row_is_the_mean_of_the_steps_since_the_last(tmp_path):
    net = new_net()

    def loss_of_draw(number: int):
        return 0 * net(torch.ones(1, 4)).sum() + number, {"number": float(number)}

    train(net, loss_of_draw, LoopSettings(0, steps=20, micro_batches=1, log_every=10), tmp_path, "toy")
    numbers = [float(row.split(",")[-1]) for row in (tmp_path / "toy.csv").read_text().splitlines()[1:]]
    assert numbers == [0, 1, 3, 7, 14.5]  # draws 0; 1; 2-4; 5-9; 10-19


def test_the_curve_is_drawn_from_the_log(tmp_path, clock):
    from PIL import Image

    from starcaster_core.training.curves import read_log

    fit(new_net(), tmp_path, clock)
    columns = read_log(tmp_path / "toy.csv")
    steps, losses = columns["step"], columns["loss"]
    assert steps.tolist() == [1, 2, 5, 10, 15, 20, 25, 30] and losses[-1] < losses[0]
    with Image.open(tmp_path / "toy.png") as picture:
        blue = sum(count for count, colour in picture.convert("RGB").getcolors(10**6) if colour == (43, 108, 176))
    assert blue > 300  # a line from side to side


def test_a_budget_of_steps_is_kept_and_shapes_the_learning_rate(tmp_path):
    drawn = []

    def loss_of_draw(number: int):
        drawn.append(number)
        return net(torch.ones(1, 4)).square().mean(), {}

    net = new_net()
    train(net, loss_of_draw, LoopSettings(0, steps=6, micro_batches=2, warmup=1, log_every=2), tmp_path, "toy")
    assert drawn == list(range(12))
    rates = [float(row.split(",")[2]) for row in (tmp_path / "toy.csv").read_text().splitlines()[1:]]
    assert rates == sorted(rates, reverse=True) and rates[-1] < rates[0]


SCRIPT = """
import sys
from pathlib import Path
import torch
from torch import nn
from starcaster_core.training.loop import Distributed, LoopSettings, step_generator, train

def train_toy(folder):
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), nn.SiLU(), nn.Linear(8, 1))
    def loss_of_draw(number):
        x = torch.randn(16, 4, generator=step_generator(0, "toy", number))
        return nn.functional.mse_loss(net(x), x.sum(dim=1, keepdim=True)), {}
    settings = LoopSettings(0, steps=12, micro_batches=2, learning_rate=1e-2, warmup=1, log_every=4)
    train(net, loss_of_draw, settings, Path(folder), "toy")

if __name__ == "__main__":
    train_toy(sys.argv[1])
    print(f"{Distributed().world_size} processes")
"""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("localhost", 0))
        return listener.getsockname()[1]


def test_two_processes_equal_one_with_twice_the_batch(tmp_path):
    script = tmp_path / "train_toy.py"
    script.write_text(SCRIPT)
    where = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(free_port()), "WORLD_SIZE": "2", "OMP_NUM_THREADS": "1"}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | where  # what a launcher would set
    processes = [
        subprocess.Popen(
            [sys.executable, str(script), str(tmp_path / "two")],
            env=environment | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        for process in processes:
            said, complaints = process.communicate(timeout=300)
            assert process.returncode == 0, complaints[-2000:]
            assert said.count("2 processes") == 1
    finally:
        for process in processes:
            process.kill()
    runpy.run_path(str(script))["train_toy"](tmp_path / "alone")  # in this process
    alone, two = (torch.load(tmp_path / where / "toy.state.pt", weights_only=True) for where in ("alone", "two"))
    assert two["step"] == 12
    for mine, its in zip(alone["parameters"], two["parameters"]):
        torch.testing.assert_close(mine, its, rtol=1e-5, atol=1e-6)
    logs = [(tmp_path / where / "toy.csv").read_text().splitlines() for where in ("alone", "two")]
    assert len(logs[0]) == len(logs[1]) == 1 + 5  # steps 1, 2, 4, 8, 12; one process writes, of the loss of both
    losses = [[float(row.split(",")[3]) for row in log[1:]] for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_what_was_logged_after_the_last_save_is_logged_once(tmp_path, clock):
    """A run is cut off at step 14, its last state is of step 9: rows 10 is written again, not twice."""
    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), tmp_path, clock, stop_at=9)
    kept = (tmp_path / "toy.state.pt").read_bytes()
    with pytest.raises(KeyboardInterrupt):
        fit(new_net(), tmp_path, clock, stop_at=14)
    (tmp_path / "toy.state.pt").write_bytes(kept)
    fit(new_net(), tmp_path, clock)
    fit(new_net(), tmp_path / "whole", clock)
    resumed, whole = ((folder / "toy.csv").read_text() for folder in (tmp_path, tmp_path / "whole"))
    assert resumed == whole, "also the mean that was half summed up when it stopped"


def test_the_averaged_weights_are_shown_at_times_and_at_the_end(tmp_path, clock):
    net, seen = new_net(), []

    def show(step):
        seen.append((step, net[0].weight.detach().clone()))

    def loss_of_step(step):
        clock.now += 1
        return net(torch.ones(1, 4)).square().mean(), {}

    settings = LoopSettings(0.5, learning_rate=1e-2, warmup=1, ema=0.9, save_minutes=0.0, show_minutes=0.15)
    train(net, loss_of_step, settings, tmp_path, "toy", show=show)
    assert [step for step, _ in seen] == [10, 20, 30, 30]
    assert torch.equal(seen[-1][1], net[0].weight)
    shown, net = net, new_net()
    train(net, loss_of_step, settings, tmp_path / "unseen", "toy")
    assert torch.equal(shown[0].weight, net[0].weight), "showing changes nothing"


def test_scaling_the_loss_changes_no_step(tmp_path):
    def trained(folder, scaling):
        net = new_net()
        settings = LoopSettings(0, steps=8, learning_rate=1e-2, warmup=1, loss_scaling=scaling)
        train(net, lambda n: (net(torch.ones(2, 4)).square().mean(), {}), settings, folder, "toy")
        return net[0].weight

    torch.testing.assert_close(trained(tmp_path / "a", True), trained(tmp_path / "b", False), rtol=1e-5, atol=1e-6)
    assert torch.load(tmp_path / "a" / "toy.state.pt", weights_only=True)["scaler"]["scale"] > 1


def test_the_task_is_told_how_much_is_done(tmp_path):
    net, told = new_net(), []
    settings = LoopSettings(0, steps=4)
    train(net, lambda n: (net(torch.ones(1, 4)).mean(), {}), settings, tmp_path, "toy", before_step=told.append)
    assert told == [0, 0.25, 0.5, 0.75]


def test_a_terminal_gets_one_line_with_the_time_left():
    line = progress_line("1-motion", 120, 0.34567, 0.25, 60.0, width=8)
    assert line.strip() == "1-motion [##......]  25%  step 120  loss 0.3457  3:00 left"


def test_tensorboard_is_told_where_it_is_installed(tmp_path, clock):
    pytest.importorskip("tensorboard")
    fit(new_net(), tmp_path, clock)
    assert list((tmp_path / "tensorboard" / "toy").glob("events.*"))


def test_micro_batches_that_the_processes_cannot_divide_are_refused(tmp_path, monkeypatch):
    two = {"world_size": 2, "rank": 0, "is_main": True}
    monkeypatch.setattr(loop.Distributed, "__init__", lambda self: vars(self).update(two))
    with pytest.raises(InputError, match="--micro-batches"):
        train(new_net(), None, LoopSettings(1, micro_batches=3), tmp_path, "toy")
