"""Temporal attention, AnimateDiff's way, with the key names of diffusers' `MotionAdapter`.

Every position looks at itself in the other frames of the chunk. Trained on views along a camera path instead of
frames along time, the very same module is the view attention of the paper's third stage.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from .attention_kernels import GatedFeedForward, attend, split_heads
from .layers import SinusoidalPositionalEmbedding
from .storage import is_compact


class TemporalAttention(nn.Module):
    """Plain self-attention along frames: x [B * h * w, T, C] -> the same shape."""

    def __init__(self, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self._fused: Tensor | None = None

    def fuse(self, device: torch.device) -> None:
        """Lay the three projections side by side in memory, as one matrix, for sampling. They stay what they are.
        Not done to weights in eight bits, nor to those that visit the computing device only now and then."""
        layers = (self.to_q, self.to_k, self.to_v)
        if any(is_compact(layer) or layer.weight.device != device for layer in layers):
            return
        with torch.no_grad():
            self._fused = torch.cat([layer.weight for layer in layers])
            for layer, part in zip(layers, self._fused.chunk(3)):
                layer.weight.data = part

    def unfuse(self) -> None:
        self._fused = None

    def forward(self, x: Tensor) -> Tensor:
        if self._fused is None:
            parts = (to(x) for to in (self.to_q, self.to_k, self.to_v))
        else:
            parts = F.linear(x, self._fused).chunk(3, dim=-1)
        query, key, value = (split_heads(part, self.heads) for part in parts)
        return self.to_out[0](attend(query, key, value))


class TemporalBlock(nn.Module):
    """Two temporal attentions and a feed-forward; frame positions are added before each attention."""

    def __init__(self, dim: int, heads: int, max_frames: int):
        super().__init__()
        self.pos_embed = SinusoidalPositionalEmbedding(dim, max_frames)
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = TemporalAttention(dim, heads)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = TemporalAttention(dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedFeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn1(self.pos_embed(self.norm1(x)))
        x = x + self.attn2(self.pos_embed(self.norm2(x)))
        return x + self.ff(self.norm3(x))


class MotionModule(nn.Module):
    """One module of an AnimateDiff adapter. `proj_out` starts at zero: an untrained module changes nothing."""

    def __init__(self, dim: int, heads: int, groups: int, max_frames: int):
        super().__init__()
        self.norm = nn.GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Linear(dim, dim)
        self.transformer_blocks = nn.ModuleList([TemporalBlock(dim, heads, max_frames)])
        self.proj_out = nn.Linear(dim, dim)
        nn.init.zeros_(self.proj_out.weight)
        nn.init.zeros_(self.proj_out.bias)
        self.silent = False

    def prepare(self, device: torch.device) -> None:
        """Prepare for sampling: fuse projections, and find out whether the module is untrained, hence to be skipped."""
        self.silent = self.is_untrained()
        for attention in self.attentions():
            attention.fuse(device)

    def release(self) -> None:
        self.silent = False
        for attention in self.attentions():
            attention.unfuse()

    def is_untrained(self) -> bool:
        """Whether it still changes nothing. On the meta device there is no telling: no."""
        return not any(x.is_meta or x.float().any() for x in self.proj_out.parameters())

    def attentions(self) -> list[TemporalAttention]:
        return [attention for block in self.transformer_blocks for attention in (block.attn1, block.attn2)]

    def forward(self, x: Tensor, frames: int) -> Tensor:
        """x [B * T, C, h, w] -> the same shape"""
        if self.silent:
            return x
        height, width = x.shape[2:]
        clip = rearrange(x, "(b t) c h w -> b c t h w", t=frames)
        # The group statistics run over time as well, as in AnimateDiff.
        tokens = rearrange(self.norm(clip), "b c t h w -> (b h w) t c")
        tokens = self.proj_in(tokens.contiguous())  # of a view PyTorch would make as many small products as places
        for block in self.transformer_blocks:
            tokens = block(tokens)
        tokens = self.proj_out(tokens)
        out = rearrange(tokens, "(b h w) t c -> (b t) c h w", h=height, w=width)
        return x + out.to(memory_format=torch.channels_last)
