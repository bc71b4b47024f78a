"""The attention block of the paper's figure, in two dimensions.

A block is [extended self-attention + LoRA] -> [identity + audio + camera cross-attention, one query] -> feed-forward.
Module and parameter names are diffusers' (`attn1.to_q`, `ff.net.0.proj`, ...), so that public weights load as they
are; what the paper adds lives under names of its own (`attn1.lora`, `attn2.audio`, `attn2.camera`).

Keys and values of everything that is not the noisy frame itself are computed once, by `cache_*`, and handed in
(`attention_cache.py`). How attention is computed is in `attention_kernels.py`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import Tensor, nn

from .attention_cache import BlockCache, FoldedTokens
from .attention_kernels import GatedFeedForward, KeyValue, attend, attend_apart, concat, per_frame, split_heads
from .norm import GroupNorm
from .storage import weight_of


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

    def delta(self, device: torch.device | None = None) -> Tensor:
        """[out, in]: what is added to the frozen weight when the two are merged. device: where to, if elsewhere."""
        return self.up.weight.to(device) @ self.down.weight.to(device)


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
        self._merged: dict[str, tuple[Tensor, Tensor | None]] | None = None  # weights and biases

    def project(self, name: str, x: Tensor, adapters: bool) -> Tensor:
        layer = self.to_out[0] if name == "to_out" else getattr(self, name)
        if not adapters or not self.lora:
            return layer(x)
        if self._merged is not None:
            return F.linear(x, *self._merged[name])
        return layer(x) + self.lora[name](x)

    def merge(self, device: torch.device | None = None) -> None:
        """Keep base + LoRA as one weight beside the base ones, for sampling: Q, K and V in one matrix, and the output.
        Call again after changing weights. device: where to keep them, if not where the base ones are."""
        layers = {name: self.to_out[0] if name == "to_out" else getattr(self, name) for name in self.lora}
        with torch.no_grad():
            merged = {name: weight_of(layer, device) + self.lora[name].delta(device) for name, layer in layers.items()}
            if merged:
                joint = torch.cat([merged[name] for name in ("to_q", "to_k", "to_v")])
                merged |= {"qkv": joint, **dict(zip(("to_q", "to_k", "to_v"), joint.chunk(3)))}
                self._merged = {name: (weight, None) for name, weight in merged.items()}
                self._merged["to_out"] = merged["to_out"], self.to_out[0].bias.to(device)

    def unmerge(self) -> None:
        self._merged = None

    def project_frame(self, x: Tensor, adapters: bool) -> tuple[Tensor, Tensor, Tensor]:
        """x [B * T, h * w, C] -> Q, K, V, each [B * T, heads, h * w, d]"""
        if adapters and self._merged is not None:
            parts = F.linear(x, *self._merged["qkv"]).chunk(3, dim=-1)
        else:
            parts = (self.project(name, x, adapters) for name in ("to_q", "to_k", "to_v"))
        return tuple(split_heads(part, self.heads) for part in parts)

    def cache_bank(self, bank: Tensor) -> KeyValue:
        """bank [B, R * h * w, C], the block's normed inputs for reference and context frames -> its K, V."""
        key, value = self.project("to_k", bank, True), self.project("to_v", bank, True)
        return split_heads(key, self.heads), split_heads(value, self.heads)

    def forward(self, x: Tensor, caches: Sequence[BlockCache], adapters: bool = True) -> Tensor:
        """x [B * T, h * w, C] -> the same shape. A bank is shared by the T frames of each clip.

        caches: one for each equal part of the batch.
        """
        parts = (part.chunk(len(caches)) for part in self.project_frame(x, adapters))
        attended = [self.attend_bank(*part, cache) for *part, cache in zip(*parts, caches)]
        return self.project("to_out", concat(attended), adapters)

    @staticmethod
    def attend_bank(query: Tensor, key: Tensor, value: Tensor, cache: BlockCache) -> Tensor:
        """Attend to the frame itself and to the bank, side by side."""
        if cache.bank is None:
            return attend(query, key, value)
        if cache.splits_bank:
            return attend_apart(query, (key, value), cache.bank)
        return attend(query, *cache.with_bank(key, value))


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

    def __init__(self, dim: int, token_dim: int, heads: int, audio_and_camera: bool = True):
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(token_dim, dim, bias=False)
        self.to_v = nn.Linear(token_dim, dim, bias=False)
        self.to_out = nn.ModuleList([nn.Linear(dim, dim), nn.Identity()])
        if audio_and_camera:
            self.audio = TokenProjection(token_dim, dim, heads)
            self.camera = TokenProjection(token_dim, dim, heads)

    def cache_identity(self, tokens: Tensor) -> KeyValue:
        """tokens [B, L, D] -> K, V [B, heads, L, d]"""
        return split_heads(self.to_k(tokens), self.heads), split_heads(self.to_v(tokens), self.heads)

    def forward(self, x: Tensor, caches: Sequence[BlockCache], lambdas: Sequence[tuple[float, float]]) -> Tensor:
        """x [B * T, h * w, C] -> the same shape. caches and (lambda_a, lambda_c): one for each equal part of the
        batch."""
        if self.is_worth_folding(x, caches):
            return concat([self.attend_folded(*part) for part in zip(x.chunk(len(caches)), caches, lambdas)])
        queries = split_heads(self.to_q(x), self.heads).chunk(len(caches))
        return self.to_out[0](concat([self.attend_sources(*part) for part in zip(queries, caches, lambdas)]))

    def attend_sources(self, query: Tensor, cache: BlockCache, lambdas: tuple[float, float]) -> Tensor:
        """query [B * T, heads, h * w, d] -> z [B * T, h * w, C], before the output projection"""
        assert cache.identity is not None
        z = self.attend_identity(query, cache.identity)
        for stream, weight in zip((cache.audio, cache.camera), lambdas):
            if stream is not None and weight != 0:
                z = z + weight * attend(query, *stream)
        return z

    # Quicker on CPUs: with few tokens, the projections go into keys and values once a chunk.

    def is_worth_folding(self, x: Tensor, caches: Sequence[BlockCache]) -> bool:
        """Say whether folding pays: sampling on a CPU, with fewer keys, of all heads together, than channels."""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return False
        sources = ((cache.identity, cache.audio, cache.camera) for cache in caches)
        tokens = max(sum(pair[0].shape[2] for pair in each if pair is not None) for each in sources)
        return self.heads * tokens < x.shape[-1]

    def attend_folded(self, x: Tensor, cache: BlockCache, lambdas: tuple[float, float]) -> Tensor:
        """Return what `forward` gives for one condition, from folded keys and values.

        The softmaxes run along the positions in memory, which are many, and not along the keys, which are few.
        """
        if cache.folded is None or cache.folded.lambdas != lambdas:
            cache.folded = self.fold_tokens(cache, lambdas, len(x))
        keys, values, sizes, _ = cache.folded
        scores = keys @ x.mT
        weights = [
            rearrange(each, "b (h l) q -> b h l q", h=self.heads).softmax(dim=2).flatten(1, 2)
            for each in scores.split(sizes, 1)
        ]
        return torch.baddbmm(self.to_out[0].bias, torch.cat(weights, dim=1).mT, values)

    def fold_tokens(self, cache: BlockCache, lambdas: tuple[float, float], frames: int) -> FoldedTokens:
        """Fold the query projection into the keys and the output projection into the values, once a chunk:

        softmax(x W_q K^T / sqrt(d)) V W_o = softmax(x [W_q K^T / sqrt(d)]) [V W_o].
        """
        to_q = rearrange(weight_of(self.to_q), "(h d) c -> h d c", h=self.heads).float()
        to_out = rearrange(weight_of(self.to_out[0]), "c (h d) -> h d c", h=self.heads).float()
        scale = to_q.shape[1] ** -0.5
        keys, values = [], []
        for source, weight in zip((cache.identity, cache.audio, cache.camera), (1.0, *lambdas)):
            if source is None or weight == 0:
                continue
            for folded, tokens, projection, factor in zip((keys, values), source, (to_q, to_out), (scale, weight)):
                product = einsum(tokens.float(), projection, "b h l d, h d c -> b h l c").flatten(1, 2) * factor
                folded.append(per_frame(product.to(tokens.dtype), frames // len(product)))
        return FoldedTokens(torch.cat(keys, dim=1), torch.cat(values, dim=1), [key.shape[1] for key in keys], lambdas)

    def attend_identity(self, query: Tensor, identity: KeyValue) -> Tensor:
        # All frames of a clip share these few keys, so the frames are laid end to end instead of copying the keys.
        clips = identity[0].shape[0]
        frames, _, length, _ = query.shape
        query = rearrange(query, "(b t) h l d -> b h (t l) d", b=clips)
        return attend(query, *identity).reshape(frames, length, -1)


class TransformerBlock(nn.Module):
    """norm -> self-attention, norm -> cross-attention, norm -> feed-forward, each added to what came in."""

    def __init__(self, dim: int, token_dim: int, heads: int, lora_rank: int, audio_and_camera: bool = True):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = ExtendedSelfAttention(dim, heads, lora_rank)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = DecoupledCrossAttention(dim, token_dim, heads, audio_and_camera)
        self.norm3 = nn.LayerNorm(dim)
        self.ff = GatedFeedForward(dim)

    def forward(
        self,
        x: Tensor,
        caches: Sequence[BlockCache],
        lambdas: Sequence[tuple[float, float]],
        adapters: bool = True,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """x [B * T, h * w, C]. With `record`, the normed input is appended to it: that is what a bank is made of.

        caches, lambdas (lambda_audio, lambda_camera): one for each equal part of the batch.
        """
        normed = self.norm1(x)
        if record is not None:
            record.append(normed)
        x = x + self.attn1(normed, caches, adapters)
        x = x + self.attn2(self.norm2(x), caches, lambdas)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """diffusers' `Transformer2DModel` with the block above: 1x1 convolution in, one block, 1x1 convolution out. block:
    further arguments of it."""

    def __init__(self, dim: int, token_dim: int, heads: int, groups: int, **block):
        super().__init__()
        self.norm = GroupNorm(groups, dim, eps=1e-6)
        self.proj_in = nn.Conv2d(dim, dim, 1)
        self.transformer_blocks = nn.ModuleList([TransformerBlock(dim, token_dim, heads, **block)])
        self.proj_out = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor, *args, **kwargs) -> Tensor:
        """x [B * T, C, h, w] -> the same shape; other arguments as in `TransformerBlock.forward`."""
        height = x.shape[2]
        tokens = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        for block in self.transformer_blocks:
            tokens = block(tokens, *args, **kwargs)
        return x + self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))
