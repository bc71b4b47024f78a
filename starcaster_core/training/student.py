"""Few steps: a student that goes in one step, without guidance, where its guided teacher goes in several.

The teacher's way from noise to picture, by DDIM and with the guidance that it is sampled with, is cut into as many pieces
as the student has steps. At the beginning of every piece the student is asked for the clean latents whose one DDIM step
ends where the teacher's several end (progressive distillation, Salimans & Ho 2022, of a guided teacher, Meng et al. 2023).
Why not by consistency: docs/decisions/0008. It is a stage of training like the others (`Stage.student_steps`).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..models.attention import ConditionCache
from ..models.starcaster import Starcaster
from ..models.unet import cache_condition
from ..sampling.schedules import alpha_sigma, draw_noise, make_scheduler, predict_clean
from .diffusion import Batch, mouth_weights
from .recipe import Stage

SUBSTEPS = 2  # of the teacher for each of the student's
LOOKED_AT = 4  # frames of every chunk, where the teacher's temporal attention is silent; all of them otherwise


@dataclass(frozen=True)
class Scene:
    """What a model is shown of a batch: all of its conditions, and guidance's null."""

    full: ConditionCache
    nobody: ConditionCache


class Trajectory:
    """The way from noise to clean latents in even steps ("trailing" spacing), and DDIM's steps along it.

    timesteps: int [steps + 1], from the last one, pure noise, down to -1, which stands for no noise at all.
    """

    def __init__(self, model: Starcaster, steps: int):
        self.kind, total = model.config.noise.prediction_type, model.config.noise.num_train_timesteps
        clean = torch.ones(1)  # timestep -1 is the last entry
        self.alphas_cumprod = torch.cat([make_scheduler("ddim", model.config.noise).alphas_cumprod, clean])
        self.timesteps = torch.tensor([total * left // steps - 1 for left in range(steps, -1, -1)])

    def scales(self, at: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, sigma of x_t = alpha x0 + sigma eps after `at` steps, one number for all or [B]; each [B or 1, 1, 1, 1, 1]"""
        return alpha_sigma(self.alphas_cumprod, self.timesteps[at], like)

    def predict(
        self, model: Starcaster, x: Tensor, at: int | Tensor, condition: ConditionCache, motion: bool
    ) -> Tensor:
        """x0 as the network says it, [B, C, T, h, w]"""
        timesteps = self.timesteps[at].reshape(-1).to(x.device)
        prediction = model.unet(x, timesteps, condition, motion=motion).float()
        return predict_clean(prediction, x, timesteps, self.alphas_cumprod.to(x.device), self.kind)

    def step(self, x: Tensor, clean: Tensor, start: int | Tensor, end: int | Tensor) -> Tensor:
        """DDIM: x_t -> x_s = alpha_s x0 + sigma_s (x_t - alpha_t x0) / sigma_t"""
        (alpha, sigma), (alpha_end, sigma_end) = self.scales(start, x), self.scales(end, x)
        return alpha_end * clean + sigma_end / sigma * (x - alpha * clean)

    def aim(self, x: Tensor, arrived: Tensor, start: int | Tensor, end: int | Tensor) -> Tensor:
        """The inverse of `step`: the clean latents to be predicted at `x` for its DDIM step to end at `arrived`"""
        (alpha, sigma), (alpha_end, sigma_end) = self.scales(start, x), self.scales(end, x)
        return (arrived - sigma_end / sigma * x) / (alpha_end - sigma_end / sigma * alpha)


class DistillationLoss:
    """Call with a step's batch and generator -> squared error of the student's clean latents at the beginning of a piece
    of the way, for every clip another, scalar; an error counts as it would in v (docs/decisions/0004). Everything random is
    drawn on the CPU."""

    def __init__(self, student: Starcaster, teacher: Starcaster, stage: Stage):
        self.student, self.teacher, self.stage = student, teacher, stage
        self.path = Trajectory(teacher, stage.student_steps * SUBSTEPS)
        # Where the temporal attention was never trained, frames can be taken one by one.
        self.motion = not all(module.is_untrained() for module in teacher.unet.motion_modules())
        self.progress = 0.0  # every loss is told; this one is the same throughout

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batch.to(self.student.device)
        stage, path, shape = self.stage, self.path, batch.latents.shape
        if torch.rand((), generator=generator).item() >= stage.context:
            batch = replace(batch, context=None)
        frames = self.choose_frames(shape[2], generator)
        start = SUBSTEPS * torch.randint(stage.student_steps, shape[:1], generator=generator)
        noise = draw_noise(shape, self.teacher.config.noise.shared_noise, generator, generator).to(batch.latents)
        alpha, sigma = path.scales(start, noise)
        x = (alpha * batch.latents + sigma * noise)[:, :, frames]
        arrived = self.walk(x, start, SUBSTEPS, show(self.teacher, batch, frames))
        target = path.aim(x, arrived, start, start + SUBSTEPS)
        said = path.predict(self.student, x, start, show(self.student, batch, frames).full, self.motion)
        error = (said - target).square() / sigma.square()
        if batch.camera is None:
            error = error * mouth_weights(batch.mouth[:, frames], shape[-1], stage.mouth_weight)
        return error.mean(), {}

    def choose_frames(self, total: int, generator: torch.Generator) -> Tensor:
        """Numbers of the frames that are looked at: evenly spread if not all, beginning anywhere"""
        stride = 1 if self.motion else max(1, total // LOOKED_AT)
        return torch.arange(torch.randint(stride, (), generator=generator).item(), total, stride)

    @torch.no_grad()
    def walk(self, x: Tensor, start: Tensor, steps: int, scene: Scene) -> Tensor:
        """Where the teacher, guided as when it samples in so many steps, arrives from `x` at `start` [B] after `steps`"""
        config, path = self.teacher.config, self.path
        guided_steps = round(config.guidance_end * (len(path.timesteps) - 1))
        for at in (start + done for done in range(steps)):
            clean = path.predict(self.teacher, x, at, scene.full, self.motion)
            if (guided := at < guided_steps).any():
                null = path.predict(self.teacher, x, at, scene.nobody, self.motion)
                strong = null + config.guidance_scale * (clean - null)
                clean = torch.where(guided.reshape(-1, 1, 1, 1, 1).to(x.device), strong, clean)
            x = path.step(x, clean, at, at + 1)
        return x


def show(model: Starcaster, batch: Batch, frames: Tensor) -> Scene:
    """All conditions of the chosen `frames` of a batch, as in sampling: identity, portrait, the last frames before if
    the batch has any, and sound or camera."""
    unet, tokens = model.unet, model.identity_tokens
    identity = unet.cache_identity(tokens(batch.embedding))
    banks = [unet.cache_frames(batch.reference, identity)]
    if batch.context is not None:
        banks.append(unet.cache_frames(batch.context[:, :, -model.config.context_frames :], identity))
    streams = {}
    if batch.speech is not None:
        streams["audio"] = unet.cache_audio(model.speech_tokens(batch.speech)[:, frames])
    if batch.camera is not None:
        streams["camera"] = unet.cache_camera(model.camera_tokens(batch.camera[:, frames]))
    reference = unet.cache_reference(batch.reference)
    full = cache_condition(identity, **streams, banks=tuple(banks), reference=reference)
    return Scene(full, cache_condition(unet.cache_identity(tokens.unconditional(len(batch.embedding)))))


def new_student(teacher: Starcaster, steps: int) -> Starcaster:
    """A copy of the teacher whose own settings are so many steps of DDIM from pure noise, without guidance"""
    student = deepcopy(teacher)
    noise = replace(teacher.config.noise, timestep_spacing="trailing")
    student.config = replace(
        teacher.config, noise=noise, steps=steps, guidance_scale=1.0, guidance_end=1.0, scheduler="ddim"
    )
    return student
