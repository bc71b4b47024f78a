"""What a model needs, counted instead of measured: FLOPs and memory of one pass, on the meta device, in seconds.

python -m starcaster_core.benchmark.account --preset sd15 --out benchmarks/results/sd15-counted.json
"""

from __future__ import annotations

import argparse
import json
import weakref
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from ..command import add_debug, run_command
from ..models import attention_kernels
from ..models.attention_cache import ConditionCache, cache_condition
from ..models.autoencoder import build_autoencoder
from ..models.starcaster import UNTOUCHED
from ..models.storage import is_compact, store_in_float8
from ..models.unet import StarcasterUNet
from ..presets import PRESETS, ModelConfig

WAYS = {  # arguments of `estimate_memory`
    "whole": {},
    "whole, batched guidance": {"batched": True},
    "float8": {"float8": True},
    "offload": {"offload": True},
    "float8, offload": {"float8": True, "offload": True},
    "float8, offload, batched guidance": {"float8": True, "offload": True, "batched": True},
}


@dataclass(frozen=True)
class Passes:
    """The network of a configuration without numbers, and the two conditions of its guidance."""

    unet: StarcasterUNet
    nobody: ConditionCache
    full: ConditionCache
    latents: Tensor

    @staticmethod
    @torch.no_grad()
    def of(config: ModelConfig, dtype: torch.dtype, float8: bool = False) -> Passes:
        with torch.device("meta"):
            unet = StarcasterUNet(config.unet, config.extensions).to(dtype).eval().requires_grad_(False)
        if float8:
            store_in_float8(unet, keep=UNTOUCHED)

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device="meta", dtype=dtype)

        side, channels, frames = config.latent_size, config.unet.in_channels, config.chunk_frames
        width, tokens = config.unet.cross_attention_dim, config.conditioning
        unet.merge_adapters()
        identity = unet.cache_identity(empty(1, tokens.identity_tokens, width))
        seen = empty(1, channels, 1 + config.context_frames, side, side)
        extensions = {}
        if "portrait_copy" in unet.extensions:
            extensions["portrait_copy"] = unet.extensions["portrait_copy"].prepare(seen[:, :, :1])
        full = cache_condition(
            identity,
            unet.cache_audio(empty(1, frames, tokens.speech_tokens, width)),
            unet.cache_camera(empty(1, frames, tokens.camera_tokens, width)),
            (unet.cache_frames(seen, identity),),
            extensions=extensions,
        )
        for block in full.blocks:
            block.splits_bank = dtype != torch.float32  # as on a GPU
        return Passes(unet, cache_condition(identity), full, empty(1, channels, frames, side, side))

    @torch.no_grad()
    def run(self, condition) -> Tensor:
        count = 1 if isinstance(condition, ConditionCache) else len(condition)
        latents = self.latents.expand(count, *self.latents.shape[1:])
        return self.unet(latents, torch.empty(1, device="meta"), condition)


def count_flops(config: ModelConfig) -> dict[str, int]:
    """Return the floating point operations (a multiply-add is two) of one network call, under the null and the full
    condition."""
    passes = Passes.of(config, torch.float32)
    counts = {}
    for name, condition in (("null", passes.nobody), ("full", passes.full)):
        with FlopCounterMode(display=False) as counter:
            passes.run(condition)
        counts[name] = counter.get_total_flops()
    return counts


