"""An identity-only video in the node graph: frames come out of the portrait that the model drew."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch


class Cancelled(BaseException):
    pass


@pytest.fixture
def graph(module, bridge, monkeypatch, tmp_path):
    """graph(identity, **widgets) -> LATENT and frames of Sampler and Decode, with a tiny model that draws portraits."""
    sampler, decode = module("nodes.sampler"), module("nodes.decode")
    presets, checkpoint = module("starcaster_core.presets"), module("starcaster_core.models.checkpoint")
    tiny = presets.PRESETS["tiny"]
    small = presets.ReferenceDecoderConfig((8, 8, 8), hidden=8, appearance=4, fill_width=4, region_width=8)
    image = module("starcaster_core.training.image_model").image_config(tiny)
    core = checkpoint.random_model(replace(tiny, reference_decoder=small, image_model=image)).eval()
    model = bridge.LoadedModel(core.requires_grad_(False))
    for node in (sampler.Sampler, decode.Decode):
        monkeypatch.setattr(node, "hidden", SimpleNamespace(unique_id=None))
    monkeypatch.setattr(bridge.folder_paths, "get_output_directory", lambda: str(tmp_path))
    widgets = {
        i.id: i.default for i in sampler.Sampler.define_schema().inputs if getattr(i, "default", None) is not None
    }

    def run(identity, **changes):
        values = widgets | {"steps": 1, "seconds": 0.2, "use_reference": False} | changes
        with torch.inference_mode():
            (latent,) = sampler.Sampler.execute(model, identity, **values).args
            images, _ = decode.Decode.execute(latent, model, identity, "face", 0).args
        return latent, images

    run.core, run.sampler = core, sampler
    return run


def person(module, seed: int):
    photo = np.random.default_rng(seed).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    regions = np.float32([[0.5, 0.7], [0.4, 0.45], [0.6, 0.45]])
    return module("starcaster_core.types").Identity(np.ones(128, np.float32), photo, regions=regions)


def test_decode_shows_the_drawn_portrait_and_never_the_photo(module, graph):
    (latent, images), (_, others) = (graph(person(module, seed)) for seed in (1, 2))
    assert images.shape == (5, 512, 512, 3) and torch.equal(images, others)
    drawn = latent["starcaster_identity"]
    assert not np.array_equal(drawn.portrait, person(module, 1).portrait)
    near = (images[0] - torch.from_numpy(drawn.portrait / 255)).abs().mean()
    assert near < (images[0] - torch.from_numpy(person(module, 1).portrait / 255)).abs().mean()
    again, seen = graph(person(module, 1), seed=4)[1], graph(person(module, 1), use_reference=True)
    assert not torch.allclose(again, images, atol=1e-3)
    assert "starcaster_identity" not in seen[0] and not torch.allclose(seen[1], images, atol=0.01)


def test_cancel_is_heard_while_the_portrait_is_drawn(module, graph, monkeypatch):
    asked = []

    def stop():
        asked.append(0)
        if len(asked) == 5:  # of 25 steps
            raise Cancelled
        return False

    monkeypatch.setattr(graph.sampler, "stop_if_interrupted", stop)
    with pytest.raises(Cancelled):
        graph(person(module, 1))
    assert len(asked) == 5
