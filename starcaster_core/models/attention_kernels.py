"""Scaled dot-product attention, computed the quickest way that the device has.

`attend` is softmax(Q K^T / sqrt(d)) V. On GPUs it is PyTorch's fused kernel. On CPUs in bfloat16 there are quicker ways for
few keys and for CPUs without AMX (docs/decisions/0001). Every way gives the same numbers but for rounding.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from diffusers.models.attention import FeedForward
from einops import rearrange
from torch import Tensor

from .storage import weight_of

KeyValue = tuple[Tensor, Tensor]  # each [B, heads, L, C / heads]
FEW = 16  # keys or queries
MAX_SCORE = 60.0  # e^60 times all keys is far from the largest bfloat16, e^-60 from the smallest


def split_heads(x: Tensor, heads: int) -> Tensor:
    """Return [B, L, heads * d] as [B, heads, L, d]."""
    return rearrange(x, "b l (h d) -> b h l d", h=heads)


def concat(parts: list[Tensor]) -> Tensor:
    """Concatenate along the batch; a single part is returned as it is, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def per_frame(shared: Tensor, frames: int) -> Tensor:
    """Repeat [B, ...] for every frame: [B * T, ...]. A view where there is one clip."""
    if len(shared) == 1:
        return shared.expand(frames, *shared.shape[1:])
    return shared.repeat_interleave(frames, dim=0)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return softmax(Q K^T / sqrt(d)) V of [B, heads, L, d] with the heads merged again: [B, L, C]."""
    if plain_products_are_faster(query, key):
        few = key.shape[2] <= FEW and not query.requires_grad
        out = attend_to_few(query, key, value) if few else attend_plainly(query, key, value)
    else:
        out = F.scaled_dot_product_attention(query, key, value)
    return rearrange(out, "b h l d -> b l (h d)")


# Apart from the bank: one softmax out of two --------------------------------------------------------------------------


def attend_apart(query: Tensor, own: KeyValue, shared: KeyValue) -> Tensor:
    """Attend to [own, shared] keys without copying the shared ones for each frame.

    query and own: [B * T, heads, L, d]; shared: [B, heads, S, d]. Two softmaxes become one through their normalisers n:
    out = (e^n1 out1 + e^n2 out2) / (e^n1 + e^n2). Returns [B * T, L, C].
    """
    frames = len(query) // len(shared[0])
    near, norm_near = flash(query, *own)
    far, norm_far = flash(rearrange(query, "(b t) h l d -> b h (t l) d", t=frames), *shared)
    far = rearrange(far, "b h (t l) d -> (b t) h l d", t=frames)
    norm_far = rearrange(norm_far, "b h (t l) -> (b t) h l", t=frames)
    weight = torch.sigmoid(norm_far - norm_near).unsqueeze(-1).to(near.dtype)
    return rearrange(torch.lerp(near, far, weight), "b h l d -> b l (h d)")


def flash(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
    """Return fused attention and the logarithm of each softmax's denominator, [B, heads, L] in float32."""
    if query.device.type == "cpu":
        return torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(query, key, value)
    return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value)[:2]


@lru_cache
def can_attend_apart(device: str, dtype: torch.dtype, head_size: int) -> bool:
    """Say whether `attend_apart` pays: on GPUs only, and where PyTorch has the kernel for it."""
    if device != "cuda" or dtype not in (torch.float16, torch.bfloat16) or head_size % 8:
        return False
    try:
        x = torch.zeros(1, 1, 8, head_size, device=device, dtype=dtype)
        return attend_apart(x, (x, x), (x, x)).isfinite().all().item()
    except (RuntimeError, NotImplementedError, AttributeError, TypeError):
        return False


# CPU kernels ----------------------------------------------------------------------------------------------------------


