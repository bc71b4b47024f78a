"""Ways to call the network faster: the same numbers, whichever is taken."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.starcaster import Starcaster
from starcaster_core.presets import PRESETS
from starcaster_core.sampling import execution
from starcaster_core.sampling.execution import Execution, Network, Replayed
from starcaster_core.sampling.rollout import denoise, rollout
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.types import Identity, Speech


@pytest.fixture
def model():
    return load_checkpoint("tiny", dtype=torch.float32)


@pytest.fixture
def conditions() -> Conditions:
    """Two chunks"""
    rng = np.random.default_rng(0)
    identity = Identity(rng.normal(size=128).astype(np.float32), rng.integers(0, 256, (64, 64, 3), dtype=np.uint8))
    features = torch.randn(32, 64, generator=torch.Generator().manual_seed(0))
    return Conditions(identity, Speech(features, 32 / 25, "phonetic"))


def video(model, conditions, how: Execution | None = None, **settings) -> torch.Tensor:
    chunks = rollout(model, conditions, SamplerSettings(**{"steps": 2, **settings}), execution=how)
    return torch.cat([chunk.latents for chunk in chunks], dim=2)


@pytest.mark.parametrize("scales", [{}, {"camera_scale": 2.0, "audio_scale": 4.0}, {"guidance_end": 0.5}])
def test_guidance_in_one_batch_gives_the_same_video(model, conditions, scales):
    together = video(model, conditions, Execution(batch_guidance=True), **scales)
    torch.testing.assert_close(together, video(model, conditions, **scales), rtol=1e-3, atol=1e-3)


def test_guidance_in_one_batch_asks_the_network_once_a_step(model, conditions):
    shapes = []
    original = model.unet.forward
    model.unet.forward = lambda x, *a, **k: shapes.append(x.shape[0]) or original(x, *a, **k)
    video(model, conditions, Execution(batch_guidance=True), guidance_end=0.5)
    # The reference, two steps of which one is guided, the context, two steps again
    assert shapes == [1, 2, 1, 1, 2, 1]


@pytest.mark.slow
def test_compiled_blocks_give_the_same_video(model, conditions, monkeypatch):
    plain = video(model, conditions, steps=1)
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(execution, "COMPILER", backend)
    compiled = video(model, conditions, Execution(compile=True), steps=1)
    assert graphs, "nothing was compiled"
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-3)
    graphs.clear()
    assert torch.equal(video(model, conditions, steps=1), plain) and not graphs, "compiled only where it was asked for"


@pytest.mark.slow
def test_a_compiler_that_fails_is_left_out_with_a_warning(model, conditions, monkeypatch):
    plain = video(model, conditions, steps=1)

    def broken(_graph, _inputs):
        raise RuntimeError("no compiler on this machine")

    monkeypatch.setattr(execution, "COMPILER", broken)
    with pytest.warns(UserWarning, match="no compiler on this machine"):
        assert torch.equal(video(model, conditions, Execution(compile=True), steps=1), plain)


def test_cuda_graphs_without_cuda_are_left_out_with_a_warning(model, conditions):
    with pytest.warns(UserWarning, match="need a CUDA device"):
        graphed = video(model, conditions, Execution(cuda_graphs=True))
    assert torch.equal(graphed, video(model, conditions))


@pytest.mark.parametrize("batched", [False, True])
def test_a_recording_is_fed_every_new_input(model, conditions, batched, monkeypatch):
    """A stand-in for CUDA graphs that, like them, can only run the same work again on the same storage."""
    recorded = []

    def capture(work):
        output = work().clone()
        recorded.append(output)
        return lambda: output.copy_(work()), output

    class Recorded(Network):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.run = Replayed(self.model.unet, capture)

    features = torch.randn(48, 64, generator=torch.Generator().manual_seed(1))
    # Three chunks: the third comes with the second's shapes and other numbers.
    conditions = Conditions(conditions.identity, Speech(features, 48 / 25, "phonetic"))
    plain = video(model, conditions)
    monkeypatch.setattr(sys.modules[denoise.__module__], "Network", Recorded)
    replayed = video(model, conditions, Execution(batch_guidance=batched))
    torch.testing.assert_close(replayed, plain, rtol=1e-3, atol=1e-3)
    # Null and full, without and with context frames, for three chunks; or both in one.
    assert len(recorded) == (2 if batched else 3)


@pytest.mark.parametrize("scheduler", ["dpmpp", "ddim"])
def test_nothing_in_a_chunk_waits_for_the_device(scheduler):
    """On the meta device there are no numbers: whoever asks for one (`.item()`, `int()`, `if x > 0`) fails."""
    model = Starcaster(PRESETS["tiny"]).eval().to("meta")
    model.unet.merge_adapters()
    tokens = torch.empty(1, 2, model.config.unet.cross_attention_dim, device="meta")
    identity = model.unet.cache_identity(tokens)
    portrait = torch.empty(1, 16, 1, 8, 8, device="meta")
    branches = [
        execution.Branch(model.condition(identity), -2.0),
        execution.Branch(model.condition(identity, banks=(model.cache_frames(portrait, identity),)), 3.0),
    ]
    settings = SamplerSettings(steps=3, scheduler=scheduler)
    latents = denoise(Network(model), branches, settings, 0, report=lambda *_: None, stop=lambda: False)
    assert latents.shape == (1, 16, 16, 8, 8) and latents.is_meta


@torch.no_grad()
def test_merged_parts_of_attention_equal_attention_over_all_keys():
    from starcaster_core.models.attention_kernels import attend, attend_apart

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(6, 2, 5, 8, generator=generator) for _ in range(3))
    bank = tuple(torch.randn(2, 2, 7, 8, generator=generator) for _ in range(2))
    repeated = (x.repeat_interleave(3, dim=0) for x in bank)
    wanted = attend(query, *(torch.cat(pair, dim=2) for pair in zip((key, value), repeated)))
    torch.testing.assert_close(attend_apart(query, (key, value), bank), wanted, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_plain_products_in_bfloat16_equal_fused_attention(monkeypatch):
    from starcaster_core.models import attention_kernels as attention

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, n, 32, generator=generator).bfloat16() for n in (16, 48, 48))
    wanted = attention.attend(query.float(), key.float(), value.float())
    for amx in (True, False):
        monkeypatch.setattr(attention, "has_amx", lambda amx=amx: amx)
        assert attention.plain_products_are_faster(query, key) != amx
        torch.testing.assert_close(attention.attend(query, key, value).float(), wanted, rtol=0.05, atol=0.02)


@pytest.mark.parametrize("size", [0.1, 1.0, 4.0, 40.0])
@torch.no_grad()
def test_scores_of_any_size_are_weighed_as_by_fused_attention(monkeypatch, size):
    """Small ones without looking for the largest first, and large ones, which would be infinite, with"""
    from starcaster_core.models import attention_kernels as attention

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(2, 2, n, 32, generator=generator) for n in (24, 48, 48))
    query *= size
    ways = []
    for name in ("softmax_product", "small_softmax_product"):
        real = getattr(attention, name)
        monkeypatch.setattr(attention, name, lambda *a, real=real, name=name: ways.append(name) or real(*a))
    wanted = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    torch.testing.assert_close(attention.attend_plainly(query, key, value), wanted, rtol=1e-4, atol=1e-5)
    assert set(ways) == {"small_softmax_product" if size < 40 else "softmax_product"}


@pytest.mark.parametrize("queries, keys", [(48, 5), (16, 16), (4, 2), (48, 16)])
@torch.no_grad()
def test_plain_products_over_few_keys_equal_fused_attention(monkeypatch, queries, keys):
    from starcaster_core.models import attention_kernels as attention

    generator = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(3, 2, n, 32, generator=generator).bfloat16() for n in (queries, keys, keys))
    monkeypatch.setattr(attention, "has_amx", lambda: False)
    wanted = attention.attend(query.float(), key.float(), value.float())
    torch.testing.assert_close(attention.attend(query, key, value).float(), wanted, rtol=0.02, atol=0.02)


def cross_attention(audio: bool = True, camera: bool = True):
    """A layer, and two clips of four frames, six positions and few tokens as two conditions"""
    from starcaster_core.models.attention import DecoupledCrossAttention
    from starcaster_core.models.attention_cache import BlockCache

    torch.manual_seed(0)
    layer = DecoupledCrossAttention(64, 24, heads=2)
    for stream in (layer.audio, layer.camera):
        torch.nn.init.normal_(stream.to_v.weight)

    def cache():
        streams = [layer.audio(torch.randn(4, 3, 24)) if audio else None, layer.camera(torch.randn(4, 2, 24))]
        return BlockCache(layer.cache_identity(torch.randn(1, 5, 24)), streams[0], streams[1] if camera else None)

    return layer, torch.randn(8, 6, 64), [cache(), cache()], [(1.0, 0.3), (0.5, 0.0)]


@pytest.mark.parametrize("streams", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("dtype, error", [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_folded_cross_attention_equals_the_long_way(streams, dtype, error):
    with torch.no_grad():
        layer, x, caches, lambdas = cross_attention(*streams)
    wanted = layer(x, caches, lambdas)  # as in training, where nothing is folded
    assert wanted.requires_grad and caches[0].folded is None
    layer = layer.to(dtype)
    with torch.no_grad():
        for cache in caches:
            pairs = (pair and tuple(part.to(dtype) for part in pair) for pair in cache.sources())
            cache.identity, cache.audio, cache.camera, _ = pairs
        folded = layer(x.to(dtype), caches, lambdas)
    assert caches[0].folded and folded.dtype == dtype
    torch.testing.assert_close(folded.float(), wanted.detach(), rtol=error, atol=error)


@torch.no_grad()
def test_what_was_folded_is_folded_anew_when_it_changes():
    from starcaster_core.models.attention_cache import ConditionCache

    layer, x, (cache, other), (lambdas, others) = cross_attention()
    x = x[:4]

    def seen(cache, lambdas=lambdas):
        cache.folded = None
        return layer(x, [cache], [lambdas])

    wanted = seen(other)
    assert not torch.allclose(seen(cache), wanted)
    torch.testing.assert_close(layer(x, [cache], [others]), seen(cache, others))
    seen(cache)
    ConditionCache([cache]).copy_(ConditionCache([other]))
    torch.testing.assert_close(layer(x, [cache], [lambdas]), wanted)


@torch.no_grad()
def test_more_keys_than_channels_are_not_folded():
    layer, x, caches, lambdas = cross_attention()
    long = [replace(cache, identity=layer.cache_identity(torch.randn(1, 28, 24))) for cache in caches]
    assert layer.is_worth_folding(x, caches) and not layer.is_worth_folding(x, long)
    layer(x, long, lambdas)
    assert long[0].folded is None


@torch.no_grad()
def test_a_gated_feed_forward_in_one_go_equals_diffusers():
    """Two ways: oneDNN's where there is bfloat16, PyTorch's halves in float32; against diffusers' own layer."""
    from diffusers.models.attention import FeedForward

    from starcaster_core.models.attention_kernels import GatedFeedForward

    torch.manual_seed(0)
    reference, layer, x = FeedForward(32, activation_fn="geglu"), GatedFeedForward(32), torch.randn(3, 7, 32)
    layer.load_state_dict(reference.state_dict())
    wanted = reference(x)
    with torch.enable_grad():
        assert torch.equal(layer(x), wanted), "as it is trained"
    torch.testing.assert_close(layer(x), wanted, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.bfloat16()(x.bfloat16()).float(), wanted, rtol=0.05, atol=0.01)


def test_a_motion_module_that_adds_nothing_is_not_run(model, conditions):
    modules = model.unet.motion_modules()
    for module in modules[1:]:
        for weight in module.proj_out.parameters():
            weight.data.zero_()
    ran = []
    for index, module in enumerate(modules):
        module.norm.register_forward_hook(lambda *_, index=index: ran.append(index))
    left_out = video(model, conditions, steps=1)
    assert set(ran) == {0}, "the one that was trained runs"
    assert not any(module.silent for module in modules), "known for a rollout alone: weights may change after it"
    for module in modules:
        module.prepare = lambda device: None
    assert torch.equal(video(model, conditions, steps=1), left_out)
    assert set(ran) == set(range(len(modules)))
