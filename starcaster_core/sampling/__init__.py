"""From conditions to video: noise schedules, guidance, and the autoregressive loop."""

from .rollout import Chunk, ChunkProgress, Conditions, SamplerSettings, rollout

__all__ = ["Chunk", "ChunkProgress", "Conditions", "SamplerSettings", "rollout"]
