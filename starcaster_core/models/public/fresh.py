"""Initial values for what no file brings: they change nothing until trained, and are the same every time.

Their own modules draw them: an adapter ends in zeros, a new stream's V is zero, a motion module's `proj_out` is zero,
so the assembled network gives what the public weights alone would give.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from functools import lru_cache

import torch
from torch import nn

from ..attention import LoRA, TokenProjection
from ..conditioning import CameraTokens, SpeechTokens
from ..layers import SinusoidalPositionalEmbedding
from ..motion import MotionModule
from .weights import Lazy


def fresh_weights(model: nn.Module, names: Iterable[str]) -> dict[str, Lazy]:
    """model: a `Starcaster` on the meta device. names: weights of its that are wanted."""
    makers = {path: maker for path, module in model.named_modules() if (maker := maker_of(module, model.config))}

    @lru_cache(maxsize=2)  # they are asked for module after module, now and then with frame positions in between
    def made(path: str) -> dict[str, torch.Tensor]:
        seed = int.from_bytes(hashlib.sha256(path.encode()).digest()[:7], "little")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return makers[path]().state_dict()

    shapes = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    lazies = {}
    for name in names:
        path = max((path for path in makers if name.startswith(path + ".")), key=len)
        key = name.removeprefix(path + ".")
        lazies[name] = Lazy(shapes[name], lambda path=path, key=key: made(path)[key])
    return lazies


def maker_of(module: nn.Module, config) -> Callable[[], nn.Module] | None:
    """How to make a module like this one, with its initial weights; None for those that come from files."""
    token_dim = config.unet.cross_attention_dim
    if isinstance(module, LoRA):
        return lambda: LoRA(module.down.in_features, module.up.out_features, module.down.out_features)
    if isinstance(module, TokenProjection):
        return lambda: TokenProjection(module.to_k.in_features, module.to_k.out_features, module.heads)
    if isinstance(module, SpeechTokens):
        return lambda: SpeechTokens(config.conditioning, token_dim)
    if isinstance(module, CameraTokens):
        return lambda: CameraTokens(config.conditioning, token_dim)
    if isinstance(module, MotionModule):
        heads, groups = module.transformer_blocks[0].attn1.heads, module.norm.num_groups
        frames = config.unet.motion_max_seq_length
        return lambda: MotionModule(module.proj_in.out_features, heads, groups, frames)
    if isinstance(module, SinusoidalPositionalEmbedding):
        return lambda: SinusoidalPositionalEmbedding(module.pe.shape[-1], module.pe.shape[-2])
    return None
