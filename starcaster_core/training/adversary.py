"""An adversary for the few-step student: a small network that tells true latents from made ones.

It sees every frame beside the portrait, knows what the frame was made from, and, where there are several, looks at how one
follows the other. `adversarial_losses` are its own loss and the student's.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.func import functional_call

from ..head_motion import CHANNELS

NOISE = 0.1  # how far from a sample the adversary's slope is felt for
SLOPE = 0.3  # what a steep adversary costs
LEAK = 0.2


class Given(NamedTuple):
    """portrait [B, C, h, w], zeros where it was not shown; embedding [B, E]; speech [B, T, S], a window a frame, or None;
    camera [B, T, 25] or None; head_motion [B, T, K]"""

    portrait: Tensor
    embedding: Tensor
    speech: Tensor | None
    camera: Tensor | None
    head_motion: Tensor

    def repeated(self, times: int) -> Given:
        return Given(*(x if x is None else x.repeat(times, *[1] * (x.ndim - 1)) for x in self))


class Block(nn.Module):
    """Two convolutions round which the input goes on; `stride` 2 halves the side."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1):
        super().__init__()
        self.first = nn.Conv2d(channels_in, channels_out, 3, padding=1)
        self.second = nn.Conv2d(channels_out, channels_out, 3, stride=stride, padding=1)
        self.past = nn.Conv2d(channels_in, channels_out, 1)
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        past = self.past(F.avg_pool2d(x, self.stride))
        x = F.leaky_relu(self.first(F.leaky_relu(x, LEAK)), LEAK)
        return (past + self.second(x)) / 2**0.5


class Adversary(nn.Module):
    """latents [B, C, T, h, w], and what they were made from -> how true they look, logits [B, places].

    h and w are multiples of 4; `side` is what they are in training."""

    def __init__(self, channels: int, speech_dim: int, identity_dim: int, side: int = 16, width: int = 48):
        super().__init__()
        wide = 2 * width
        self.enter = nn.Conv2d(2 * channels, width, 3, padding=1)
        self.down = nn.Sequential(Block(width, width), Block(width, wide, stride=2))
        told = (identity_dim, speech_dim, 25, len(CHANNELS))
        self.who, self.heard, self.seen, self.moved = (nn.Linear(n, 2 * wide) for n in told)
        self.condition = nn.Sequential(nn.SiLU(), nn.Linear(2 * wide, 2 * wide))
        self.fine = Block(wide, wide)
        self.coarse = nn.Sequential(Block(wide, wide, stride=2), Block(wide, wide))
        self.judge_fine, self.judge_coarse = nn.Conv2d(wide, 1, 1), nn.Conv2d(wide, 1, 1)
        self.watch = nn.Linear(wide * (side // 4) ** 2, wide)
        self.judge_motion = nn.Sequential(
            nn.Conv1d(wide, wide, 3, padding=1), nn.LeakyReLU(LEAK), nn.Conv1d(wide, 1, 3, padding=1)
        )

    def forward(self, latents: Tensor, given: Given) -> Tensor:
        batch, _, frames = latents.shape[:3]
        pictures = rearrange(latents, "b c t h w -> (b t) c h w")
        portraits = repeat(given.portrait, "b c h w -> (b t) c h w", t=frames)
        x = torch.cat([pictures, portraits], dim=1).contiguous(memory_format=torch.channels_last)
        x = self.down(self.enter(x))
        scale, shift = rearrange(self.conditions(given), "b t (two c) -> two (b t) c 1 1", two=2)
        fine = F.leaky_relu(self.fine(x * (1 + scale) + shift), LEAK)
        coarse = F.leaky_relu(self.coarse(fine), LEAK)
        judged = [rearrange(self.judge_fine(fine), "(b t) 1 h w -> b (t h w)", b=batch)]
        judged.append(rearrange(self.judge_coarse(coarse), "(b t) 1 h w -> b (t h w)", b=batch))
        if frames > 1:
            film = rearrange(self.watch(coarse.flatten(1)), "(b t) c -> b c t", b=batch)
            judged.append(self.judge_motion(film)[:, 0])
        return torch.cat(judged, dim=1).float()

    def conditions(self, given: Given) -> Tensor:
        """[B, T, 2 * channels]"""
        known = self.who(F.normalize(given.embedding, dim=-1))[:, None] + self.moved(given.head_motion)
        if given.speech is not None:
            known = known + self.heard(F.layer_norm(given.speech, given.speech.shape[-1:]))
        if given.camera is not None:
            known = known + self.seen(given.camera)
        return self.condition(known)


class AdversarialLosses(NamedTuple):
    """Scalars. student: gradients flow to what made the latents alone; adversary: to the adversary alone."""

    student: Tensor
    adversary: Tensor


def adversarial_losses(
    adversary: Adversary, made: Tensor, true: Tensor, given: Given, generator: torch.Generator
) -> AdversarialLosses:
    """made, true [B, C, T, h, w]: of the same clips and moments, and compared with each other (relativistic pairing,
    Jolicoeur-Martineau 2019). How steep the adversary is at either costs (R1 and R2, Huang et al. 2024), felt by a small
    step at random instead of a second derivative (Lin et al. 2025)."""
    nudges = [NOISE * torch.randn(made.shape, generator=generator).to(made) for _ in range(2)]
    looked_at = torch.cat([true, made.detach(), true + nudges[0], made.detach() + nudges[1]])
    on_true, on_made, near_true, near_made = adversary(looked_at, given.repeated(4)).chunk(4)
    slope = (near_true - on_true).square().mean() + (near_made - on_made).square().mean()

    fixed = {name: p.detach() for name, p in adversary.named_parameters()}
    student = F.softplus(on_true.detach() - functional_call(adversary, fixed, (made, given))).mean()
    return AdversarialLosses(student, F.softplus(on_made - on_true).mean() + SLOPE / NOISE**2 * slope)
