"""Identity-only videos: who is shown is known by an embedding alone, so the model draws a portrait first.

With the paper's network the first chunk invents the look. A model with an image model (`models/image_model.py`)
draws a portrait instead, once, in many steps; from then on the video is like any other, and frames come out of that
portrait.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from .sampling.settings import Conditions, SamplerSettings
from .types import Identity

if TYPE_CHECKING:
    from .models.starcaster import Starcaster

AnyConditions = TypeVar("AnyConditions", bound=Conditions)

SIDE = 512  # of a drawn portrait, pixels
# Where mouth and eyes lie in an aligned portrait, picture sides: means of photos, for a face that is not found.
REGIONS = ((0.5, 0.71), (0.38, 0.465), (0.62, 0.465))


def with_drawn_portrait(
    model: Starcaster,
    conditions: AnyConditions,
    settings: SamplerSettings,
    should_stop: Callable[[], bool] | None = None,
) -> tuple[AnyConditions, SamplerSettings]:
    """Give the person of an identity-only video a portrait, which the model draws from the embedding alone.

    Returns the conditions with that portrait, and settings that show it to the network; both as they are where there is
    a photo that may be seen, the model cannot draw a portrait (it has no image model), or it is told to stop.
    """
    has_portrait = settings.use_reference and conditions.identity.portrait is not None
    if has_portrait or model.image_model is None:
        return conditions, settings
    identity = draw_identity(model, conditions.identity, settings.seed, should_stop or (lambda: False))
    if identity is None:
        return conditions, settings
    return replace(conditions, identity=identity), replace(settings, use_reference=True)


def draw_identity(
    model, identity: Identity, seed: int, should_stop: Callable[[], bool] = lambda: False
) -> Identity | None:
    """Return the identity with a portrait, uint8 [SIDE, SIDE, 3], that is drawn from its embedding alone; None when
    told to stop. The portrait is the whole photo, too."""
    import torch
    import torch.nn.functional as F

    from .identity.identity import look_at
    from .identity.landmarks import find_landmarks
    from .sampling.portraits import draw_portraits

    embedding = torch.from_numpy(np.asarray(identity.embedding, np.float32))[None]
    latents = draw_portraits(model, embedding, seed, should_stop=should_stop)
    if latents is None:
        return None
    small = model.decode_frames(latents).permute(0, 3, 1, 2)
    large = F.interpolate(small, (SIDE, SIDE), mode="bicubic", antialias=True).clamp(0, 1)
    portrait = (large[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    geometry = {"yaw": 0.0, "pitch": 0.0, "regions": np.array(REGIONS, np.float32)}
    geometry |= look_at(find_landmarks(portrait), np.eye(3), SIDE)
    return replace(identity, portrait=portrait, photo=portrait, crop=np.eye(3), warnings=(), **geometry)
