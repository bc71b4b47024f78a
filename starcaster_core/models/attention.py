"""The core attention block of the paper's figure, in two dimensions.

A block is [extended self-attention + LoRA] -> [identity + audio + camera cross-attention, one query] -> feed-forward.
Module and parameter names are diffusers' (`attn1.to_q`, `ff.net.0.proj`, ...), so that public weights load as they
are; what the paper adds lives under names of its own (`attn1.lora`, `attn2.audio`, `attn2.camera`).

Keys and values of everything that is not the noisy frame itself are computed once, by `cache_*`, and handed in.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor, nn

from .norm import GroupNorm

KeyValue = tuple[Tensor, Tensor]  # each [B, heads, L, C / heads]


@dataclass
class BlockCache:
    """What one transformer block attends to besides its own frame. `None` switches a source off.

    identity: keys and values [B, heads, L, d], the same for every frame.
    audio, camera: [B * T, heads, L, d], tokens of each frame's own.
    bank: [B, heads, R * h * w, d], the reference and context frames.
    """

    identity: KeyValue | None = None
    audio: KeyValue | None = None
    camera: KeyValue | None = None
    bank: KeyValue | None = None


@dataclass
class ConditionCache:
    """One `BlockCache` a transformer block, in the order the UNet runs them, and how strongly the streams speak.

    reference: the portrait from `StarcasterUNet.cache_reference`, None without one: its features [B, C0, h, w] and its
    latents [B, C, h, w].
    """

    blocks: list[BlockCache] = field(default_factory=list)
    reference: tuple[Tensor, Tensor] | None = None
    lambda_audio: float = 1.0
    lambda_camera: float = 1.0


def split_heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V on [B, heads, L, d], heads merged again: [B, L, C]."""
    if training_on_cpu_in_bfloat16(query) and key.shape[2] <= 256:
        weights = (query * query.shape[-1] ** -0.5 @ key.transpose(-1, -2)).softmax(dim=-1)
        out = weights.to(value.dtype) @ value
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    return rearrange(out, "b h l d -> b l (h d)")


def training_on_cpu_in_bfloat16(x: Tensor) -> bool:
    # There, the fused backward pass takes up to ten times as long as two plain matrix products over few keys.
    return x.requires_grad and x.device.type == "cpu" and x.dtype == torch.bfloat16


class LoRA(nn.Module):
    """A low-rank addition to a frozen linear map: y += up(down(x)). Starts as nothing, since `up` starts at zero."""

    def __init__(self, in_features: int, out_features: int, rank: int):
        super().__init__()
        self.down = nn.Linear(in_features, rank, bias=False)
        self.up = nn.Linear(rank, out_features, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))

    def delta(self) -> Tensor:
        """[out, in]: what is added to the frozen weight when the two are merged."""
        return self.up.weight @ self.down.weight


class ExtendedSelfAttention(nn.Module):
    """Q from the frame; K and V from the frame and from the bank of reference and context frames.

    With `adapters=False` it is the frozen base layer, which is how the reference pass uses it.
    """

    def __init__(self, dim: int, heads: int, lora_rank: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])  # [1] stands where diffusers has a dropout
        names = ("to_q", "to_k", "to_v", "to_out") if lora_rank else ()
        self.lora = nn.ModuleDict({name: LoRA(dim, dim, lora_rank) for name in names})
        self._merged: dict[str, Tensor] | None = None

    def project(self, name: str, x: Tensor, adapters: bool) -> Tensor:
        layer = self.to_out[0] if name == "to_out" else getattr(self, name)
        if not adapters or not self.lora:
            return layer(x)
        if self._merged is not None:
            return F.linear(x, self._merged[name], layer.bias)
        return layer(x) + self.lora[name](x)

    def merge(self) -> None:
        """Keep base + LoRA as one weight beside the base ones, for sampling. Call again after changing weights."""
        with torch.no_grad():
            self._merged = {
                name: (self.to_out[0] if name == "to_out" else getattr(self, name)).weight + lora.delta()
                for name, lora in self.lora.items()
            }

    def unmerge(self) -> None:
        self._merged = None

    def cache_bank(self, bank: Tensor) -> KeyValue:
        """bank [B, R * h * w, C], the block's normed inputs for reference and context frames -> its K, V."""
        key, value = self.project("to_k", bank, True), self.project("to_v", bank, True)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, x: Tensor, frames: int, bank: KeyValue | None = None, adapters: bool = True) -> Tensor:
        """x [B * T, h * w, C] -> the same shape. `bank` is shared by the T frames of each clip."""
        query, key, value = (
            split_heads(self.project(name, x, adapters), self.heads) for name in ("to_q", "to_k", "to_v")
        )
        if bank is not None:
            key, value = (
                torch.cat([own, shared.repeat_interleave(frames, dim=0)], dim=2)
                for own, shared in zip((key, value), bank)
            )
        return self.project("to_out", attend(query, key, value), adapters)


