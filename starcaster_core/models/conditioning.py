"""From what is known about a clip to tokens for cross-attention: who, what is said, where the camera stands."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..conventions import CAMERA_RADIUS, FOCAL_LENGTH, PRINCIPAL_POINT
from ..presets import ConditioningConfig


class IdentityTokens(nn.Module):
    """A face embedding -> a few tokens, and learned tokens for "nobody in particular" (the guidance's null)."""

    def __init__(self, config: ConditioningConfig, token_dim: int):
        super().__init__()
        self.tokens = config.identity_tokens
        hidden = 4 * token_dim
        self.mlp = nn.Sequential(
            nn.Linear(config.identity_dim, hidden), nn.SiLU(), nn.Linear(hidden, self.tokens * token_dim)
        )
        self.norm = nn.LayerNorm(token_dim)
        self.null = nn.Parameter(torch.randn(self.tokens, token_dim))

    def forward(self, embedding: Tensor) -> Tensor:
        """embedding [B, E], any length -> tokens [B, L, D]. Only the direction counts, as in ArcFace and Arc2Face."""
        direction = F.normalize(embedding, dim=-1) * embedding.shape[-1] ** 0.5
        return self.norm(rearrange(self.mlp(direction), "b (l d) -> b l d", l=self.tokens))

    def unconditional(self, batch: int) -> Tensor:
        return self.null.expand(batch, -1, -1)


class SpeechTokens(nn.Module):
    """Speech features of a frame and its neighbours -> a few tokens for that frame."""

    def __init__(self, config: ConditioningConfig, token_dim: int):
        super().__init__()
        self.tokens, self.window = config.speech_tokens, config.speech_window
        width = config.speech_dim * (2 * self.window + 1)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, config.speech_hidden),
            nn.SiLU(),
            nn.Linear(config.speech_hidden, config.speech_hidden),
            nn.SiLU(),
            nn.Linear(config.speech_hidden, self.tokens * token_dim),
        )
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, features: Tensor) -> Tensor:
        """features [B, T + 2 * window, F], `window` extra frames on either side -> tokens [B, T, L, D]"""
        if self.window:
            features = rearrange(features.unfold(1, 2 * self.window + 1, 1), "b t f w -> b t (w f)")
        return self.norm(rearrange(self.mlp(features), "b t (l d) -> b t l d", l=self.tokens))


class CameraTokens(nn.Module):
    """The 25 numbers of a camera (16 of world_from_cam, 9 of the intrinsics) -> a few tokens for that frame."""

    # The frontal camera of FFHQ/EG3D and the size of departures from it; the network sees (x - frontal) / size.
    FRONTAL = (1, 0, 0, 0, 0, -1, 0, 0, 0, 0, -1, CAMERA_RADIUS, 0, 0, 0, 1)
    FRONTAL += (FOCAL_LENGTH, 0, PRINCIPAL_POINT, 0, FOCAL_LENGTH, PRINCIPAL_POINT, 0, 0, 1)
    SIZE = (1, 1, 1, CAMERA_RADIUS) * 4 + (1,) * 9

    def __init__(self, config: ConditioningConfig, token_dim: int):
        super().__init__()
        self.tokens = config.camera_tokens
        self.register_buffer("frontal", torch.tensor(self.FRONTAL, dtype=torch.float32), persistent=False)
        self.register_buffer("size", torch.tensor(self.SIZE, dtype=torch.float32), persistent=False)
        self.mlp = nn.Sequential(
            nn.Linear(25, config.camera_hidden),
            nn.SiLU(),
            nn.Linear(config.camera_hidden, config.camera_hidden),
            nn.SiLU(),
            nn.Linear(config.camera_hidden, self.tokens * token_dim),
        )
        self.norm = nn.LayerNorm(token_dim)

    def forward(self, vectors: Tensor) -> Tensor:
        """vectors [B, T, 25] -> tokens [B, T, L, D]"""
        return self.norm(
            rearrange(self.mlp((vectors - self.frontal) / self.size), "b t (l d) -> b t l d", l=self.tokens)
        )
