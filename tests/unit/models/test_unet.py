"""What the caches and the shared weights promise: the same numbers as doing everything again, or with two networks."""

from __future__ import annotations

import copy

import pytest
import torch
from einops import rearrange

from starcaster_core.models.attention_cache import BlockCache, ConditionCache, cache_condition
from starcaster_core.models.checkpoint import random_model
from starcaster_core.presets import PRESETS

TINY = PRESETS["tiny"]
FRAMES = 4


@pytest.fixture(scope="module")
def unet():
    return random_model(TINY).unet.eval()


@pytest.fixture
def inputs():
    generator = torch.Generator().manual_seed(3)

    def draw(*shape):
        return torch.randn(*shape, generator=generator)

    dim = TINY.unet.cross_attention_dim
    return {
        "latents": draw(2, 16, FRAMES, 8, 8),
        "timesteps": torch.tensor([40, 700]),
        "identity": draw(2, 3, dim),
        "audio": draw(2, FRAMES, 4, dim),
        "camera": draw(2, FRAMES, 2, dim),
        "frames": draw(2, 16, 3, 8, 8),
    }


def full_condition(unet, inputs, **lambdas):
    identity = unet.cache_identity(inputs["identity"])
    bank = unet.cache_bank(unet.reference_features(inputs["frames"], identity))
    return cache_condition(
        identity, unet.cache_audio(inputs["audio"]), unet.cache_camera(inputs["camera"]), (bank,), **lambdas
    )


