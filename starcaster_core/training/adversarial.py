"""The adversarial losses of the few-step student and its discriminator."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ..models.discriminator import Discriminator, DiscriminatorConditions

PENALTY_NOISE = 0.1  # standard deviation of the perturbation in the gradient penalty
PENALTY_WEIGHT = 0.3


class AdversarialLosses(NamedTuple):
    """Scalars. student: has gradients for the generated latents only; discriminator: for the discriminator only."""

    student: Tensor
    discriminator: Tensor


def adversarial_losses(
    discriminator: Discriminator,
    generated: Tensor,
    real: Tensor,
    conditions: DiscriminatorConditions,
    generator: torch.Generator,
) -> AdversarialLosses:
    """Compute the relativistic losses (Jolicoeur-Martineau 2019) of paired latents.

    generated, real: [B, C, T, h, w], of the same clips and frames, compared position by position. The discriminator
    pays a gradient penalty on both (R1 and R2, Huang et al. 2024), approximated by the change of its logits under a
    small random perturbation instead of a second derivative (Lin et al. 2025).
    """
    noise = [PENALTY_NOISE * torch.randn(generated.shape, generator=generator).to(generated) for _ in range(2)]
    detached = generated.detach()
    inputs = torch.cat([real, detached, real + noise[0], detached + noise[1]])
    on_real, on_generated, near_real, near_generated = discriminator(inputs, conditions.repeated(4)).chunk(4)
    penalty = (near_real - on_real).square().mean() + (near_generated - on_generated).square().mean()

    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    student = F.softplus(on_real.detach() - functional_call(discriminator, frozen, (generated, conditions))).mean()
    relativistic = F.softplus(on_generated - on_real).mean()
    return AdversarialLosses(student, relativistic + PENALTY_WEIGHT / PENALTY_NOISE**2 * penalty)
