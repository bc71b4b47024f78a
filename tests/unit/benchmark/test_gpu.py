"""The GPU benchmark, rehearsed on the CPU, and its accounts checked against what can be counted by hand."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from starcaster_core.benchmark import gpu
from starcaster_core.benchmark.account import LiveBytes, count_flops, estimate_memory
from starcaster_core.benchmark.account import main as count
from starcaster_core.cli import main
from starcaster_core.presets import PRESETS


@pytest.mark.slow
def test_the_rehearsal_fills_every_row_but_cuda_s(tmp_path, capsys, monkeypatch):
    variants = {name: v for name, v in gpu.VARIANTS.items() if name != "compiled"}  # minutes of compiling
    monkeypatch.setattr(gpu, "VARIANTS", variants)
    monkeypatch.setattr(gpu, "LENGTHS", (1, 2))
    monkeypatch.setattr(gpu, "WAYS", {name: replace(way, steps=2) for name, way in gpu.WAYS.items()})
    out = tmp_path / "gpu.json"
    command = ["bench-gpu", "--preset", "tiny", "--device", "cpu", "--precision", "float32", "--out", str(out)]
    assert main(command) == 0
    result = json.loads(out.read_text())
    for name in ("eager", "eager, one branch a call", "eager, keys side by side", "float8 and offload"):
        for way in variants[name].ways:
            assert result["variants"][name][way]["fps"] > 0
    for name in ("CUDA graphs", "compiled, CUDA graphs"):
        assert "CUDA" in result["variants"][name]["error"]
    assert set(result["length"]) == {"1", "2"}
    assert result["plain_diffusers"]["ratio"]["eager"] > 0
    assert result["goals"]["fps_25_steps"]["reached"] > 0
    assert "float8 and offload" in capsys.readouterr().out.split("variant")[-1], "the table comes last"


def test_without_a_gpu_the_command_says_how_to_rehearse(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main(["bench-gpu"]) == 1
    assert "--device cpu" in capsys.readouterr().err


def test_when_the_budget_is_used_up_the_rest_is_left_out():
    bench = gpu.Bench.__new__(gpu.Bench)
    bench.deadline = 0
    assert "budget" in bench.attempt(lambda: {"never": 1})["left_out"]


def test_flops_of_linear_layers_are_what_their_shapes_say():
    """With attention, convolutions and all; the FLOPs beyond those of the null are the bank's, audio's and camera's."""
    config = PRESETS["tiny"]
    counts = count_flops(config)
    extra = 0
    frames, layers = config.chunk_frames, config.unet.layers_per_block
    for level, dim in enumerate(config.unet.block_out_channels):
        places = (config.latent_size // 2**level) ** 2
        blocks = layers + layers + 1 + (level == len(config.unet.block_out_channels) - 1)
        keys = (1 + config.context_frames) * places
        tokens = config.conditioning.speech_tokens + config.conditioning.camera_tokens
        extra += blocks * frames * places * 4 * dim * (keys + tokens)
    gates = 2 * 9 * config.unet.block_out_channels[0] * frames * config.latent_size**2
    assert counts["full"] - counts["null"] == pytest.approx(extra + gates, rel=1e-6)


def test_live_bytes_follow_what_is_alive():
    with LiveBytes() as live:
        x = torch.empty(1000, device="meta")
        y = x + 1
        del x
        z = y.view(10, 100) * 2
        del y
    assert live.peak == 8000 and live.now == z.nbytes


def test_the_paper_s_scale_fits_where_it_should():
    config = PRESETS["sd15"]
    whole = estimate_memory(config, torch.bfloat16, batched=True)
    small = estimate_memory(config, torch.bfloat16, float8=True, offload=True)
    assert whole["unet"] > 2 * 1.2e9
    assert small["activations"] == pytest.approx(whole["activations"] / 2, rel=0.1)
    assert small["total"] < 5 * 2**30 < 8 * 2**30 > whole["total"]


def test_the_account_is_written_as_it_was_counted(tmp_path):
    out = tmp_path / "counted.json"
    count(["--preset", "tiny", "--out", str(out)])
    result = json.loads(out.read_text())
    flops = count_flops(PRESETS["tiny"])
    assert result["tflop_a_call"] == {name: round(value / 1e12, 4) for name, value in flops.items()}
    small, whole = result["gib"]["float8, offload"], result["gib"]["whole, batched guidance"]
    assert small["total"] <= whole["total"] and set(small) == set(whole)
