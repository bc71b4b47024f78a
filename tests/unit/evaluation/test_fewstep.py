"""Few steps against many: equal variants are at no distance, others are, and errors in the mouth are found there."""

from __future__ import annotations

from dataclasses import replace

import torch

from starcaster_core.evaluation import fewstep
from starcaster_core.evaluation.fewstep import MANY, OWN, TRUTH, compare, measure
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.sampling.settings import SamplerSettings
from starcaster_core.training.latents import ClipSet


def test_an_error_is_found_where_it_is():
    frames = torch.zeros(2, 8, 8, 3)
    spoilt = frames.clone()
    spoilt[:, 4:6, 2:6] = 2.0
    box = torch.tensor([2 / 8, 4 / 8, 5 / 8, 5 / 8]).expand(2, 4)
    assert compare(frames, spoilt, box) == {"frame": 4.0 * 8 / 64, "mouth": 4.0}


def test_a_model_is_at_no_distance_from_itself_and_at_some_from_another_way():
    model = load_checkpoint("tiny", torch.float32)
    draw = torch.Generator().manual_seed(0)
    clips = ClipSet(
        latents=torch.randn(1, 4, 16, 8, 8, generator=draw).half(),
        speech=torch.randn(1, 4, 64, generator=draw).half(),
        camera=torch.eye(4).flatten().repeat(1, 4, 1).repeat(1, 1, 2)[..., :25],
        mouth=torch.tensor([0.25, 0.5, 0.75, 0.75]).expand(1, 4, 4),
        eyes=torch.tensor([0.3, 0.3, 0.7, 0.45]).expand(1, 4, 4),
        head_motion=torch.zeros(1, 4, 7),
        embedding=torch.randn(1, 128, generator=draw),
        kind=torch.tensor([0]),
        split=torch.tensor([2]),
        identity=torch.tensor([0]),
    )
    two = SamplerSettings(steps=2, guidance_scale=1.0)
    variants = {MANY: (model, replace(two, steps=3)), OWN: (model, two), "again": (model, two)}
    figures = measure(model, variants, clips, [0], frames=4)
    again = figures["again"]
    assert again[f"to {OWN}: frame"] == 0 and again[f"to {MANY}: frame"] > 0 and again[f"to {TRUTH}: mouth"] > 0
    assert again["motion"] == figures[OWN]["motion"] > 0 and again["seconds"] > 0


def test_the_teacher_is_compared_in_its_own_and_in_four_steps():
    model = load_checkpoint("tiny", torch.float32)
    student = load_checkpoint("tiny", torch.float32)
    student.config = replace(student.config, steps=4, guidance_scale=1.0, scheduler="ddim")
    variants = fewstep.sampling_variants(model, {"student": student}, seed=3)
    chosen = {name: (s.steps, s.guidance_scale, s.scheduler, s.seed) for name, (_, s) in variants.items()}
    assert chosen[MANY][0] == 25 and chosen[OWN][0] == model.config.steps
    assert chosen["student"] == (4, 1.0, "ddim", 3)
    assert chosen["teacher, 4 steps, no guidance"] == (4, 1.0, "dpmpp", 3)
