"""Few steps: a student that samples in a handful of steps, without guidance, what its teacher samples in many.

It learns at the few timesteps that it will be asked at, and from two judges: the squared error, as its teacher did, and an
adversary, to whom what it makes is to look true. The error alone would teach it to blur what it cannot know yet, and in a
few steps there is no time to make up for that (as in Adversarial Diffusion Distillation, Sauer et al. 2023, with the clip
itself in place of the teacher's guess). Its teacher is the weights it begins with. Why not by distillation:
docs/decisions/0010. It is a stage of training like the others (`Stage.student_steps`).
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor

from ..models.starcaster import Starcaster
from .adversary import Adversary, Given, adversarial_losses
from .diffusion import Batch, DenoisingLoss, Guess
from .lips import LipLoss
from .recipe import Stage

ADVERSARIAL = {"betas": (0.5, 0.99), "companion_rate": 6.0}  # of the loop: the usual for two that compete
FIRST = 0.25  # what an error costs in what is made of pure noise, where most cannot be known
RAMP = 0.08  # of the stage, in which the adversary's word comes to count


class StudentLoss(DenoisingLoss):
    """Call with a step's batch and generator, as `DenoisingLoss`. The scalar is the squared error; its gradient is, for the
    student, that of the error and of the adversary's verdict in equal shares, and for `adversary`, which is to be trained
    along with it, that of its own loss."""

    def __init__(self, student: Starcaster, stage: Stage, lips: LipLoss | None = None):
        super().__init__(student, stage, lips)
        config = student.config
        heard = (2 * config.conditioning.speech_window + 1) * config.conditioning.speech_dim
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)  # the same in every process
            self.adversary = Adversary(
                config.unet.in_channels, heard, config.conditioning.identity_dim, side=config.latent_size
            )
        self.adversary.to(student.device, memory_format=torch.channels_last)
        total, steps = config.noise.num_train_timesteps, stage.student_steps
        self.timesteps = torch.tensor([total * left // steps - 1 for left in range(steps, 0, -1)])
        self.notes: dict[str, float] = {}

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        loss, numbers = super().__call__(batch, generator)
        return loss, numbers | self.notes

    def draw_timesteps(self, count: int, generator: torch.Generator, last: int) -> Tensor:
        """Out of those of sampling"""
        low_enough = self.timesteps[self.timesteps < last]
        return low_enough[torch.randint(len(low_enough), (count,), generator=generator)]

    def noise_weights(self, timesteps: Tensor) -> Tensor:
        weights = torch.where(timesteps == self.timesteps[0].item(), FIRST, 1.0)
        return weights.reshape(-1, 1, 1, 1, 1)

    def cost(self, guess: Guess, chunk: Batch, generator: torch.Generator) -> Tensor:
        clean = self.clean(guess)
        made = clean.detach().requires_grad_()
        error = self.error(guess._replace(prediction=made, target=chunk.latents), chunk).flatten(1).mean(dim=1)
        verdict = adversarial_losses(self.adversary, made, chunk.latents, given(chunk), generator)
        # Little is to be made up where little is wrong: late on the way.
        share = error.detach().sqrt() / error.detach().sqrt().mean()
        pulls = (error.mean(), (share * verdict.student).mean())
        (by_error,), (by_verdict,) = (torch.autograd.grad(pull, made) for pull in pulls)
        balance = by_error.norm() / by_verdict.norm().clamp(min=1e-8) * min(1.0, self.progress / RAMP)
        self.notes = {"fooled": verdict.student.mean().item(), "adversary": verdict.adversary.item()}
        slope = ((by_error + balance * by_verdict) * clean).sum()
        # Worth what the error is, with the gradient of both.
        return error.mean().detach() + slope - slope.detach() + verdict.adversary - verdict.adversary.detach()


def given(chunk: Batch) -> Given:
    """What a chunk was made from, as the adversary is told it"""
    frames = chunk.latents.shape[2]
    speech = chunk.speech
    if speech is not None:
        speech = speech.unfold(1, speech.shape[1] - frames + 1, 1).flatten(2)
    return Given(chunk.reference[:, :, 0], chunk.embedding, speech, chunk.camera)


def one_by_one(stage: Stage) -> Stage:
    """For a model whose temporal attention was never trained: as many frames, each of another clip"""
    return replace(stage, frames=1, clips=stage.clips * stage.frames, motion=False, context=0.0, recursion=1)


def new_student(teacher: Starcaster, steps: int) -> Starcaster:
    """A copy of the teacher whose own settings are so many steps of `lcm` from pure noise, without guidance"""
    student = deepcopy(teacher)
    noise = replace(teacher.config.noise, timestep_spacing="trailing")
    student.config = replace(
        teacher.config, noise=noise, steps=steps, guidance_scale=1.0, guidance_end=1.0, scheduler="lcm"
    )
    return student
