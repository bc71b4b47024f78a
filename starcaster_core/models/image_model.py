"""The image model: a picture of a person from an embedding alone, what Arc2Face is to the paper.

The paper begins with a network that draws faces from an embedding, and makes it one that draws videos. `mini` has no
such network to begin with, so a small one ships beside it: the same UNet without temporal attention, adapters, speech
and camera. In identity-only mode it draws the portrait that the video then has.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from ..presets import ConditioningConfig, UNetConfig
from .attention_cache import cache_condition
from .conditioning import IdentityTokens
from .unet import StarcasterUNet

# How a picture was taken; zeros are what a portrait is. yaw, pitch: in units of 20 degrees. side_light: logarithm (base
# 2) of how much brighter the subject's right cheek is. mouth: how far it is open, in fifths of its width. eyes: by how
# many tenths of their width they are open more than OPEN_EYES. background, beside the head: brightness, in units of 64
# grey levels from middle grey; clutter, logarithm of its standard deviation; colour, its chroma.
ATTRIBUTES = ("yaw", "pitch", "side_light", "mouth", "eyes", "background", "clutter", "colour")
OPEN_EYES = 0.3


class AttributeToken(nn.Module):
    """Attributes of a picture -> one more token for cross-attention. It begins as that of unknown ones."""

    def __init__(self, token_dim: int):
        super().__init__()
        last = nn.Linear(token_dim, token_dim, bias=False)
        nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(nn.Linear(len(ATTRIBUTES), token_dim), nn.SiLU(), last)
        self.unknown = nn.Parameter(torch.zeros(token_dim))

    def forward(self, attributes: Tensor) -> Tensor:
        """attributes [B, len(ATTRIBUTES)], a row of NaN where they are not known -> [B, 1, D]"""
        known = attributes.isfinite().all(dim=1, keepdim=True)
        return (self.unknown + torch.where(known, self.mlp(attributes.nan_to_num()), 0.0))[:, None]


class ImageModel(nn.Module):
    """Predicts the clean latents of a picture from noisy ones, the embedding of who is shown, and how it was taken."""

    def __init__(self, config: UNetConfig, conditioning: ConditioningConfig):
        super().__init__()
        self.unet = StarcasterUNet(config)
        self.identity_tokens = IdentityTokens(conditioning, config.cross_attention_dim)
        self.attribute_token = AttributeToken(config.cross_attention_dim)

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        embedding: Tensor,
        attributes: Tensor,
        unknown: Tensor | None = None,
    ) -> Tensor:
        """Predict clean latents [B, C, 1, h, w] from noisy ones.

        timesteps [B], 0..999. embedding [B, E], of which only the direction counts. attributes [B, len(ATTRIBUTES)],
        NaN where not known. unknown: bool [B], whose embedding is hidden, for guidance.
        """
        tokens = self.identity_tokens(embedding)
        if unknown is not None:
            nobody = self.identity_tokens.unconditional(len(tokens))
            tokens = torch.where(unknown[:, None, None], nobody, tokens)
        tokens = torch.cat([tokens, self.attribute_token(attributes)], dim=1)
        condition = cache_condition(self.unet.cache_identity(tokens))
        return self.unet(latents, timesteps, condition, adapters=False, motion=False)
