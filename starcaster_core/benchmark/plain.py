"""What the benchmarks compare with: the same network put together from diffusers' parts, the way reference-net packs do
it.

`UNetMotionModel` denoises. A second `UNet2DConditionModel` encodes the reference once a clip and the context frames
once a chunk, and keeps their features. Keys and values of every stream are computed anew in every attention, and where
there is guidance both branches run at every step. The weights are the model's, so the predictions are the same numbers
(a test says so). LoRA adapters are merged or run beside their layers, and motion modules that change nothing are left
out or run, as `PlainComposition.configure` says.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from diffusers.models.resnet import ResnetBlock2D
from einops import rearrange
from torch import Tensor, nn

from ..models.starcaster import Starcaster
from ..presets import UNetConfig


def image_unet(config: UNetConfig):
    """Return diffusers' `UNet2DConditionModel` of a configuration's shape."""
    from diffusers import UNet2DConditionModel

    kinds = ["CrossAttnDownBlock2D" if attends else "DownBlock2D" for attends in config.attention_levels]
    return UNet2DConditionModel(
        **shared_arguments(config, kinds), attention_head_dim=config.num_attention_heads
    )  # diffusers' old name for the number of heads


def motion_unet(config: UNetConfig):
    """Return diffusers' `UNetMotionModel` of a configuration's shape."""
    from diffusers import UNetMotionModel

    kinds = ["CrossAttnDownBlockMotion" if attends else "DownBlockMotion" for attends in config.attention_levels]
    return UNetMotionModel(
        **shared_arguments(config, kinds),
        num_attention_heads=config.num_attention_heads,
        motion_num_attention_heads=config.motion_num_attention_heads,
        motion_max_seq_length=config.motion_max_seq_length,
    )


def shared_arguments(config: UNetConfig, down_block_types: list[str]) -> dict:
    return {
        "in_channels": config.in_channels,
        "out_channels": config.in_channels,
        "down_block_types": down_block_types,
        "up_block_types": [kind.replace("Down", "Up") for kind in reversed(down_block_types)],
        "block_out_channels": config.block_out_channels,
        "layers_per_block": config.layers_per_block,
        "cross_attention_dim": config.cross_attention_dim,
        "norm_num_groups": config.norm_num_groups,
    }


class PlainComposition:
    """The composition of a `Starcaster`, with copies of its weights."""

    def __init__(self, model: Starcaster):
        with torch.device(model.device):
            self.unet = motion_unet(model.config.unet).to(model.dtype).eval()
            self.reference = image_unet(model.config.unet).to(model.dtype).eval()
        weights = model.unet.state_dict()
        self.reference.load_state_dict({key: weights[key] for key in self.reference.state_dict()})
        self.unet.load_state_dict({key: weights[key] for key in self.unet.state_dict()})

        self.recorded: dict[str, Tensor] = {}
        for name, module in self.reference.named_modules():
            if name.endswith("norm1") and "transformer_blocks" in name:
                block = name.removesuffix(".norm1")
                module.register_forward_hook(lambda _m, _i, out, block=block: self.recorded.update({block: out}))
        streams = {
            name: module for name, module in model.unet.named_modules() if name.endswith(".attn2") and ".att" in name
        }
        adapted = {name: module for name, module in model.unet.named_modules() if name.endswith(".attn1")}
        processors = dict(self.unet.attn_processors)
        for name in processors:
            block, _, attention = name.removesuffix(".processor").rpartition(".")
            if "motion_modules" in name:
                continue
            if attention == "attn1":
                processors[name] = BankAttention(self, block, adapted[f"{block}.attn1"].lora)
            else:
                processors[name] = StreamAttention(self, streams[f"{block}.attn2"])
        self.unet.set_attn_processor(processors)
        self.untrained = [
            module
            for name, module in self.unet.named_modules()
            if name.rpartition(".")[0].endswith("motion_modules") and not module.proj_out.weight.float().any()
        ]
        self.merged = False
        self.bank_on, self.audio, self.camera = False, None, None
        extensions = model.unet.extensions
        if "portrait_copy" in extensions:
            copy = extensions["portrait_copy"]
            self.reference_in, self.copy_gate = copy.reference_in, copy.gate
            self.unet.conv_in.register_forward_hook(self.show_portrait)
            self.unet.conv_out.register_forward_hook(self.copy_portrait)
        self.motion_embedding = extensions["head_motion"].embedding if "head_motion" in extensions else None
        if self.motion_embedding is not None:
            for module in self.unet.modules():
                if isinstance(module, ResnetBlock2D):
                    module.register_forward_pre_hook(self.add_head_motion, with_kwargs=True)

    def configure(self, merge_adapters: bool, skip_untrained: bool) -> None:
        """Choose what is computed; the predictions stay the same.

        merge_adapters: merge LoRA into the weights of the layers it adapts. skip_untrained: leave out the motion
        modules whose output projection is zero.
        """
        self.merged = merge_adapters
        for module in self.untrained:
            if skip_untrained:
                module.forward = unchanged
            else:
                vars(module).pop("forward", None)

    def add_head_motion(self, _module, inputs, named):
        return inputs, named | {"temb": named["temb"] + self.head_motion} if self.bank_on else named

    def show_portrait(self, _module, _inputs, noisy: Tensor) -> Tensor:
        return noisy + self.reference_in(self.portrait) if self.bank_on else noisy

    def copy_portrait(self, _module, inputs, made: Tensor) -> Tensor:
        return torch.lerp(made, self.portrait, self.copy_gate(inputs[0]).sigmoid()) if self.bank_on else made

    @torch.no_grad()
    def read(self, reference: Tensor, identity: Tensor) -> None:
        """Encode the reference [1, C, 1, h, w], once a clip; identity: tokens [1, L, D]."""
        self.portrait = reference[:, :, 0]
        self.banks = [self.features(reference, identity)]

    def show_warped(self, portraits: Tensor) -> None:
        """Set the portrait warped to every frame, latents [1, C, T, h, w], once a chunk."""
        self.portrait = rearrange(portraits, "1 c t h w -> t c h w")

    @torch.no_grad()
    def look_back(self, context: Tensor, identity: Tensor) -> None:
        """Encode context frames [1, C, R, h, w], once a chunk."""
        self.banks = [*self.banks[:1], self.features(context, identity)]

    def features(self, frames: Tensor, identity: Tensor) -> dict[str, Tensor]:
        """Return the normed inputs [1, R * h * w, C] of each block, by its name."""
        pictures = rearrange(frames, "1 c r h w -> r c h w")
        self.recorded = {}
        self.reference(pictures, 0, encoder_hidden_states=identity.expand(len(pictures), -1, -1))
        return {block: rearrange(seen, "r l c -> 1 (r l) c") for block, seen in self.recorded.items()}

    @torch.no_grad()
    def predict(self, latents, timestep, identity, nobody, audio, camera, head_motion, guidance_scale: float) -> Tensor:
        """Return one guided prediction, after `read`.

        Without guidance (scale 1) the null branch does not run, as in diffusers' pipelines. latents [1, C, T, h, w];
        identity, nobody: tokens [1, L, D]; audio, camera: tokens [1, T, L, D] or None; head_motion [1, T, K].
        """
        branches = [(identity, True)] if guidance_scale == 1 else [(nobody, False), (identity, True)]
        answers = []
        for tokens, conditioned in branches:
            self.bank_on = conditioned
            self.audio, self.camera = (audio, camera) if conditioned else (None, None)
            self.head_motion = None
            if conditioned and self.motion_embedding is not None:
                self.head_motion = self.motion_embedding(head_motion[0])
            repeated = tokens.repeat_interleave(latents.shape[2], dim=0)
            answers.append(self.unet(latents, timestep, encoder_hidden_states=repeated).sample)
        null, full = answers[0], answers[-1]
        return null + guidance_scale * (full - null)


def unchanged(hidden_states: Tensor, *_, **__) -> Tensor:
    """Return the input, as a motion module does whose output projection is zero."""
    return hidden_states


def split(attn, x: Tensor) -> Tensor:
    return rearrange(x, "b l (h d) -> b h l d", h=attn.heads)


def attend(attn, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    out = F.scaled_dot_product_attention(split(attn, query), split(attn, key), split(attn, value))
    return rearrange(out, "b h l d -> b l (h d)")


class BankAttention(nn.Module):
    """Self-attention whose keys and values include the recorded features of the reference network."""

    def __init__(self, owner: PlainComposition, block: str, lora: nn.ModuleDict):
        super().__init__()
        self.__dict__["owner"], self.__dict__["lora"] = owner, lora  # not submodules
        self.block = block
        self.__dict__["merged"] = {}  # name of a layer -> its weight with the adapter's

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        seen = hidden_states
        if self.owner.bank_on:
            banks = [bank[self.block].expand(len(hidden_states), -1, -1) for bank in self.owner.banks]
            seen = torch.cat([hidden_states, *banks], dim=1)
        query, key, value = (
            self.adapted(name, getattr(attn, name), x)
            for name, x in (("to_q", hidden_states), ("to_k", seen), ("to_v", seen))
        )
        return self.adapted("to_out", attn.to_out[0], attend(attn, query, key, value))

    def adapted(self, name: str, layer: nn.Module, x: Tensor) -> Tensor:
        if not self.owner.merged:
            return layer(x) + self.lora[name](x)
        if name not in self.merged:
            self.merged[name] = layer.weight + self.lora[name].delta()
        return F.linear(x, self.merged[name], layer.bias)


class StreamAttention(nn.Module):
    """Cross-attention to identity tokens, plus audio and camera tokens through projections of their own."""

    def __init__(self, owner: PlainComposition, ours: nn.Module):
        super().__init__()
        self.__dict__["owner"], self.__dict__["ours"] = owner, ours

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        query = attn.to_q(hidden_states)
        z = attend(attn, query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        for stream in ("audio", "camera"):
            tokens = getattr(self.owner, stream)
            if tokens is not None:
                maps, flat = getattr(self.ours, stream), tokens.flatten(0, 1)
                z = z + attend(attn, query, maps.to_k(flat), maps.to_v(flat))
        return attn.to_out[0](z)