def estimate_memory(config: ModelConfig, dtype: torch.dtype, float8=False, offload=False, batched=False) -> dict:
    """Estimate the bytes on the device while a chunk is sampled: weights, conditions, the most that a call adds.

    Assumes fused attention, whose scores are never written. Leaves out what the driver and the allocator take.
    """
    passes = Passes.of(config, dtype, float8)
    condition = [passes.nobody, passes.full] if batched else passes.full
    weights = resident_weights(passes.unet, offload)
    merged = sum(
        block.attn1._merged[name][0].nbytes for block in passes.unet.transformer_blocks() for name in ("qkv", "to_out")
    )
    with torch.device("meta"):
        decoder = build_autoencoder(config.autoencoder).to(dtype)
    vae = sum(x.nbytes for x in decoder.parameters())
    cached = sum(x.nbytes for x in {id(x): x for x in passes.full.tensors() + passes.nobody.tensors()}.values())
    with fused_attention(), LiveBytes() as live:
        passes.run(condition)
    picture = torch.empty(1, config.autoencoder.latent_channels, config.latent_size, config.latent_size, device="meta")
    with torch.no_grad(), fused_attention(), LiveBytes() as decoding:
        decoder.decode(picture.to(dtype))
    parts = {
        "unet": weights,
        "merged_adapters": merged,
        "vae": vae,
        "conditions": cached,
        "activations": live.peak,
        "decoding_a_frame": decoding.peak,
    }
    return parts | {"total": weights + merged + vae + cached + max(live.peak, decoding.peak)}


def resident_weights(unet: StarcasterUNet, offload: bool) -> int:
    """Return the bytes of the UNet's weights on the device: all, or what stays there and the two largest neighbours."""
    total = sum(x.nbytes for x in unet.parameters())
    total += sum(module.scale.nbytes for module in unet.modules() if is_compact(module))
    if not offload:
        return total
    from ..models.offload import travelling

    sizes = [sum(x.nbytes for _, x in travelling(block)) for block in unet.blocks()]
    return total - sum(sizes) + max(one + other for one, other in zip(sizes, sizes[1:] + sizes[:1]))


class LiveBytes(TorchDispatchMode):
    """Counts the storage that operations allocate and that is still alive; `peak` is the most there ever was."""

    def __init__(self):
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        result = function(*args, **(kwargs or {}))
        for x in tree_leaves(result):
            if isinstance(x, Tensor):
                self.add(x.untyped_storage(), given)
        return result

    def add(self, storage, given: set[int]) -> None:
        key = storage._cdata
        if key in given or key in self.seen:
            return
        self.seen.add(key)
        size = storage.nbytes()
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self.drop, key, size)

    def drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


@contextmanager
def fused_attention():
    """Replace attention by one that writes its output alone, as a fused kernel does on the meta device."""
    import torch.nn.functional as F

    def scaled_dot_product_attention(query, key, value, **_):
        return query.new_empty(*query.shape[:-1], value.shape[-1])

    def flash(query, key, value):
        return torch.empty_like(query), query.new_empty(query.shape[:-1], dtype=torch.float32)

    plain = F.scaled_dot_product_attention, attention_kernels.flash
    F.scaled_dot_product_attention, attention_kernels.flash = scaled_dot_product_attention, flash
    try:
        yield
    finally:
        F.scaled_dot_product_attention, attention_kernels.flash = plain


def account(config: ModelConfig) -> dict:
    """Count everything of a configuration. Memory in bfloat16."""
    memory = {name: estimate_memory(config, torch.bfloat16, **way) for name, way in WAYS.items()}
    return {
        "command": f"python -m starcaster_core.benchmark.account --preset {config.name}",
        "torch": torch.__version__,
        "model": config.name,
        "tflop_a_call": {name: round(count / 1e12, 4) for name, count in count_flops(config).items()},
        "gib": {name: {part: round(size / 2**30, 2) for part, size in parts.items()} for name, parts in memory.items()},
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", choices=sorted(PRESETS), default="sd15")
    parser.add_argument(
        "--out", type=Path, help="the JSON to write (by default benchmarks/results/<preset>-counted.json)"
    )
    add_debug(parser)
    args = parser.parse_args(arguments)
    out = args.out or Path(f"benchmarks/results/{args.preset}-counted.json")
    out.parent.mkdir(parents=True, exist_ok=True)  # first, as counting takes a while
    result = json.dumps(account(PRESETS[args.preset]), indent=2)
    out.write_text(result + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    raise SystemExit(run_command("count", main))