def plain_products_are_faster(query: Tensor, key: Tensor) -> bool:
    """Say whether matrix products beat PyTorch's fused kernel: in bfloat16 on CPUs.

    In training the fused backward pass takes up to ten times as long over few keys. In sampling without AMX the fused
    kernel takes twice as long (docs/decisions/0001) while the scores stay small enough for the cache.
    """
    if query.device.type != "cpu" or query.dtype != torch.bfloat16:
        return False
    if query.requires_grad:
        return key.shape[2] <= 256
    return not has_amx() and query[0].numel() // query.shape[-1] * key.shape[2] <= 2**22


@lru_cache
def has_amx() -> bool:
    """Say whether this CPU multiplies bfloat16 in tiles."""
    return getattr(torch.cpu, "_is_amx_tile_supported", lambda: False)()


def attend_plainly(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend by two matrix products, so many frames at a time that the scores between them stay in the cache."""
    query = query * query.shape[-1] ** -0.5
    scores = query[0].numel() // query.shape[-1] * key.shape[2]
    step = len(query) if query.requires_grad else max(1, 2**20 // scores)
    weigh = softmax_product if query.requires_grad or not are_small(query, key) else small_softmax_product
    slices = zip(query.split(step), key.split(step), value.split(step))
    return concat([weigh(q @ k.mT, v) for q, k, v in slices])


def softmax_product(scores: Tensor, value: Tensor) -> Tensor:
    """Return softmax(scores) V."""
    return scores.softmax(dim=-1).to(value.dtype) @ value


def small_softmax_product(scores: Tensor, value: Tensor) -> Tensor:
    """Return softmax(scores) V for small scores, which it overwrites.

    Nothing is subtracted first, and the division comes last, where there is less to divide: two thirds of the time.
    """
    weights = scores.exp_()
    return (weights @ value).div_(weights.sum(dim=-1, keepdim=True))


def are_small(query: Tensor, key: Tensor) -> bool:
    """Say whether all scores may be exponentiated and summed as they are.

    |q . k| <= |q| |k| (Cauchy-Schwarz), so the two greatest lengths decide. Under a compiler, which cannot look: False.
    """
    if torch.compiler.is_compiling():
        return False
    bound = query.square().sum(dim=-1).max() * key.square().sum(dim=-1).max()
    return bool(bound < MAX_SCORE**2)


def attend_to_few(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Attend to fewer keys than a vector register holds in bfloat16.

    A softmax along so short a row takes several times as long. So it runs along the queries instead or, where these are
    few too, in float32.
    """
    key = key * key.shape[-1] ** -0.5
    if query.shape[2] > FEW:
        weights = (key @ query.transpose(-1, -2)).softmax(dim=-2).transpose(-1, -2)
    else:
        weights = (query @ key.transpose(-1, -2)).softmax(dim=-1, dtype=torch.float32).to(value.dtype)
    return weights @ value


class GatedFeedForward(FeedForward):
    """diffusers' feed-forward with GEGLU: out(value * gelu(gate)), both halves of one projection.

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
        if x.dtype == gate[0].dtype == torch.bfloat16 and has_fused_linear():
            linear = torch.ops.mkldnn._linear_pointwise
            product = linear.binary(x, linear(x, *gate, "gelu", [], "none"), *value, "mul")
        else:
            product = F.gelu(F.linear(x, *gate)).mul_(F.linear(x, *value))
        return self.net[2](product)


@lru_cache
def has_fused_linear() -> bool:
    """Try once whether this PyTorch has oneDNN's linear map that applies gelu or multiplies before it writes.

    Its name is no promise of PyTorch's.
    """
    x = torch.full((1, 32), 0.5, dtype=torch.bfloat16)
    weight, bias = torch.eye(32, dtype=torch.bfloat16), torch.zeros(32, dtype=torch.bfloat16)
    try:
        linear = torch.ops.mkldnn._linear_pointwise
        product = linear.binary(x, linear(x, weight, bias, "gelu", [], "none"), weight, bias, "mul")
    except Exception:  # missing, other arguments, or a CPU it refuses
        return False
    return torch.allclose(product, F.gelu(x) * x, rtol=0.02)
