"""The denoising UNet: a 2D image UNet, inflated to video by temporal attention, conditioned on four sources.

Its 2D weights carry the key names of diffusers' `UNet2DConditionModel`, its temporal weights those of `MotionAdapter`
(together: `UNetMotionModel`); adapters, audio and camera projections come on top. With those silent, outputs equal
diffusers' (see tests/unit/models/test_parity.py).

There is one set of 2D weights. The reference encoder is this network with adapters and motion off, at t = 0, on clean
latents: `reference_features`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from ..presets import ExtensionsConfig, UNetConfig
from .attention import SpatialTransformer, TransformerBlock
from .attention_cache import BlockCache, ConditionCache
from .attention_kernels import KeyValue
from .extensions import Extensions
from .layers import Downsample2D, ResidualBlock, TimestepEmbedding, Timesteps, Upsample2D
from .motion import MotionModule
from .norm import GroupNorm


@dataclass
class Pass:
    """What every layer of one forward pass needs to know."""

    time_embedding: Tensor  # [B * T, 4 * C0]
    frames: int  # T
    caches: Iterator[tuple[BlockCache, ...]]  # one of each condition a transformer, in running order
    lambdas: tuple[tuple[float, float], ...]  # lambda_audio, lambda_camera of each condition
    adapters: bool
    motion: bool
    record: list[Tensor] | None


class Level(nn.Module):
    """One resolution level on the way down or up, or the middle: layers of residual, spatial and temporal blocks."""

    def __init__(self, config: UNetConfig, level: int, channels_in: list[int], attention: bool):
        super().__init__()
        dim = config.block_out_channels[level]
        groups = config.norm_num_groups
        heads, motion_heads = config.num_attention_heads[level], config.motion_num_attention_heads[level]
        time_channels = 4 * config.block_out_channels[0]
        self.resnets = nn.ModuleList(ResidualBlock(width, dim, time_channels, groups) for width in channels_in)
        if attention:
            self.attentions = nn.ModuleList(
                SpatialTransformer(
                    dim,
                    config.cross_attention_dim,
                    heads,
                    groups,
                    lora_rank=config.lora_rank,
                    audio_and_camera=config.audio_and_camera,
                )
                for _ in channels_in
            )
        if config.motion:
            self.motion_modules = nn.ModuleList(
                MotionModule(dim, motion_heads, groups, config.motion_max_seq_length) for _ in channels_in
            )

    def layer(self, index: int, x: Tensor, run: Pass) -> Tensor:
        x = self.resnets[index](x, run.time_embedding)
        return self.attend(index, x, run)

    def attend(self, index: int, x: Tensor, run: Pass) -> Tensor:
        if hasattr(self, "attentions"):
            x = self.attentions[index](x, next(run.caches), run.lambdas, run.adapters, run.record)
        if run.motion and hasattr(self, "motion_modules"):
            x = self.motion_modules[index](x, run.frames)
        return x

    def blocks(self) -> list[nn.Module]:
        """Layer after layer, each with what it has of residual, spatial and temporal blocks, as `layer` runs them."""
        columns = [self.resnets, getattr(self, "attentions", ()), getattr(self, "motion_modules", ())]
        return [column[index] for index in range(len(self.resnets)) for column in columns if index < len(column)]


class StarcasterUNet(nn.Module):
    """Predicts the noise (or v, or the clean latents) of a chunk. extensions: what it has beyond the paper."""

    def __init__(self, config: UNetConfig, extensions: ExtensionsConfig | None = None):
        super().__init__()
        self.config = config
        self.samplings = 0  # that need merged adapters
        channels = config.block_out_channels
        levels, layers = len(channels), config.layers_per_block

        self.conv_in = nn.Conv2d(config.in_channels, channels[0], 3, padding=1)
        self.time_proj = Timesteps(channels[0])
        self.time_embedding = TimestepEmbedding(channels[0], 4 * channels[0])
        self.extensions = Extensions(extensions or ExtensionsConfig(), config)

        self.down_blocks = nn.ModuleList()
        skips = [channels[0]]  # channels of every tensor that the way up will take in again
        for level in range(levels):
            entering = skips[-1]
            part = Level(config, level, [entering] + [channels[level]] * (layers - 1), config.attention_levels[level])
            skips += [channels[level]] * layers
            if level < levels - 1:
                part.downsamplers = nn.ModuleList([Downsample2D(channels[level])])
                skips.append(channels[level])
            self.down_blocks.append(part)

        self.mid_block = Level(config, levels - 1, [channels[-1]], attention=True)
        self.mid_block.resnets.append(
            ResidualBlock(channels[-1], channels[-1], 4 * channels[0], config.norm_num_groups)
        )

        self.up_blocks = nn.ModuleList()
        entering = channels[-1]
        for level in reversed(range(levels)):
            channels_in = [(entering if i == 0 else channels[level]) + skips.pop() for i in range(layers + 1)]
            part = Level(config, level, channels_in, config.attention_levels[level])
            if level > 0:
                part.upsamplers = nn.ModuleList([Upsample2D(channels[level])])
            self.up_blocks.append(part)
            entering = channels[level]

        self.conv_norm_out = GroupNorm(config.norm_num_groups, channels[0], eps=1e-5)
        self.conv_act = nn.SiLU()
        self.conv_out = nn.Conv2d(channels[0], config.in_channels, 3, padding=1)

    # The main path ---------------------------------------------------------------------------------------------------

    def forward(
        self,
        latents: Tensor,
        timesteps: Tensor,
        condition: ConditionCache | Sequence[ConditionCache],
        adapters: bool = True,
        motion: bool = True,
        record: list[Tensor] | None = None,
    ) -> Tensor:
        """Predict the noise (or v, or the clean latents) in noisy latents.

        latents: [B, C, T, h, w], unit variance. timesteps: [B], 0..999, shared by a clip's frames.
        condition: from `cache_condition`, or several, one for each equal part of the batch.
        adapters, motion: off for the reference pass. record: receives every transformer's normed input, [B * T, h * w,
        C]. Returns [B, C, T, h, w].
        """
        frames = latents.shape[2]
        conditions = [condition] if isinstance(condition, ConditionCache) else condition
        x = rearrange(latents, "b c t h w -> (b t) c h w").contiguous(memory_format=torch.channels_last)
        x = self.conv_in(x)
        time_embedding = self.embed_time(timesteps, latents).repeat_interleave(frames, dim=0)
        x, time_embedding = self.extensions.before(x, time_embedding, conditions)
        run = Pass(
            time_embedding=time_embedding,
            frames=frames,
            caches=zip(*(one.blocks for one in conditions)),
            lambdas=tuple(one.lambdas for one in conditions),
            adapters=adapters,
            motion=motion,
            record=record,
        )
        x, skips = self.go_down(x, run)
        x = self.go_through_middle(x, run)
        x = self.go_up(x, skips, run)
        features = self.conv_act(self.conv_norm_out(x))
        x = self.extensions.after(self.conv_out(features), features, conditions)
        return rearrange(x, "(b t) c h w -> b c t h w", t=frames)

    def embed_time(self, timesteps: Tensor, latents: Tensor) -> Tensor:
        return self.time_embedding(self.time_proj(timesteps.expand(latents.shape[0])).to(latents.dtype))

    def go_down(self, x: Tensor, run: Pass) -> tuple[Tensor, list[Tensor]]:
        skips = [x]
        for part in self.down_blocks:
            for index in range(len(part.resnets)):
                x = part.layer(index, x, run)
                skips.append(x)
            for downsample in getattr(part, "downsamplers", ()):
                x = downsample(x)
                skips.append(x)
        return x, skips

    def go_through_middle(self, x: Tensor, run: Pass) -> Tensor:
        x = self.mid_block.layer(0, x, run)
        return self.mid_block.resnets[1](x, run.time_embedding)

    def go_up(self, x: Tensor, skips: list[Tensor], run: Pass) -> Tensor:
        for part in self.up_blocks:
            for index in range(len(part.resnets)):
                x = part.layer(index, torch.cat([x, skips.pop()], dim=1), run)
            for upsample in getattr(part, "upsamplers", ()):
                x = upsample(x)
        return x

    # What is computed once --------------------------------------------------------------------------------------------

    def transformer_blocks(self) -> list[TransformerBlock]:
        """All transformer blocks in the order a forward pass meets them."""
        parts = [*self.down_blocks, self.mid_block, *self.up_blocks]
        spatial = [attention for part in parts for attention in getattr(part, "attentions", ())]
        return [block for transformer in spatial for block in transformer.transformer_blocks]

    def blocks(self) -> list[nn.Module]:
        """Residual, spatial and temporal blocks, in about the order a forward pass meets them: all the weights but
        those at the two ends. What repeats, is compiled, or moved to and from the device."""
        parts = [*self.down_blocks, self.mid_block, *self.up_blocks]
        return [block for part in parts for block in part.blocks()]

    def cache_identity(self, tokens: Tensor) -> list[KeyValue]:
        """tokens [B, L, D] -> K, V for every block. Once a clip."""
        return [block.attn2.cache_identity(tokens) for block in self.transformer_blocks()]

    def cache_audio(self, tokens: Tensor) -> list[KeyValue]:
        """tokens [B, T, L, D] -> K, V for every block, each frame its own. Once a chunk."""
        flat = rearrange(tokens, "b t l d -> (b t) l d")
        return [block.attn2.audio(flat) for block in self.transformer_blocks()]

    def cache_camera(self, tokens: Tensor) -> list[KeyValue]:
        """tokens [B, T, L, D] -> K, V for every block, each frame its own. Once a chunk."""
        flat = rearrange(tokens, "b t l d -> (b t) l d")
        return [block.attn2.camera(flat) for block in self.transformer_blocks()]

    def cache_bank(self, features: list[Tensor]) -> list[KeyValue]:
        """Return K, V for every block from `reference_features`. Reference: once a clip; context: once a chunk."""
        return [block.attn1.cache_bank(bank) for block, bank in zip(self.transformer_blocks(), features)]

    def cache_frames(self, latents: Tensor, identity: list[KeyValue]) -> list[KeyValue]:
        """Return K, V for the bank of every block from reference or context frames, latents [B, C, R, h, w].

        No gradient flows back into the reference pass.
        """
        with torch.no_grad():
            features = self.reference_features(latents, identity)
        return self.cache_bank(features)

    def reference_features(self, latents: Tensor, identity: list[KeyValue]) -> list[Tensor]:
        """The reference encoder: this network, bare, at t = 0, on clean latents, with the same identity.

        latents: [B, C, R, h, w], the R reference or context frames. identity: from `cache_identity`.
        Returns one [B, R * h * w, C] a transformer block: its normed inputs.
        """
        features: list[Tensor] = []
        condition = ConditionCache([BlockCache(identity=kv) for kv in identity])
        timesteps = torch.zeros(1, dtype=torch.long, device=latents.device)
        self(latents, timesteps, condition, adapters=False, motion=False, record=features)
        return [rearrange(x, "(b r) l c -> b (r l) c", r=latents.shape[2]) for x in features]

    def merge_adapters(self) -> None:
        """Prepare for sampling: base + LoRA as one weight, beside the base ones that the reference pass needs.

        Each call asks for one `unmerge_adapters`; the last of them undoes it.
        """
        self.samplings += 1
        device = self.conv_in.weight.device
        for block in self.transformer_blocks():
            block.attn1.merge(device)
        for module in self.motion_modules():
            module.prepare(device)

    def unmerge_adapters(self) -> None:
        """Undo `merge_adapters`, unless another sampling goes on: that of a stopped render may end later, when its
        generator is collected."""
        self.samplings = max(0, self.samplings - 1)
        if self.samplings:
            return
        for block in self.transformer_blocks():
            block.attn1.unmerge()
        for module in self.motion_modules():
            module.release()

    def motion_modules(self) -> list[MotionModule]:
        return [module for module in self.modules() if isinstance(module, MotionModule)]

    def has_untrained_motion(self) -> bool:
        """Say whether no temporal attention changes anything: frames then know nothing of each other."""
        return all(module.is_untrained() for module in self.motion_modules())
