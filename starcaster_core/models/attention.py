"""The core attention block of the paper's figure, in two dimensions.

A block is [extended self-attention + LoRA] -> [identity + audio + camera cross-attention, one query] -> feed-forward.
Module and parameter names are diffusers' (`attn1.to_q`, `ff.net.0.proj`, ...), so that public weights load as they
are; what the paper adds lives under names of its own (`attn1.lora`, `attn2.audio`, `attn2.camera`).

Keys and values of everything that is not the noisy frame itself are computed once, by `cache_*`, and handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import einsum, rearrange
from torch import Tensor, nn

from .norm import GroupNorm
from .storage import weight_of

KeyValue = tuple[Tensor, Tensor]  # each [B, heads, L, C / heads]
FEW = 16  # keys or queries
MOST_SCORE = 60.0  # e^60 times all keys is far from the largest bfloat16, e^-60 from the smallest


class Folded(NamedTuple):
    """Keys and values of a few tokens, with the projections of what attends to them inside: keys, values [B * T, K, C];
    sizes: how many of the K, heads times tokens, are of each source, whose softmaxes are apart; lambdas: within the values."""

    keys: Tensor
    values: Tensor
    sizes: list[int]
    lambdas: tuple[float, float]


@dataclass
class BlockCache:
    """What one transformer block attends to besides its own frame. `None` switches a source off.

    identity: keys and values [B, heads, L, d], the same for every frame.
    audio, camera: [B * T, heads, L, d], tokens of each frame's own.
    bank: [B, heads, R * h * w, d], the reference and context frames.
    splits_bank: attend to frame and bank apart, then merge the two (see `attend_apart`), instead of side by side.
    folded: identity, audio and camera as `DecoupledCrossAttention.fold` makes one of them while sampling on a CPU.
    """

    identity: KeyValue | None = None
    audio: KeyValue | None = None
    camera: KeyValue | None = None
    bank: KeyValue | None = None
    splits_bank: bool = False
    folded: Folded | None = field(default=None, repr=False)
    _room: KeyValue | None = field(default=None, repr=False)

    def beside_bank(self, key: Tensor, value: Tensor) -> KeyValue:
        """A step's own keys and values [B * T, heads, h * w, d] with the bank's behind them, for every frame.

        While sampling on a CPU the bank is laid out once, and each step writes its own in front of it.
        """
        frames = len(key) // len(self.bank[0])
        if key.device.type != "cpu" or torch.is_grad_enabled():
            return tuple(torch.cat([x, per_frame(shared, frames)], dim=2) for x, shared in zip((key, value), self.bank))
        length = key.shape[2]
        if self._room is None:
            self._room = tuple(lay_out(per_frame(shared, frames), length) for shared in self.bank)
        for room, own in zip(self._room, (key, value)):
            room[:, :, :length] = own
        return self._room

    def sources(self) -> tuple[KeyValue | None, ...]:
        return self.identity, self.audio, self.camera, self.bank

    def forget(self) -> None:
        """What was made of the numbers, which have changed in place."""
        self._room = self.folded = None


def per_frame(shared: Tensor, frames: int) -> Tensor:
    """[B, ...] -> [B * T, ...]; a view where there is one clip"""
    if len(shared) == 1:
        return shared.expand(frames, *shared.shape[1:])
    return shared.repeat_interleave(frames, dim=0)


def lay_out(shared: Tensor, length: int) -> Tensor:
    """[N, heads, L, d] -> [N, heads, length + L, d], the first `length` places empty"""
    batch, heads, behind, size = shared.shape
    room = shared.new_empty(batch, heads, length + behind, size)
    room[:, :, length:] = shared
    return room


@dataclass
class ConditionCache:
    """One `BlockCache` a transformer block, in the order the UNet runs them, and how strongly the streams speak.

    reference: the portrait from `StarcasterUNet.cache_reference`, None without one: its features [B, C0, h, w] and its
    latents [B, C, h, w]. idle: how the head moves, from `StarcasterUNet.cache_idle`, [B * T, 4 * C0], None where it is open.
    """

    blocks: list[BlockCache] = field(default_factory=list)
    reference: tuple[Tensor, Tensor] | None = None
    idle: Tensor | None = None
    lambda_audio: float = 1.0
    lambda_camera: float = 1.0

    @property
    def lambdas(self) -> tuple[float, float]:
        return self.lambda_audio, self.lambda_camera

    def tensors(self) -> list[Tensor]:
        """Everything cached, in a fixed order"""
        cached = [source for block in self.blocks for source in block.sources()] + [self.reference]
        pairs = [x for pair in cached if pair is not None for x in pair]
        return pairs if self.idle is None else [*pairs, self.idle]

    def kind(self) -> tuple:
        """What decides how a network runs under this condition, besides the tensors' shapes"""
        sources = tuple(
            (*(source is not None for source in block.sources()), block.splits_bank) for block in self.blocks
        )
        return sources, self.reference is not None, self.idle is not None, self.lambdas

    def map(self, change: Callable[[Tensor], Tensor]) -> ConditionCache:
        """The same condition made of changed tensors."""

        def changed(pair: KeyValue | None) -> KeyValue | None:
            return None if pair is None else (change(pair[0]), change(pair[1]))

        blocks = [BlockCache(*map(changed, block.sources()), splits_bank=block.splits_bank) for block in self.blocks]
        idle = None if self.idle is None else change(self.idle)
        return ConditionCache(blocks, changed(self.reference), idle, *self.lambdas)

    def copy_(self, other: ConditionCache) -> None:
        """Take over another condition's numbers; both must be of one kind and shape."""
        for mine, its in zip(self.tensors(), other.tensors()):
            mine.copy_(its)
        for block in self.blocks:
            block.forget()


