"""The UNet against diffusers' own networks: same weights in, same numbers out, same names at full width."""

from __future__ import annotations

import pytest
import torch
from diffusers import MotionAdapter, UNet2DConditionModel
from diffusers_networks import image_unet, motion_unet, randomise

from starcaster_core.models.attention_cache import cache_condition
from starcaster_core.models.unet import StarcasterUNet
from starcaster_core.presets import PRESETS, UNetConfig

OURS_ALONE = ("extensions", ".lora.", ".audio.", ".camera.")
REDUCED = UNetConfig(
    in_channels=4,
    block_out_channels=(32, 64, 64, 96),
    attention_levels=(True, True, True, False),
    num_attention_heads=(4, 4, 4, 4),
    motion_num_attention_heads=(2, 2, 2, 2),
    cross_attention_dim=24,
    norm_num_groups=8,
    lora_rank=4,
)


def ours_with(weights: dict, config: UNetConfig) -> StarcasterUNet:
    unet = StarcasterUNet(config).eval()
    missing, unexpected = unet.load_state_dict(weights, strict=False)
    assert not unexpected
    assert all(any(part in key for part in OURS_ALONE) for key in missing)
    return unet


def relative_error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(2, 4, 6, 16, 16, generator=generator)
    tokens = torch.randn(2, 5, REDUCED.cross_attention_dim, generator=generator)
    return latents, torch.tensor([13, 801]), tokens


@torch.no_grad()
def test_equals_the_image_unet_of_diffusers_frame_by_frame(inputs):
    latents, timesteps, tokens = inputs
    reference = randomise(image_unet(REDUCED))
    weights = reference.state_dict()
    config = UNetConfig(**{**REDUCED.__dict__, "motion": False})
    unet = ours_with(weights, config)
    ours = unet(latents, timesteps, cache_condition(unet.cache_identity(tokens)))
    for frame in range(latents.shape[2]):
        theirs = reference(latents[:, :, frame], timesteps, encoder_hidden_states=tokens).sample
        assert relative_error(ours[:, :, frame], theirs) < 1e-4


@torch.no_grad()
def test_equals_the_motion_unet_of_diffusers(inputs):
    latents, timesteps, tokens = inputs
    reference = randomise(motion_unet(REDUCED))
    unet = ours_with(reference.state_dict(), REDUCED)
    ours = unet(latents, timesteps, cache_condition(unet.cache_identity(tokens)))
    repeated = tokens.repeat_interleave(latents.shape[2], dim=0)
    theirs = reference(latents, timesteps, encoder_hidden_states=repeated).sample
    assert relative_error(ours, theirs) < 1e-4


@pytest.mark.parametrize("preset", ["sd15", "mini", "tiny"])
def test_names_and_shapes_are_those_of_diffusers(preset):
    config = PRESETS[preset].unet
    with torch.device("meta"):
        ours, image, motion = StarcasterUNet(config), image_unet(config), motion_unet(config)
        adapter = MotionAdapter(
            block_out_channels=config.block_out_channels,
            motion_layers_per_block=config.layers_per_block,
            motion_num_attention_heads=config.motion_num_attention_heads,
            motion_norm_num_groups=config.norm_num_groups,
            motion_max_seq_length=config.motion_max_seq_length,
        )

    def shapes(module):
        state = module.state_dict().items()
        return {key: tuple(value.shape) for key, value in state if not any(part in key for part in OURS_ALONE)}

    assert shapes(ours) == shapes(motion)
    assert {key: shape for key, shape in shapes(ours).items() if "motion_modules" not in key} == shapes(image)
    assert {key: shape for key, shape in shapes(ours).items() if "motion_modules" in key} == shapes(adapter)


