"""Few steps: a student that samples in a handful of steps, without guidance, what its teacher samples in many.

The student begins as a copy of its teacher. In some batches it denoises clips noised to its own few timesteps. In the
others it is trained as it is sampled: from pure noise, step after step as `lcm` samples, each from the clean latents it
has just predicted and new noise; sampling stops at a random step, and only that step has gradients (as in Self Forcing,
Huang et al. 2025). So it learns to correct its own errors, which its teacher never saw. The loss there is the squared
error to the clip plus an adversarial loss: by error alone it would blur what the conditions leave open. What else was
tried: docs/decisions/0010. It is a stage of training like the others (`Stage.student_steps`).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from ..models.discriminator import Discriminator, DiscriminatorConditions
from ..models.extensions.shared_noise import draw_noise
from ..models.starcaster import Starcaster
from ..sampling.samplers import make_sampler
from ..sampling.schedules import predict_clean
from .adversarial import adversarial_losses
from .diffusion import Batch, DenoisingLoss, Prediction, box_weights
from .lips import LipLoss
from .recipe import Stage

ADVERSARIAL = {"betas": (0.5, 0.99), "discriminator_lr_factor": 6.0}  # settings of the loop
# Chunks show few clips a step: a faster discriminator would learn those by heart.
IN_CHUNKS = {"discriminator_lr_factor": 2.0}
SAMPLED = 0.6  # fraction of the batches that are sampled from pure noise
ADVERSARIAL_WEIGHT = 0.2  # norm of the adversarial gradient, in units of the squared error's
EYE_WEIGHT = 2.0  # weight of an error round the eyes
LIP_READING, LIP_READING_FRAMES = 0.2, 16  # fraction of the batches for the lip-reading loss; frames in a row
ADVERSARIAL_RAMP = 0.08  # fraction of the stage over which the adversarial weight rises


class StudentSample(Prediction):
    """What the student sampled from pure noise up to the step that learns. prediction: clean latents of that step;
    final: of the last step, where sampling went on."""


class StudentLoss(DenoisingLoss):
    """Call with a step's batch and generator, as `DenoisingLoss`.

    Returns the squared error; where the student sampled, gradients also carry the adversarial loss for the student, and
    the discriminator's own loss for `discriminator`, whose parameters are trained along.
    """

    def __init__(self, student: Starcaster, stage: Stage, lips: LipLoss | None = None):
        super().__init__(student, stage, lips)
        config = student.config
        heard = (2 * config.conditioning.speech_window + 1) * config.conditioning.speech_dim
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)  # the same in every process
            self.discriminator = Discriminator(
                config.unet.in_channels, heard, config.conditioning.identity_dim, side=config.latent_size
            )
        self.discriminator.to(student.device, memory_format=torch.channels_last)
        self.timesteps = make_sampler(config.scheduler, config.noise, stage.student_steps).timesteps
        self.metrics: dict[str, float] = {}

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        self.metrics = {"sampled": 0.0, "adversarial": 0.0, "discriminator": 0.0}
        loss, numbers = super().__call__(batch, generator)
        return loss, numbers | self.metrics

    def draw_timesteps(self, count: int, generator: torch.Generator, last: int) -> Tensor:
        """Draw out of the sampler's timesteps."""
        return self.timesteps[torch.randint(len(self.timesteps), (count,), generator=generator)]

    def predict(self, latents: Tensor, condition, generator: torch.Generator, is_context: bool) -> Prediction:
        # Context frames are always finished chunks in sampling.
        if not is_context and torch.rand((), generator=generator).item() >= SAMPLED:
            return super().predict(latents, condition, generator, is_context)
        return self.sample(latents, condition, generator, to_end=is_context)

    def sample(self, latents: Tensor, condition, generator: torch.Generator, to_end: bool = False) -> StudentSample:
        """Sample from pure noise up to a random step, with gradients through that step alone; to_end: go on to the
        last."""
        fraction, stage, steps = self.model.config.extensions.shared_noise, self.stage, len(self.timesteps)
        stop = torch.randint(steps, (), generator=generator).item()
        clean, learned = None, None
        for step, timestep in enumerate(self.timesteps if to_end else self.timesteps[: stop + 1]):
            noise = draw_noise(latents.shape, fraction, generator, generator).to(latents)
            alpha, sigma = self.scales(timestep)
            x = noise if clean is None else alpha * clean + sigma * noise
            timesteps = timestep.expand(len(x)).to(x.device)
            with torch.set_grad_enabled(step == stop and torch.is_grad_enabled()):
                clean = predict_clean(self.ask(x, timesteps, condition), x, timesteps, self.alphas_cumprod, self.kind)
            if step == stop:
                target = latents
                if (silent := self.without_audio(x, timesteps, condition)) is not None:
                    silent = predict_clean(silent, x, timesteps, self.alphas_cumprod, self.kind)
                    target = target + stage.audio_guidance * (clean.detach() - silent)
                learned, clean = StudentSample(clean, target, x, timesteps), clean.detach()
        return learned._replace(final=clean) if to_end else learned

    def clean(self, predicted: Prediction) -> Tensor:
        return predicted.prediction if isinstance(predicted, StudentSample) else super().clean(predicted)

    def cost(self, predicted: Prediction, chunk: Batch, generator: torch.Generator) -> Tensor:
        if not isinstance(predicted, StudentSample):
            return super().cost(predicted, chunk, generator)
        made = predicted.prediction.detach().requires_grad_()
        # The mouth weighs no more than the rest: least of it can be known. The eyes do: the head motion says where they
        # look.
        error = ((made - predicted.target).square() * box_weights(chunk.eyes, made.shape[-1], EYE_WEIGHT)).mean()
        adversarial = adversarial_losses(
            self.discriminator, made, chunk.latents, discriminator_conditions(chunk), generator
        )
        (by_error,), (by_adversary,) = (torch.autograd.grad(x, made) for x in (error, adversarial.student))
        balance = ADVERSARIAL_WEIGHT * by_error.norm() / by_adversary.norm().clamp(min=1e-8)
        balance = balance * min(1.0, self.progress / ADVERSARIAL_RAMP)
        self.metrics = {
            "sampled": error.item(),
            "adversarial": adversarial.student.item(),
            "discriminator": adversarial.discriminator.item(),
        }
        slope = ((by_error + balance * by_adversary) * predicted.prediction).sum()
        # The value of the squared error with the gradients of all three losses.
        own = adversarial.discriminator
        return error.detach() + slope - slope.detach() + own - own.detach()


