"""Few steps: a student that samples in a handful of steps, without guidance, what its teacher samples in many.

In some of the batches it goes on with its teacher's lesson, at the few timesteps that it will be asked at. In the
others it is trained as it is sampled: from pure noise it goes its own way, step after step, each from the clean latents
it has just made and new noise, as `lcm` samples; somewhere it is stopped, and only the last step learns (as in Self
Forcing, Huang et al. 2025). So it learns to mend its own faults, which its teacher never saw. What it made is held
against the clip, by squared error, and, since nothing on its own way tells it of the clip and it would learn to blur
what it cannot know, judged by an adversary, to whom it is to look true. Its teacher is the weights it begins with. What
else was tried: docs/decisions/0010. It is a stage of training like the others (`Stage.student_steps`).
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
from .diffusion import Batch, DenoisingLoss, Guess, box_weights
from .lips import LipLoss
from .recipe import Stage

ADVERSARIAL = {"betas": (0.5, 0.99), "discriminator_lr_factor": 6.0}  # of the loop: the usual for two that compete
IN_CHUNKS = {
    "discriminator_lr_factor": 2.0
}  # of few clips a step an adversary as fast as that learns nothing but those
OWN_WAY = 0.6  # of the batches
VERDICT = 0.2  # how hard the adversary pulls, in units of the error's pull
EYES = 2.0  # how much heavier an error weighs there
READ, READ_AT_ONCE = 0.2, 16  # of the batches; frames in a row
RAMP = 0.08  # of the stage, in which the adversary's word comes to count


class OwnWay(Guess):
    """What the student made from pure noise, where it was stopped to learn; prediction: clean latents; end: where its
    way led, if it went on"""


class StudentLoss(DenoisingLoss):
    """Call with a step's batch and generator, as `DenoisingLoss`. The scalar is the squared error; on the student's own
    way its gradient is, for the student, that of the error and of the adversary's verdict, and for `discriminator`,
    which is to be trained along with it, that of its own loss."""

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
        self.notes: dict[str, float] = {}

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        self.notes = {"own_way": 0.0, "fooled": 0.0, "adversary": 0.0}
        loss, numbers = super().__call__(batch, generator)
        return loss, numbers | self.notes

    def draw_timesteps(self, count: int, generator: torch.Generator, last: int) -> Tensor:
        """Out of those of sampling"""
        return self.timesteps[torch.randint(len(self.timesteps), (count,), generator=generator)]

    def guess(self, latents: Tensor, condition, generator: torch.Generator, looked_back_at: bool) -> Guess:
        # Sampling looks back at nothing but finished chunks.
        if not looked_back_at and torch.rand((), generator=generator).item() >= OWN_WAY:
            return super().guess(latents, condition, generator, looked_back_at)
        return self.go_own_way(latents, condition, generator, to_the_end=looked_back_at)

    def go_own_way(self, latents: Tensor, condition, generator: torch.Generator, to_the_end: bool = False) -> OwnWay:
        """As the sampler goes, to anywhere, with gradient through the last step; or from there on to the end,
        without."""
        fraction, stage, steps = self.model.config.extensions.shared_noise, self.stage, len(self.timesteps)
        stop = torch.randint(steps, (), generator=generator).item()
        clean, learned = None, None
        for step, timestep in enumerate(self.timesteps if to_the_end else self.timesteps[: stop + 1]):
            noise = draw_noise(latents.shape, fraction, generator, generator).to(latents)
            alpha, sigma = self.scales(timestep)
            x = noise if clean is None else alpha * clean + sigma * noise
            timesteps = timestep.expand(len(x)).to(x.device)
            with torch.set_grad_enabled(step == stop and torch.is_grad_enabled()):
                said = self.model.unet(x, timesteps, condition, motion=stage.motion, adapters=stage.adapters).float()
                clean = predict_clean(said, x, timesteps, self.alphas_cumprod, self.kind)
            if step == stop:
                learned, clean = OwnWay(clean, latents, x, timesteps), clean.detach()
        return learned._replace(end=clean) if to_the_end else learned

    def clean(self, guess: Guess) -> Tensor:
        return guess.prediction if isinstance(guess, OwnWay) else super().clean(guess)

    def cost(self, guess: Guess, chunk: Batch, generator: torch.Generator) -> Tensor:
        if not isinstance(guess, OwnWay):
            return super().cost(guess, chunk, generator)
        made = guess.prediction.detach().requires_grad_()
        # No heavier round the mouth, of which least can be known. The eyes can: it was told where they look.
        error = ((made - chunk.latents).square() * box_weights(chunk.eyes, made.shape[-1], EYES)).mean()
        verdict = adversarial_losses(self.discriminator, made, chunk.latents, given(chunk), generator)
        (by_error,), (by_verdict,) = (torch.autograd.grad(x, made) for x in (error, verdict.student))
        balance = VERDICT * by_error.norm() / by_verdict.norm().clamp(min=1e-8) * min(1.0, self.progress / RAMP)
        self.notes = {
            "own_way": error.item(),
            "fooled": verdict.student.item(),
            "adversary": verdict.discriminator.item(),
        }
        slope = ((by_error + balance * by_verdict) * guess.prediction).sum()
        # Worth what the error is, with the gradient of both.
        return error.detach() + slope - slope.detach() + verdict.discriminator - verdict.discriminator.detach()


def given(chunk: Batch) -> DiscriminatorConditions:
    """What a chunk was made from, as the adversary is told it"""
    frames = chunk.latents.shape[2]
    speech = chunk.speech
    if speech is not None:
        speech = speech.unfold(1, speech.shape[1] - frames + 1, 1).flatten(2)
    return DiscriminatorConditions(chunk.reference[:, :, 0], chunk.embedding, speech, chunk.camera, chunk.head_motion)


def suited_to(teacher: Starcaster, stage: Stage) -> Stage:
    """A student's stage, or, for a model whose temporal attention was never trained, the same with as many frames one
    by one, each of another clip"""
    if not all(module.is_untrained() for module in teacher.unet.motion_modules()):
        return stage
    frames = stage.clips * stage.frames * stage.recursion
    return replace(stage, frames=1, clips=frames, motion=False, context=0.0, recursion=1)


def for_the_reader(stage: Stage, generator: torch.Generator) -> Stage:
    """The same, or, in READ of the batches where frames come one by one, as many frames in rows: mouths are read in
    motion"""
    if stage.frames > 1 or torch.rand((), generator=generator).item() >= READ:
        return stage
    return replace(stage, frames=READ_AT_ONCE, clips=max(1, stage.clips // READ_AT_ONCE), kinds=(("temporal", 1.0),))


def new_student(teacher: Starcaster, stage: Stage) -> Starcaster:
    """A copy of the teacher whose own settings are the stage's number of steps of `lcm` from pure noise, without
    guidance, looking back at earlier frames only if it learns to"""
    student = deepcopy(teacher)
    student.config = replace(
        teacher.config,
        noise=replace(teacher.config.noise, timestep_spacing="trailing"),
        steps=stage.student_steps,
        guidance_scale=1.0,
        guidance_end=1.0,
        scheduler="lcm",
        context_frames=teacher.config.context_frames if stage.context else 0,
    )
    return student