@torch.no_grad()
def test_the_cached_pass_equals_one_that_computes_everything_from_tokens(unet, inputs):
    """An independent forward pass: plain softmax attention over tokens, keys and values made anew in every block."""
    cached = unet(inputs["latents"], inputs["timesteps"], full_condition(unet, inputs, lambda_audio=0.7))
    identity = unet.cache_identity(inputs["identity"])
    banks = iter(unet.reference_features(inputs["frames"], identity))
    heads = TINY.unet.num_attention_heads[0]

    def softmax_attention(query, key, value):
        query, key, value = (rearrange(x, "b l (h d) -> b h l d", h=heads) for x in (query, key, value))
        weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(dim=-1)
        return rearrange(weights @ value, "b h l d -> b l (h d)")

    def per_frame(x):
        return x.repeat_interleave(FRAMES, dim=0)

    def plain(block, x):
        def adapted(name, y):
            layer = block.attn1.to_out[0] if name == "to_out" else getattr(block.attn1, name)
            lora = block.attn1.lora[name]
            return layer(y) + y @ lora.down.weight.T @ lora.up.weight.T

        own = block.norm1(x)
        seen = torch.cat([own, per_frame(next(banks))], dim=1)
        attended = softmax_attention(adapted("to_q", own), adapted("to_k", seen), adapted("to_v", seen))
        x = x + adapted("to_out", attended)
        query = block.attn2.to_q(block.norm2(x))
        tokens = per_frame(inputs["identity"])
        z = softmax_attention(query, block.attn2.to_k(tokens), block.attn2.to_v(tokens))
        for stream, weight in (("audio", 0.7), ("camera", 1.0)):
            tokens = inputs[stream].flatten(0, 1)
            maps = getattr(block.attn2, stream)
            z = z + weight * softmax_attention(query, maps.to_k(tokens), maps.to_v(tokens))
        x = x + block.attn2.to_out[0](z)
        return x + block.ff(block.norm3(x))

    blocks = unet.transformer_blocks()
    originals = [block.forward for block in blocks]
    try:
        for block in blocks:
            block.forward = lambda x, *_, block=block, **__: plain(block, x)
        empty = ConditionCache([BlockCache()] * len(blocks))
        uncached = unet(inputs["latents"], inputs["timesteps"], empty)
    finally:
        for block, original in zip(blocks, originals):
            block.forward = original
    torch.testing.assert_close(cached, uncached, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_the_reference_pass_equals_a_second_network_without_adapters(unet, inputs):
    """A separate copy of the 2D weights, stripped of adapters, streams and motion, recording its norm1 outputs."""
    separate = copy.deepcopy(unet)
    for stage in [*separate.down_blocks, separate.mid_block, *separate.up_blocks]:
        del stage.motion_modules
    recorded = []
    for block in separate.transformer_blocks():
        for part in (block.attn1.lora, block.attn2.audio, block.attn2.camera):
            for parameter in part.parameters():
                parameter.fill_(torch.nan)  # would spread into everything if it were touched
        block.norm1.register_forward_hook(lambda _m, _i, out: recorded.append(out))
        block.attn1.lora = torch.nn.ModuleDict()
    tokens = inputs["identity"].repeat_interleave(3, dim=0)
    frames = rearrange(inputs["frames"], "b c r h w -> (b r) c 1 h w")
    separate(frames, torch.zeros(1, dtype=torch.long), cache_condition(separate.cache_identity(tokens)))

    features = unet.reference_features(inputs["frames"], unet.cache_identity(inputs["identity"]))
    assert len(features) == len(recorded)
    for ours, theirs in zip(features, recorded):
        torch.testing.assert_close(ours, rearrange(theirs, "(b r) l c -> b (r l) c", r=3), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_merged_adapters_equal_separate_ones_and_leave_the_reference_pass_alone(unet, inputs):
    identity = unet.cache_identity(inputs["identity"])
    before = unet(inputs["latents"], inputs["timesteps"], full_condition(unet, inputs))
    features = unet.reference_features(inputs["frames"], identity)
    unet.merge_adapters()
    try:
        after = unet(inputs["latents"], inputs["timesteps"], full_condition(unet, inputs))
        features_after = unet.reference_features(inputs["frames"], identity)
    finally:
        unet.unmerge_adapters()
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(features_after, features)


@torch.no_grad()
@pytest.mark.parametrize("stream", ["audio", "camera"])
def test_a_lambda_of_zero_equals_a_stream_that_is_not_there(unet, inputs, stream):
    silenced = full_condition(unet, inputs, **{f"lambda_{stream}": 0.0})
    absent = full_condition(unet, inputs)
    for cache in absent.blocks:
        setattr(cache, stream, None)
    run = lambda condition: unet(inputs["latents"], inputs["timesteps"], condition)  # noqa: E731
    torch.testing.assert_close(run(silenced), run(absent))
    assert (run(full_condition(unet, inputs)) - run(absent)).abs().max() > 1e-3


@torch.no_grad()
def test_each_frame_hears_its_own_audio_alone(unet, inputs):
    """With motion off, changing the sound of frame 2 changes frame 2 and no other."""
    condition = full_condition(unet, inputs)
    changed_inputs = {**inputs, "audio": inputs["audio"].clone()}
    changed_inputs["audio"][:, 2] += 1
    changed = full_condition(unet, changed_inputs)
    one, other = (unet(inputs["latents"], inputs["timesteps"], c, motion=False) for c in (condition, changed))
    difference = (one - other).abs().amax(dim=(0, 1, 3, 4))
    assert difference[2] > 1e-4
    assert difference[[0, 1, 3]].max() == 0


@torch.no_grad()
def test_clips_of_a_batch_do_not_see_each_other(unet, inputs):
    together = unet(inputs["latents"], inputs["timesteps"], full_condition(unet, inputs))
    for clip in range(2):
        alone = {name: value[clip : clip + 1] for name, value in inputs.items()}
        result = unet(alone["latents"], alone["timesteps"], full_condition(unet, alone))
        torch.testing.assert_close(result, together[clip : clip + 1], rtol=1e-4, atol=1e-4)


def test_gradients_in_bfloat16_agree_with_float32(inputs):
    """Training in bfloat16 on a CPU takes another attention path; it must compute the same thing."""
    grads = {}
    for enabled in (False, True):
        unet = random_model(TINY).unet
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            out = unet(inputs["latents"], inputs["timesteps"], full_condition(unet, inputs))
        out.float().square().mean().backward()
        grads[enabled] = torch.cat([p.grad.flatten() for p in unet.parameters() if p.grad is not None])
    assert torch.nn.functional.cosine_similarity(grads[False], grads[True], dim=0) > 0.99


@torch.no_grad()
def test_the_portrait_enters_beside_every_frame_and_is_copied_where_the_gate_is_open(unet, inputs):
    """Against the usual way to hand a picture over: one wider first convolution over stacked channels."""
    portrait = inputs["frames"][:, :, :1]
    identity = unet.cache_identity(inputs["identity"])
    extensions = {"portrait_copy": unet.extensions["portrait_copy"].prepare(portrait)}

    def ours(gate_bias):
        changed = copy.deepcopy(unet)
        changed.extensions["portrait_copy"].gate.weight.zero_()
        changed.extensions["portrait_copy"].gate.bias.fill_(gate_bias)
        return changed(inputs["latents"], inputs["timesteps"], cache_condition(identity, extensions=extensions))

    wide = copy.deepcopy(unet)
    wide.conv_in = torch.nn.Conv2d(32, unet.conv_in.out_channels, 3, padding=1)
    wide.conv_in.weight.copy_(
        torch.cat([unet.conv_in.weight, unet.extensions["portrait_copy"].reference_in.weight], dim=1)
    )
    wide.conv_in.bias.copy_(unet.conv_in.bias + unet.extensions["portrait_copy"].reference_in.bias)
    stacked = torch.cat([inputs["latents"], portrait.expand_as(inputs["latents"])], dim=1)
    made = wide(stacked, inputs["timesteps"], cache_condition(identity))
    copied = portrait.expand_as(made)
    torch.testing.assert_close(ours(-30.0), made, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ours(30.0), copied)
    torch.testing.assert_close(ours(0.0), (made + copied) / 2, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_a_condition_used_for_a_second_step_keeps_nothing_of_the_first(unet, inputs):
    """One clip, whose bank is laid out once: the room in front of it is written anew at every step."""
    one = {name: tensor[:1] for name, tensor in inputs.items()}
    condition = full_condition(unet, one)
    unet(one["latents"], one["timesteps"], condition)
    other = inputs["latents"][1:]
    fresh = unet(other, one["timesteps"], full_condition(unet, one))
    torch.testing.assert_close(unet(other, one["timesteps"], condition), fresh, rtol=1e-4, atol=1e-5)