def split_heads(x: Tensor, heads: int) -> Tensor:
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V on [B, heads, L, d], heads merged again: [B, L, C]."""
    if plain_products_are_faster(query, key):
        few = key.shape[2] <= FEW and not query.requires_grad
        out = attend_to_few(query, key, value) if few else attend_plainly(query, key, value)
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    return rearrange(out, "b h l d -> b l (h d)")


def attend_plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By two matrix products, so many frames at a time that the scores between them stay in the cache."""
    query = query * query.shape[-1] ** -0.5
    scores = query[0].numel() // query.shape[-1] * key.shape[2]
    step = len(query) if query.requires_grad else max(1, 2**20 // scores)
    weigh = softly if query.requires_grad or not are_small(query, key) else in_proportion
    shares = zip(query.split(step), key.split(step), value.split(step))
    return join([weigh(q @ k.mT, v) for q, k, v in shares])


def softly(scores: Tensor, value: Tensor) -> Tensor:
    return scores.softmax(dim=-1).to(value.dtype) @ value


def in_proportion(scores: Tensor, value: Tensor) -> Tensor:
    """The same for small scores, which it overwrites: with nothing to be subtracted first, and divided by afterwards where
    there is less to divide, in two thirds of the time."""
    weights = scores.exp_()
    return (weights @ value).div_(weights.sum(dim=-1, keepdim=True))


def are_small(query: Tensor, key: Tensor) -> bool:
    """Is no product of theirs beyond what may be exponentiated and added up as it is? No product is larger than that of the
    two lengths. A compiler, which cannot look, is told no."""
    if torch.compiler.is_compiling():
        return False
    longest = query.square().sum(dim=-1).max() * key.square().sum(dim=-1).max()
    return bool(longest < MOST_SCORE**2)


def attend_to_few(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """By two matrix products over fewer keys than a vector of the CPU holds in bfloat16, where its softmax takes several
    times as long for each: along the queries instead, or, where these are few too, in float32."""
    key = key * key.shape[-1] ** -0.5
    if query.shape[2] > FEW:
        shares = (key @ query.transpose(-1, -2)).softmax(dim=-2).transpose(-1, -2)
    else:
        shares = (query @ key.transpose(-1, -2)).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return shares @ value


def plain_products_are_faster(query: Tensor, key: Tensor) -> bool:
    """In bfloat16 on CPUs: in training, where the fused backward pass takes up to ten times as long over few keys; in
    sampling without AMX, where the fused kernel takes twice as long (decisions/0007), while the scores stay small."""
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    if query.requires_grad:
        return key.shape[2] <= 256
    return not has_amx() and query[0].numel() // query.shape[-1] * key.shape[2] <= 2**22


@lru_cache
def has_amx() -> bool:
    """Does this CPU multiply bfloat16 in tiles?"""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def attend_apart(query: Tensor, own: KeyValue, shared: KeyValue) -> Tensor:
    """What `attend` gives over [own, shared] keys, without ever copying the shared ones for each frame.

    query and own: [B * T, heads, L, d]; shared: [B, heads, S, d]. Two softmaxes become one through their normalisers:
    out = (e^n1 out1 + e^n2 out2) / (e^n1 + e^n2). Returns [B * T, L, C].
    """
    frames = len(query) // len(shared[0])
    near, norm_near = flash(query, *own)
    far, norm_far = flash(rearrange(query, "(b t) h l d -> b h (t l) d", t=frames), *shared)
    far = rearrange(far, "b h (t l) d -> (b t) h l d", t=frames)
    norm_far = rearrange(norm_far, "b h (t l) -> (b t) h l", t=frames)
    share = torch.sigmoid(norm_far - norm_near).unsqueeze(-1).to(near.dtype)
    return rearrange(torch.lerp(near, far, share), "b h l d -> b l (h d)")


def flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Fused attention that also hands out the logarithm of each softmax's denominator, [B, heads, L] in float32."""
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]


@lru_cache
def can_attend_apart(device: str, dtype: torch.dtype, head_size: int) -> bool:
    """Worth it on GPUs only (on CPUs laying keys out once is as quick), and where PyTorch has the kernel for it."""
    if device != "cuda" or dtype not in (torch.float16, torch.bfloat16) or head_size % 8:
        return False
    try:
        x = torch.zeros(1, 1, 8, head_size, device=device, dtype=dtype)
        return attend_apart(x, (x, x), (x, x)).isfinite().all().item()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False


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

        caches: one for each equal share of the batch.
        """
        shares = (part.chunk(len(caches)) for part in self.project_frame(x, adapters))
        seen = [self.look(*share, cache) for *share, cache in zip(*shares, caches)]
        return self.project("to_out", join(seen), adapters)

    @staticmethod
    def look(query: Tensor, key: Tensor, value: Tensor, cache: BlockCache) -> Tensor:
        if cache.bank is None:
            return attend(query, key, value)
        if cache.splits_bank:
            return attend_apart(query, (key, value), cache.bank)
        return attend(query, *cache.beside_bank(key, value))


def join(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts)


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

    def forward(self, x: Tensor, caches: Sequence[BlockCache], lambdas: Sequence[tuple[float, float]]) -> Tensor:
        """x [B * T, h * w, C] -> the same shape. caches, and lambda_a and lambda_c: one for each share of the batch."""
        if self.is_worth_folding(x, caches):
            return join([self.look_up(*share) for share in zip(x.chunk(len(caches)), caches, lambdas)])
        queries = split_heads(self.to_q(x), self.heads).chunk(len(caches))
        return self.to_out[0](join([self.listen(*share) for share in zip(queries, caches, lambdas)]))

    def listen(self, query: Tensor, cache: BlockCache, lambdas: tuple[float, float]) -> Tensor:
        z = self.attend_identity(query, cache.identity)
        for stream, weight in zip((cache.audio, cache.camera), lambdas):
            if stream is not None and weight != 0:
                z = z + weight * attend(query, *stream)
        return z

    def is_worth_folding(self, x: Tensor, caches: Sequence[BlockCache]) -> bool:
        """Sampling on a CPU, with fewer keys, of all heads together, than channels"""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return False
        sources = ((cache.identity, cache.audio, cache.camera) for cache in caches)
        tokens = max(sum(key.shape[2] for key, _ in filter(None, each)) for each in sources)
        return self.heads * tokens < x.shape[-1]

    def look_up(self, x: Tensor, cache: BlockCache, lambdas: tuple[float, float]) -> Tensor:
        """What `forward` gives of one condition, over folded keys and values. The softmaxes run along the positions in
        memory, which are many, and not along the keys, which are few."""
        if cache.folded is None or cache.folded.lambdas != lambdas:
            cache.folded = self.fold(cache, lambdas, len(x))
        keys, values, sizes, _ = cache.folded
        scores = keys @ x.mT
        shares = [
            rearrange(each, "b (h l) q -> b h l q", h=self.heads).softmax(dim=2) for each in scores.split(sizes, 1)
        ]
        weights = torch.cat([share.flatten(1, 2) for share in shares], dim=1)
        return torch.baddbmm(self.to_out[0].bias, weights.mT, values)

    def fold(self, cache: BlockCache, lambdas: tuple[float, float], frames: int) -> Folded:
        """softmax(x W_q K^T / sqrt(d)) V W_o = softmax(x [W_q K^T / sqrt(d)]) [V W_o]: what stands in brackets, once a chunk,
        spares both projections of every position at every step."""
        to_q = rearrange(weight_of(self.to_q), "(h d) c -> h d c", h=self.heads).float()
        to_out = rearrange(weight_of(self.to_out[0]), "c (h d) -> h d c", h=self.heads).float()
        scale = to_q.shape[1] ** -0.5
        keys, values = [], []
        for source, weight in zip((cache.identity, cache.audio, cache.camera), (1.0, *lambdas)):
            if source is None or weight == 0:
                continue
            for folded, tokens, map_, factor in zip((keys, values), source, (to_q, to_out), (scale, weight)):
                product = einsum(tokens.float(), map_, "b h l d, h d c -> b h l c").flatten(1, 2) * factor
                folded.append(per_frame(product.to(tokens.dtype), frames // len(product)))
        return Folded(torch.cat(keys, dim=1), torch.cat(values, dim=1), [key.shape[1] for key in keys], lambdas)

    def attend_identity(self, query: Tensor, identity: KeyValue) -> Tensor:
        # All frames of a clip share these few keys, so the frames are laid end to end instead of copying the keys.
        clips = identity[0].shape[0]
        frames, _, length, _ = query.shape
        query = rearrange(query, "(b t) h l d -> b h (t l) d", b=clips)
        return attend(query, *identity).reshape(frames, length, -1)


class GatedFeedForward(FeedForward):
    """diffusers' with GEGLU: out(value * gelu(gate)), value and gate being the halves of one projection.

    Sampling on a CPU projects the halves apart: they then lie in memory as the product wants them.
    """

    def __init__(self, dim: int):
        super().__init__(dim, activation_fn="geglu")

    def forward(self, x: Tensor) -> Tensor:
        """x [..., C] -> the same shape"""
        if x.device.type != "cpu" or torch.is_grad_enabled():
            return super().forward(x)
        projection = self.net[0].proj
        value, gate = zip(weight_of(projection).chunk(2), projection.bias.chunk(2))
        if x.dtype == gate[0].dtype == torch.bfloat16 and multiplies_in_one_go():
            linear = torch.ops.mkldnn._linear_pointwise
            product = linear.binary(x, linear(x, *gate, "gelu", [], "none"), *value, "mul")
        else:
            product = F.gelu(F.linear(x, *gate)).mul_(F.linear(x, *value))
        return self.net[2](product)


@lru_cache
def multiplies_in_one_go() -> bool:
    """Has this PyTorch oneDNN's linear map that bends or multiplies its bfloat16 results before writing them? Its name is
    no promise of PyTorch's, so it is tried once."""
    x = torch.full((1, 32), 0.5, dtype=torch.bfloat16)
    weight, bias = torch.eye(32, dtype=torch.bfloat16), torch.zeros(32, dtype=torch.bfloat16)
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        product = linear.binary(x, linear(x, weight, bias, "gelu", [], "none"), weight, bias, "mul")
    except Exception:  # missing, other arguments, or a CPU it refuses
        return False
    return torch.allclose(product, F.gelu(x) * x, rtol=0.02)


class TransformerBlock(nn.Module):
    """norm -> self-attention, norm -> cross-attention, norm -> feed-forward, each added to what came in."""

    def __init__(self, dim: int, token_dim: int, heads: int, lora_rank: int):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn1 = ExtendedSelfAttention(dim, heads, lora_rank)
        self.norm2 = nn.LayerNorm(dim)
        self.attn2 = DecoupledCrossAttention(dim, token_dim, heads)
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

        caches, lambdas (lambda_audio, lambda_camera): one for each equal share of the batch.
        """
        normed = self.norm1(x)
        if record is not None:
            record.append(normed)
        x = x + self.attn1(normed, caches, adapters)
        x = x + self.attn2(self.norm2(x), caches, lambdas)
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
