"""Less memory, the same numbers: weights in eight bits, blocks that come and go, frames decoded one by one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from starcaster_core.models.attention_cache import cache_condition
from starcaster_core.models.autoencoder import StableDiffusionAutoencoder
from starcaster_core.models.checkpoint import load_checkpoint, random_model
from starcaster_core.models.offload import BlockOffload
from starcaster_core.models.storage import CompactLinear, compact, is_compact, store_in_float8, weight_of
from starcaster_core.presets import PRESETS

TINY = PRESETS["tiny"]


@pytest.fixture
def unet():
    return random_model(TINY).unet.eval()


@torch.no_grad()
def answer(unet) -> torch.Tensor:
    """One prediction with an identity and a bank, the reference pass included."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, 16, 4, 8, 8, generator=generator)
    tokens = torch.randn(1, 2, TINY.unet.cross_attention_dim, generator=generator)
    unet.merge_adapters()
    try:
        identity = unet.cache_identity(tokens)
        bank = unet.cache_bank(unet.reference_features(latents[:, :, :1], identity))
        return unet(latents, torch.tensor([500]), cache_condition(identity, banks=(bank,)))
    finally:
        unet.unmerge_adapters()


def test_offloaded_blocks_give_the_same_numbers_and_only_two_are_there_at_a_time(unet):
    wanted = answer(unet)
    most = 0
    with BlockOffload(unet, "cpu") as offload:

        def count(*_):
            nonlocal most
            most = max(most, offload.on_device)

        hooks = [block.register_forward_pre_hook(count) for block in unet.blocks()]
        torch.testing.assert_close(answer(unet), wanted)
        for hook in hooks:
            hook.remove()
    assert most == 2
    assert offload.on_device == 0
    torch.testing.assert_close(answer(unet), wanted)


def test_blocks_stay_home_after_an_error(unet):
    wanted = answer(unet)
    with pytest.raises(RuntimeError, match="broken"), BlockOffload(unet, "cpu") as offload:
        unet.mid_block.resnets[0].register_forward_hook(lambda *_: (_ for _ in ()).throw(RuntimeError("broken")))
        answer(unet)
    assert offload.on_device == 0
    unet.mid_block.resnets[0]._forward_hooks.clear()
    torch.testing.assert_close(answer(unet), wanted)


def test_nearly_all_weights_travel(unet):
    offload = BlockOffload(unet, "cpu")
    away = sum(x.numel() for block in offload.blocks for _, x in block.weights)
    total = sum(x.numel() for x in unet.parameters())
    with torch.device("meta"):
        large = type(unet)(PRESETS["sd15"].unet)
    assert away > 0.6 * total
    from starcaster_core.models.offload import travelling

    away = sum(x.numel() for block in large.blocks() for _, x in travelling(block))
    assert away > 0.85 * sum(x.numel() for x in large.parameters())


@torch.no_grad()
def test_a_weight_in_float8_is_the_weight_to_four_bits():
    layer = torch.nn.Linear(64, 64)
    layer.weight[3] *= 1e-4  # a scale a channel: small rows keep their digits
    before = layer.weight.clone()
    compact(layer)
    assert isinstance(layer, CompactLinear) and layer.weight.dtype == torch.float8_e4m3fn
    error = (weight_of(layer) - before).abs()
    assert (error <= before.abs() / 16 + before.abs().amax(dim=1, keepdim=True) * 2**-14).all()
    x = torch.randn(5, 64)
    torch.testing.assert_close(layer(x), torch.nn.functional.linear(x, weight_of(layer), layer.bias))


def test_a_network_in_float8_computes_with_its_rounded_weights(unet):
    store_in_float8(unet, keep=("lora",))
    small = answer(unet)
    assert sum(is_compact(module) for module in unet.modules()) > 20
    rounded = random_model(TINY).unet.eval()
    stored = dict(unet.named_modules())
    for name, module in rounded.named_modules():
        if is_compact(stored[name]):
            module.weight.data = weight_of(stored[name])
    torch.testing.assert_close(small, answer(rounded), rtol=1e-3, atol=1e-4)
    exact = answer(random_model(TINY).unet.eval())
    assert 0 < (small - exact).abs().mean() < 0.1 * exact.abs().mean()


def test_float8_and_offloading_go_together(unet):
    store_in_float8(unet, keep=("lora",))
    wanted = answer(unet)
    with BlockOffload(unet, "cpu"):
        torch.testing.assert_close(answer(unet), wanted)


def test_a_model_is_loaded_in_float8_and_moves_without_losing_it():
    model = load_checkpoint("tiny", torch.bfloat16, float8=True)
    kinds = {parameter.dtype for parameter in model.unet.parameters()}
    assert kinds == {torch.bfloat16, torch.float8_e4m3fn} and model.dtype == torch.bfloat16
    assert sum(x.nbytes for x in model.unet.parameters()) < 0.8 * sum(
        x.nbytes for x in load_checkpoint("tiny", torch.bfloat16).unet.parameters()
    )


@torch.no_grad()
def test_the_stable_diffusion_decoder_sees_one_frame_at_a_time():
    autoencoder = StableDiffusionAutoencoder(replace(PRESETS["sd15"].autoencoder)).eval()
    latents = torch.randn(3, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    sizes = []
    autoencoder.kl.decoder.register_forward_hook(lambda _m, inputs, _o: sizes.append(len(inputs[0])))
    together = autoencoder.kl._decode(latents).sample
    torch.testing.assert_close(autoencoder.decode(latents), together, rtol=1e-3, atol=1e-4)
    assert sizes == [3, 1, 1, 1]
