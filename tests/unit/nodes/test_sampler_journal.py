"""A cancelled prompt that is run again goes on where it stopped, after a restart of the server too."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch


class Cancelled(BaseException):
    pass


@pytest.fixture
def sample(module, bridge, monkeypatch, tmp_path):
    """sample(cancel_at=None, **widgets) -> LATENT, the sentences told, the network calls made."""
    node, types = module("nodes.sampler"), module("starcaster_core.types")
    load = module("starcaster_core.models.checkpoint").load_checkpoint
    told, asked = [], []
    monkeypatch.setattr(node.Sampler, "hidden", SimpleNamespace(unique_id=None))
    monkeypatch.setattr(node, "tell_user", lambda node_id, sentence: sentence and told.append(sentence))
    monkeypatch.setattr(bridge.folder_paths, "get_output_directory", lambda: str(tmp_path))
    speech = types.Speech(torch.zeros(40, 64), 1.6, "phonetic", loudness=np.ones(40))
    defaults = {i.id: i.default for i in node.Sampler.define_schema().inputs if getattr(i, "default", None) is not None}

    def run(cancel_at=None, **widgets):
        def stop():
            asked.append(0)
            if len(asked) == cancel_at:
                raise Cancelled
            return False

        told.clear(), asked.clear()
        monkeypatch.setattr(node, "stop_if_interrupted", stop)
        model = bridge.LoadedModel(load("tiny", torch.float32))
        values = defaults | {"steps": 1, "guidance_scale": 1.0, "seconds": 1.6} | widgets
        with torch.inference_mode():
            identity = types.Identity(np.ones(128, np.float32))
            (latent,) = node.Sampler.execute(model, identity, speech=speech, **values).args
        return latent, list(told), len(asked)

    return run


def test_a_cancelled_prompt_goes_on_where_it_stopped(sample, tmp_path):
    with pytest.raises(Cancelled):
        sample(cancel_at=3)
    resumed, told, calls = sample()
    assert calls == 1 and told == ["Resumed at chunk 3 of 3."]
    again, told, calls = sample()
    assert calls == 0 and told == ["All 3 chunks were in the journal."]
    other, told, calls = sample(seed=5)
    assert calls == 3 and not told
    for path in (tmp_path / "starcaster" / "journal").rglob("chunk_*"):
        path.unlink()
    plain, told, calls = sample()
    assert calls == 3 and not told
    for name in plain:
        assert np.array_equal(plain[name], resumed[name]) and np.array_equal(plain[name], again[name]), name
    assert not torch.equal(other["samples"], plain["samples"])


def test_without_a_place_for_it_the_prompt_runs_all_the_same(sample, tmp_path):
    (tmp_path / "starcaster").write_text("a file where the folder should be")
    latent, told, _ = sample()
    assert len(latent["samples"]) == 40 and "No journal is kept" in told[0]


def test_black_pictures_are_not_decoded_as_if_they_were_right(module, bridge):
    core = module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32)
    errors = module("starcaster_core.errors")
    black = lambda latents, pose: torch.zeros(latents.shape[2], 8, 8, 3)  # noqa: E731
    with pytest.raises(errors.StarcasterError, match="black ones in chunk 1"):
        list(module("nodes.latents").decoded(core, {"samples": torch.zeros(4, 16, 8, 8)}, black))