def discriminator_conditions(chunk: Batch) -> DiscriminatorConditions:
    """Return what a chunk was made from, as the discriminator sees it."""
    frames = chunk.latents.shape[2]
    speech = chunk.speech
    if speech is not None:
        speech = speech.unfold(1, speech.shape[1] - frames + 1, 1).flatten(2)
    return DiscriminatorConditions(chunk.reference[:, :, 0], chunk.embedding, speech, chunk.camera, chunk.head_motion)


def adapt_stage(teacher: Starcaster, stage: Stage) -> Stage:
    """Return the student's stage; for a teacher without trained temporal attention, and unless it is to be trained now,
    with as many single frames, each of another clip."""
    if stage.teaches_motion or not teacher.unet.has_untrained_motion():
        return stage
    frames = stage.clips * stage.frames * stage.recursion
    return replace(stage, frames=1, clips=frames, motion=False, context=0.0, recursion=1)


def lip_reading_stage(stage: Stage, generator: torch.Generator) -> Stage:
    """Return the stage, or, in LIP_READING of the batches of single frames, one with as many frames in rows: mouths are
    read in motion."""
    if stage.frames > 1 or torch.rand((), generator=generator).item() >= LIP_READING:
        return stage
    return replace(
        stage, frames=LIP_READING_FRAMES, clips=max(1, stage.clips // LIP_READING_FRAMES), kinds=(("temporal", 1.0),)
    )


def new_student(teacher: Starcaster, stage: Stage) -> Starcaster:
    """Return a copy of the teacher whose own settings are the stage's number of `lcm` steps from pure noise, without
    guidance, with context frames only if it learns to use them."""
    student = deepcopy(teacher)
    student.config = replace(
        teacher.config,
        noise=replace(teacher.config.noise, timestep_spacing="trailing"),
        steps=stage.student_steps,
        guidance_scale=1.0,
        guidance_end=1.0,
        scheduler="lcm",
        context_frames=stage.context_frames[0] if stage.context else 0,
    )
    return student
