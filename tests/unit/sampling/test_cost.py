"""How long a render takes, estimated before it begins."""

from dataclasses import replace

import pytest
import torch

from starcaster_core.benchmark.account import count_flops
from starcaster_core.presets import PRESETS
from starcaster_core.sampling import cost
from starcaster_core.sampling.settings import SamplerSettings

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_the_formula_counts_what_the_network_does(name):
    counted = count_flops(PRESETS[name])["full"]
    assert cost.network_flops(PRESETS[name]) == pytest.approx(counted, rel=0.1)


def test_every_branch_of_the_guidance_counts():
    plain = SamplerSettings(steps=10, guidance_scale=1.0)
    assert cost.network_calls(plain) == 10
    assert cost.network_calls(replace(plain, guidance_scale=3.0)) == 20
    assert cost.network_calls(replace(plain, guidance_scale=3.0, guidance_end=0.5)) == 15
    assert cost.network_calls(replace(plain, guidance_scale=3.0, audio_scale=2.0)) == 30


def test_twice_the_video_takes_twice_as_long(monkeypatch):
    monkeypatch.setattr(cost, "matmul_speed", lambda *_: 1e11)
    config = PRESETS["mini"]
    one, two, slow = (
        cost.expected_seconds(config, SamplerSettings.of(config, steps=steps), frames, 512, CPU, torch.float32)
        for frames, steps in ((160, 4), (320, 4), (160, 8))
    )
    assert two == pytest.approx(2 * one) and one < slow < 2 * one


def test_a_machine_is_measured_in_a_moment():
    assert 1e8 < cost.matmul_speed(CPU, torch.float32) < 1e14
    assert cost.expectation(100) == ""
    assert cost.expectation(600) == "About 10 minutes are expected."
    assert cost.expectation(36_000) == "About 10 hours are expected."
