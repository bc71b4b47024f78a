"""The training loop: interrupted equals uninterrupted, divergence stops it, the average is what is left."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from starcaster_core.training import loop
from starcaster_core.training.loop import DivergedError, LoopSettings, step_generator, train

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


def fit(net: nn.Module, folder, clock: Clock, stop_at: int | None = None, loss=None) -> list[int]:
    steps = []

    def loss_of_step(step: int):
        if step == stop_at:
            raise KeyboardInterrupt
        steps.append(step)
        clock.now += 1
        x = torch.randn(16, 4, generator=step_generator(0, "toy", step))
        return (loss or nn.functional.mse_loss)(net(x), x.sum(dim=1, keepdim=True)), {}

    train(net, loss_of_step, SETTINGS, folder, "toy")
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


def test_the_log_has_one_row_every_so_many_steps(tmp_path, clock):
    fit(new_net(), tmp_path, clock)
    rows = (tmp_path / "toy.csv").read_text().splitlines()
    assert rows[0] == "step,minutes,rate,loss" and len(rows) == 1 + 30 // 5