class TwoNetworks:
    """Arc2Face's reference adapter with two copies of diffusers' UNet: one writes what each block attends to, the other
    reads it as further keys and values. Merged adapters are part of the reading network alone."""

    def __init__(self, writer: UNet2DConditionModel, reader: UNet2DConditionModel):
        self.writer, self.reader, self.banks = writer, reader, []

    @staticmethod
    def blocks(unet: UNet2DConditionModel) -> list[torch.nn.Module]:
        stages = [*unet.down_blocks, unet.mid_block, *unet.up_blocks]
        spatial = [attention for stage in stages for attention in getattr(stage, "attentions", ())]
        return [block for transformer in spatial for block in transformer.transformer_blocks]

    def write(self, latents: torch.Tensor, tokens: torch.Tensor) -> None:
        """latents [R, C, h, w]: reference and context frames, at t = 0"""
        kept: list[torch.Tensor] = []
        hooks = [
            block.norm1.register_forward_hook(lambda _m, _i, normed: kept.append(normed))
            for block in self.blocks(self.writer)
        ]
        self.writer(latents, torch.tensor(0), encoder_hidden_states=tokens.expand(len(latents), -1, -1))
        for hook in hooks:
            hook.remove()
        self.banks = [normed.flatten(0, 1)[None] for normed in kept]

    def read(self, latents: torch.Tensor, timestep: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
        hooks = []
        for block, bank in zip(self.blocks(self.reader), self.banks):

            def extend(_module, arguments, options, bank=bank):
                return arguments, options | {"encoder_hidden_states": torch.cat([arguments[0], bank], dim=1)}

            hooks.append(block.attn1.register_forward_pre_hook(extend, with_kwargs=True))
        out = self.reader(latents, timestep, encoder_hidden_states=tokens).sample
        for hook in hooks:
            hook.remove()
        return out


@pytest.mark.parametrize("adapters", [False, True])
@torch.no_grad()
def test_the_bank_equals_a_two_network_reference_adapter(adapters, inputs):
    """One set of weights, run bare for the reference and with merged LoRA for the frames, against two networks."""
    _, _, tokens = inputs
    tokens = tokens[:1]
    generator = torch.Generator().manual_seed(7)
    latents, reference, context = (torch.randn(1, 4, n, 16, 16, generator=generator) for n in (1, 1, 2))
    writer, reader = randomise(image_unet(REDUCED)), randomise(image_unet(REDUCED))
    for block in TwoNetworks.blocks(writer) + TwoNetworks.blocks(reader):
        block.attn1.to_out[0].weight *= 10  # so that what is attended to counts
    unet = ours_with(writer.state_dict(), UNetConfig(**{**REDUCED.__dict__, "motion": False}))
    if adapters:
        for ours, theirs in zip(unet.transformer_blocks(), TwoNetworks.blocks(reader)):
            for name, lora in ours.attn1.lora.items():
                randomise(lora, seed=11)
                layer = theirs.attn1.to_out[0] if name == "to_out" else getattr(theirs.attn1, name)
                layer.weight += lora.delta()
    assert len(unet.transformer_blocks()) == 16

    identity = unet.cache_identity(tokens)
    banks = tuple(unet.cache_bank(unet.reference_features(frames, identity)) for frames in (reference, context))
    ours = unet(latents, torch.tensor([801]), cache_condition(identity, banks=banks))

    two = TwoNetworks(writer, reader)
    two.write(torch.cat([reference, context], dim=2)[0].movedim(1, 0), tokens)
    assert len(two.banks) == 16
    theirs = two.read(latents[:, :, 0], torch.tensor(801), tokens)
    assert relative_error(ours[:, :, 0], theirs) < 1e-4
    alone = reader(latents[:, :, 0], torch.tensor(801), encoder_hidden_states=tokens).sample
    assert relative_error(alone, theirs) > 1e-2, "the reference is seen"


@pytest.mark.slow
@torch.no_grad()
def test_equals_the_image_unet_of_diffusers_at_full_width():
    """Stable Diffusion 1.5's own sizes, one frame of 16x16 latents. About 4 GB of memory: the two share their
    weights."""
    config = UNetConfig(motion=False)
    with torch.device("meta"):
        reference, unet = image_unet(config), StarcasterUNet(config)
        assert len(unet.transformer_blocks()) == 16
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: torch.empty(value.shape).uniform_(-1, 1, generator=generator) * (3 / max(value[0].numel(), 1)) ** 0.5
        for name, value in reference.state_dict().items()
    }
    quiet = {name: torch.zeros(v.shape) for name, v in unet.state_dict().items() if name not in weights}
    reference.load_state_dict(weights, assign=True)
    unet.load_state_dict(weights | quiet, assign=True)
    latents = torch.randn(1, 4, 1, 16, 16, generator=generator)
    tokens = torch.randn(1, 77, 768, generator=generator)
    ours = unet.eval()(latents, torch.tensor([500]), cache_condition(unet.cache_identity(tokens)))
    theirs = reference.eval()(latents[:, :, 0], torch.tensor([500]), encoder_hidden_states=tokens).sample
    assert torch.isfinite(theirs).all() and theirs.std() > 1e-3
    assert relative_error(ours[:, :, 0], theirs) < 1e-4
