"""Few steps: a student that says at once where its guided teacher would come in several steps (consistency distillation).

    python -m starcaster_core.training.student --teacher mini --latents DIR --minutes 20 --out DIR

The way from noise to picture is cut into as many pieces as the student has steps, and within each piece all points of one
path of the teacher must be sent to the piece's end (multistep consistency models, Heek et al. 2024; with one piece, the
latent consistency models of Luo et al. 2023). The teacher goes by DDIM with the guidance it is sampled with; the student
needs none, since what guidance does is in what it learns. Its own answer one small step further on is the target, without
gradient and without a moving average (Song & Dhariwal 2023).
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from ..models.attention import ConditionCache
from ..models.checkpoint import load_checkpoint, save_checkpoint
from ..models.motion import MotionModule
from ..models.starcaster import Starcaster
from ..models.unet import cache_condition
from ..sampling.schedules import draw_noise, make_scheduler, predict_clean
from .diffusion import Batch, DenoisingLoss, draw_batch, mouth_weights
from .latents import ClipSet, load_clips
from .loop import LoopSettings, autocast, step_generator, train, training_device
from .recipe import Stage

NAME = "3-student"


@dataclass(frozen=True)
class Distillation:
    """steps: of the student, the pieces of the way. substeps: of the teacher in each. frames: of every chunk that are seen
    where the teacher's temporal attention says nothing; otherwise all. clips: batch size. context: probability that the
    chunk before is looked back at; at the beginning of a video there is none."""

    steps: int = 4
    substeps: int = 4
    frames: int = 4
    clips: int = 4
    context: float = 0.5
    learning_rate: float = 1e-4
    mouth_weight: float = 4.0
    kinds: tuple[tuple[str, float], ...] = (("temporal", 0.6), ("spatial", 0.4))


class Path_:
    pass


class ConsistencyLoss:
    def __init__(self, student: Starcaster, teacher: Starcaster, settings: Distillation, experiment: dict):
        self.student, self.teacher, self.settings, self.x = student, teacher, settings, experiment
        noise = teacher.config.noise
        self.kind = noise.prediction_type
        alphas = make_scheduler("ddim", noise).alphas_cumprod
        self.alphas_cumprod = torch.cat([alphas, torch.ones(1)]).to(student.device)  # timestep -1: no noise
        stage = Stage(NAME, share=1.0)
        self.theirs, self.mine = DenoisingLoss(teacher, stage), DenoisingLoss(student, stage)
        self.motion = not silent(teacher)
        n = settings.steps * settings.substeps
        self.grid = torch.tensor([noise.num_train_timesteps * k // n - 1 for k in range(n + 1)])

    def __call__(self, batch: Batch, generator: torch.Generator):
        batch = batch.to(self.student.device)
        s = self.settings
        batch, self.at = thin(batch, s.frames if not self.motion else 10**6, generator)
        k = torch.randint(1, len(self.grid), (len(batch.latents),), generator=generator)
        if self.x.get("starts"):
            k = (k - 1) // s.substeps * s.substeps + s.substeps
        end = self.grid[(k - 1) // s.substeps * s.substeps].to(batch.latents.device)
        timesteps = self.grid[k].to(batch.latents.device)
        noise = draw_noise(batch.latents.shape, self.teacher.config.noise.shared_noise, generator, generator)
        noise = noise.to(batch.latents.device)
        noisy = self.move(batch.latents, noise, timesteps)
        with torch.no_grad():
            shown, nobody = self.condition(self.theirs, batch, self.teacher)
            if self.x.get("onpolicy"):
                noisy = self.own_path(batch, noise, timesteps, noisy)
            here, x = timesteps, noisy
            for j in range(s.substeps if self.x.get("starts") else 1):
                there = self.grid[k - 1 - j].to(here)
                x = self.jump(x, self.guided(x, here, shown, nobody), here, there)
                here = there
        mine, _ = self.condition(self.mine, batch, self.student)
        with torch.no_grad():
            if not self.x.get("starts"):
                ahead = self.clean(self.student, x, here.clamp(min=0), mine)
                arrived = torch.where((here == end).reshape(-1, 1, 1, 1, 1), x, self.jump(x, ahead, here, end))
            else:
                arrived = x
            target = self.aim(noisy, arrived, timesteps, end)
        said = self.clean(self.student, noisy, timesteps, mine)
        error = said - target
        a, sg = self.scales(timesteps)
        if self.x.get("huber"):
            d = error[0].numel(); c = self.x["huber"] * d**0.5
            w = mouth_weights(batch.mouth, error.shape[-1], s.mouth_weight) if batch.camera is None else 1.0
            loss = ((error.square() * w).flatten(1).sum(1) + c * c).sqrt() - c
            loss = loss.mean() / d**0.5
        else:
            error = error.square()
            if batch.camera is None:
                error = error * mouth_weights(batch.mouth, error.shape[-1], s.mouth_weight)
            error = error * (1 / sg.square().clamp(min=1e-6)).clamp(max=5)
            loss = error.mean()
        return loss, {}

    def own_path(self, batch, noise, timesteps, noisy):
        """student's own way down to timesteps (multiples)"""
        mine, _ = self.condition(self.mine, batch, self.student)
        ends = self.grid[:: self.settings.substeps].flip(0).to(timesteps)
        x = noise
        out = noisy.clone()
        for a, b in zip(ends[:-1], ends[1:]):
            hit = timesteps == a
            out = torch.where(hit.reshape(-1, 1, 1, 1, 1), x, out)
            if not (timesteps < a).any():
                break
            t = a.expand(len(noisy))
            x = self.jump(x, self.clean(self.student, x, t, mine), t, b.expand(len(noisy)))
        return out

    def scales(self, t):
        a2 = self.alphas_cumprod[t].reshape(-1, 1, 1, 1, 1)
        return a2.sqrt(), (1 - a2).sqrt()

    def move(self, clean, noise, t):
        a, s = self.scales(t)
        return a * clean + s * noise

    def jump(self, x, clean, t, u):
        a, s = self.scales(t)
        return self.move(clean, (x - a * clean) / s.clamp(min=1e-3), u)

    def aim(self, x, arrived, t, end):
        (a, s), (b, r) = self.scales(t), self.scales(end)
        return (arrived - r / s * x) / (b - a * r / s)

    def clean(self, model, x, t, condition):
        out = model.unet(x, t, condition, motion=self.motion).float()
        return predict_clean(out, x, t, self.alphas_cumprod, self.kind)

    def guided(self, x, t, shown, nobody):
        c = self.teacher.config
        full = self.clean(self.teacher, x, t, shown)
        on = (t + 1 > (1 - c.guidance_end) * 1000)
        if not on.any():
            return full
        null = self.clean(self.teacher, x, t, nobody)
        return torch.where(on.reshape(-1, 1, 1, 1, 1), null + c.guidance_scale * (full - null), full)

    def condition(self, maker: DenoisingLoss, batch: Batch, model: Starcaster):
        identity = maker.identity(batch, False)
        banks = [maker.bank(batch.reference, identity)]
        if batch.before is not None:
            banks.append(maker.bank(batch.before[:, :, -model.config.context_frames :], identity))
        streams = maker.streams(None, batch.camera, False)
        if batch.speech is not None:
            streams["audio"] = model.unet.cache_audio(model.speech_tokens(batch.speech)[:, self.at])
        reference = model.unet.cache_reference(batch.reference)
        shown = cache_condition(identity, **streams, banks=tuple(banks), reference=reference)
        return shown, cache_condition(maker.identity(batch, True))


def silent(model: Starcaster) -> bool:
    return not any(m.proj_out.weight.any() for m in model.unet.modules() if isinstance(m, MotionModule))


def thin(batch: Batch, frames: int, generator):
    total = batch.latents.shape[2]
    if frames >= total:
        return batch, torch.arange(total)
    step = total // frames
    at = torch.randint(step, (), generator=generator) + step * torch.arange(frames)
    cut = {"latents": batch.latents[:, :, at], "mouth": batch.mouth[:, at]}
    return replace(batch, **cut, camera=None if batch.camera is None else batch.camera[:, at]), at
