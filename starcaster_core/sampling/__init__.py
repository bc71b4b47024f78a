"""From conditions to video: noise schedules, guidance, and the autoregressive loop."""

from .execution import Execution
from .rollout import Chunk, ChunkProgress, Conditions, SamplerSettings, rollout

__all__ = ["Chunk", "ChunkProgress", "Conditions", "Execution", "SamplerSettings", "rollout"]
