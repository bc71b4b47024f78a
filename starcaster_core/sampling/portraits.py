"""Portraits from embeddings alone, by a model's image model: what identity-only videos begin with."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..models.image_model import ATTRIBUTES
from .samplers import make_sampler
from .schedules import seeded_generator

STEPS, GUIDANCE_SCALE = 25, 2.5


@torch.no_grad()
def draw_portraits(
    model,
    embedding: Tensor,
    seed: int,
    steps: int = STEPS,
    guidance_scale: float = GUIDANCE_SCALE,
    should_stop: Callable[[], bool] = lambda: False,
) -> Tensor | None:
    """Draw a portrait of each embedding [B, E]: clean latents [B, C, 1, h, w], float32, all from one noise.

    They are asked for as portraits are taken: from the front, evenly lit, lips closed and eyes open. Guidance (Ho &
    Salimans 2022): predictions lie `guidance_scale` times as far from nobody's as the person's own.
    None when told to stop.
    """
    config, network = model.config, model.image_model
    count, shape = len(embedding), (1, config.unet.in_channels, 1, config.latent_size, config.latent_size)
    sampler = make_sampler("dpmpp", config.noise, steps)
    generator = seeded_generator(seed, 0, "portrait")
    noise = torch.randn(shape, generator=generator).expand(count, *shape[1:])
    latents = noise.to(model.device) * sampler.init_noise_sigma
    twice = model.like_weights(embedding).repeat(2, 1)
    unknown = torch.arange(2 * count, device=model.device) >= count
    attributes = torch.zeros(2 * count, len(ATTRIBUTES)).to(twice)
    for index, timestep in enumerate(sampler.timesteps):
        if should_stop():
            return None
        scaled = model.like_weights(sampler.scale_input(latents, timestep)).repeat(2, 1, 1, 1, 1)
        timesteps = timestep.expand(2 * count).to(model.device)
        person, nobody = network(scaled, timesteps, twice, attributes, unknown).float().chunk(2)
        prediction = nobody + guidance_scale * (person - nobody)
        latents = sampler.step(index, prediction, latents, generator, lambda: noise)
    return latents