class TokenProjection(nn.Module):
    """K and V of one extra token stream. V starts at zero, so that a new stream begins by saying nothing."""

    def __init__(self, token_dim: int, dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_k = nn.Linear(token_dim, dim, bias=False)
        self.to_v = nn.Linear(token_dim, dim, bias=False)
        nn.init.zeros_(self.to_v.weight)

    def forward(self, tokens: Tensor) -> KeyValue:
        return split_heads(self.to_k(tokens), self.heads), split_heads(self.to_v(tokens), self.heads)


class DecoupledCrossAttention(nn.Module):
    """One query, three sources: z = A(Q, K_id, V_id) + lambda_a A(Q, K_a, V_a) + lambda_c A(Q, K_c, V_c)."""

    def __init__(self, dim: int, token_dim: int, heads: int):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(token_dim, dim, bias=False)
        self.to_v = nn.Linear(token_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        self.audio = TokenProjection(token_dim, dim, heads)
        self.camera = TokenProjection(token_dim, dim, heads)

    def cache_identity(self, tokens: Tensor) -> KeyValue:
        """tokens [B, L, D] -> K, V [B, heads, L, d]"""
        return split_heads(self.to_k(tokens), self.heads), split_heads(self.to_v(tokens), self.heads)

    def forward(self, x: Tensor, cache: BlockCache, lambda_audio: float, lambda_camera: float) -> Tensor:
        """x [B * T, h * w, C] -> the same shape"""
        query = split_heads(self.to_q(x), self.heads)
        z = self.attend_identity(query, cache.identity)
        if cache.audio is not None and lambda_audio != 0:
            z = z + lambda_audio * attend(query, *cache.audio)
        if cache.camera is not None and lambda_camera != 0:
            z = z + lambda_camera * attend(query, *cache.camera)
        return self.to_out[0](z)

    def attend_identity(self, query: Tensor, identity: KeyValue) -> Tensor:
        # All frames of a clip share these few keys, so the frames are laid end to end instead of copying the keys.
        clips = identity[0].shape[0]
        frames, _, length, _ = query.shape
        query = rearrange(query, "(b t) h l d -> b h (t l) d", b=clips)
        return attend(query, *identity).reshape(frames, length, -1)


class TransformerBlock(nn.Module):
    """norm -> self-attention, norm -> cross-attention, norm -> feed-forward, each added to what came in."""

    def __init__(self, dim: int, token_dim: int, heads: int, lora_rank: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = ExtendedSelfAttention(dim, heads, lora_rank)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = DecoupledCrossAttention(dim, token_dim, heads)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = FeedForward(dim, activation_fn="geglu")

    def forward(
        self,
        x: Tensor,
        frames: int,
        cache: BlockCache,
        lambda_audio: float = 0.0,
        lambda_camera: float = 0.0,
        adapters: bool = True,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B * T, h * w, C]. With `record`, the normed input is appended to it: that is what a bank is made of."""
        normed = self.norm1(x)
        if record is not None:
            record.append(normed)
        x = x + self.attn1(normed, frames, cache.bank, adapters)
        x = x + self.attn2(self.norm2(x), cache, lambda_audio, lambda_camera)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """diffusers' `Transformer2DModel` with the block above: 1x1 convolution in, one block, 1x1 convolution out."""

    def __init__(self, dim: int, token_dim: int, heads: int, groups: int, lora_rank: int):
        super().__init__()
        self.norm = GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(dim, token_dim, heads, lora_rank)])
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """x [B * T, C, h, w] -> the same shape; other arguments as in `TransformerBlock.forward`."""
        height = x.shape[2]
        tokens = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        for block in self.transformer_blocks:
            tokens = block(tokens, *args, **kwargs)
        return x + self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))
