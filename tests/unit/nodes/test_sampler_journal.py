"""A cancelled prompt that is run again goes on where it stopped, after a restart of the server too."""

from __future__ import annotations

import resource
import shutil
from argparse import ArgumentParser
from pathlib import Path
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

    def conditions(identity):
        return module("starcaster_core.pipeline").Prepared(identity, speech, None, 40)

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

    run.folder, run.conditions = tmp_path, conditions
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


def test_a_model_that_comfyui_unloads_between_chunks_comes_back(sample, module, bridge, monkeypatch):
    plain, _, _ = sample(seed=9)
    shutil.rmtree(sample.folder / "starcaster")
    journal, unloaded = module("starcaster_core.sampling.journal").Journal, []
    write = journal.write

    def write_and_unload(self, index, latents):
        write(self, index, latents)
        unloaded.append(len(bridge.management.current_loaded_models))
        bridge.management.unload_all_models()

    monkeypatch.setattr(journal, "write", write_and_unload)
    again, _, calls = sample(seed=9)
    assert calls == 3 and unloaded[0] >= 1 and torch.equal(again["samples"], plain["samples"])


def test_without_a_place_for_it_the_prompt_runs_all_the_same(sample, tmp_path):
    (tmp_path / "starcaster").write_text("a file where the folder should be")
    latent, told, _ = sample()
    assert len(latent["samples"]) == 40 and "No journal is kept" in told[0]


def anonymous() -> int:
    """Bytes of this process that only memory holds."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("RssAnon")]
    return 1024 * int(line.split()[1])


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux alone tells")
def test_samples_of_a_long_video_are_in_a_file_that_leaves_nothing(sample, module, bridge, monkeypatch):
    latents, config = module("nodes.latents"), module("starcaster_core.presets").PRESETS["tiny"]
    plain, _, _ = sample(seed=3)
    shutil.rmtree(sample.folder / "starcaster")
    monkeypatch.setattr(latents, "LONG", 1)
    mapped, _, _ = sample(seed=3)
    assert torch.equal(mapped["samples"], plain["samples"])
    vae = bridge.StarcasterVAE(module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32).vae)
    assert torch.equal(vae.decode(mapped["samples"]), vae.decode(plain["samples"])), "core's VAE Decode takes them"

    before, room = anonymous(), latents.room_for(20_000, config)
    room.fill_(1)
    assert room.nbytes > 80e6 and anonymous() - before < room.nbytes / 4
    assert float(room.sum()) == room.numel()
    assert not list(Path(bridge.folder_paths.get_temp_directory()).glob("*.latents"))


@pytest.mark.parametrize("fault", ["no such call", "no room", "a disk that fills up"])
def test_without_a_file_samples_are_in_memory(module, bridge, monkeypatch, fault):
    latents, config = module("nodes.latents"), module("starcaster_core.presets").PRESETS["tiny"]
    monkeypatch.setattr(latents, "LONG", 1)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    if fault == "no room":
        monkeypatch.setattr(latents, "free_disk", lambda path: 1000)
    elif fault == "no such call":
        monkeypatch.delattr(latents.os, "posix_fallocate", raising=False)
    else:  # as far as the system is concerned
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        assert latents.in_a_file(40_000) is None
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert latents.room_for(10, config).shape == (10, 16, 8, 8)
    assert not list(Path(bridge.folder_paths.get_temp_directory()).glob("*.latents"))


def test_black_pictures_are_not_decoded_as_if_they_were_right(module, bridge):
    core = module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32)
    errors = module("starcaster_core.errors")
    black = SimpleNamespace(
        find=lambda latents, pose: len(latents[0, 0]), show=lambda count: torch.zeros(count, 8, 8, 3)
    )
    told, decoded, samples = [], module("nodes.latents").decoded, torch.zeros(20, 16, 8, 8)
    with pytest.raises(errors.StarcasterError, match="black ones in chunk 1"):
        list(decoded(core, {"samples": samples}, black, told.append))
    assert len(list(decoded(core, {"samples": samples, "starcaster_on_fault": "warn"}, black, told.append))) == 5
    assert told == [f"Frames are black in chunk {chunk}; the render goes on." for chunk in PLACES[:2]]


PLACES = ("1 (0.00 to 0.64 s)", "2 (0.64 to 1.28 s)", "3 (1.28 to 1.92 s)")


def spoil(module, monkeypatch, number: int) -> None:
    """Let the network's answer of this number be frozen."""
    network = module("starcaster_core.sampling.execution").Network
    plain, asked = network.predict, []

    def predict(self, latents, *arguments):
        asked.append(0)
        return torch.zeros_like(latents) if len(asked) == number else plain(self, latents, *arguments)

    monkeypatch.setattr(network, "predict", predict)


@pytest.mark.parametrize(
    ("choice", "sentence"),
    [
        ("retry", f"Chunk {PLACES[1]} has frames that are all the same: it is drawn again, attempt 1 of 2."),
        ("warn", f"The picture stands still in chunk {PLACES[1]}; the render goes on."),
    ],
)
def test_a_fault_is_met_as_the_user_chose(sample, module, monkeypatch, choice, sentence):
    wanted = by_command(sample, module, monkeypatch, on_fault=choice, spoilt=2)
    spoil(module, monkeypatch, 2)
    latent, told, calls = sample(on_fault=choice)
    assert told == [sentence] and calls == (4 if choice == "retry" else 3)
    assert latent["starcaster_on_fault"] == choice and torch.equal(latent["samples"], wanted)


def test_a_fault_stops_where_nothing_was_chosen(sample, module, monkeypatch):
    spoil(module, monkeypatch, 2)
    with pytest.raises(Exception, match=r"all the same in chunk 2 \(0.64 to 1.28 s\)"):
        sample()


def test_a_chunk_without_a_face_stops_the_prompt(sample, module, monkeypatch):
    guard = module("starcaster_core.face_guard").FaceGuard
    monkeypatch.setattr(guard, "fault", lambda self, latents, index: ("a face", "no face") if index == 1 else None)
    with pytest.raises(Exception, match=r"no face in chunk 2 \(0.64 to 1.28 s\)"):
        sample()


def test_chunks_are_made_again_as_on_the_command_line(sample, module, monkeypatch):
    with pytest.raises(Exception, match="none with chunk 2"):
        sample(redo="2")
    plain, _, _ = sample()
    again, told, calls = sample(redo="0.7s:7")
    wanted = by_command(sample, module, monkeypatch, redo="0.7s:7")
    assert calls == 1 and told == ["1 of 3 chunks were made again; the journal keeps them as they were."]
    assert torch.equal(again["samples"], wanted)
    for part in (slice(0, 16), slice(32, 40)):
        assert torch.equal(again["samples"][part], plain["samples"][part])
    assert not torch.allclose(again["samples"][16:28], plain["samples"][16:28])
    next_seed, _, _ = sample(redo="2")
    assert torch.equal(next_seed["samples"], sample(redo="2:1")[0]["samples"])
    assert torch.equal(sample()[0]["samples"], plain["samples"])
    deaf, (weaker, _, _) = sample(redo="2:lambda_audio=0")[0]["samples"], sample(redo="2:lambda_audio=0.5")
    assert not torch.equal(deaf, weaker["samples"]) and torch.equal(deaf[32:], plain["samples"][32:])
    with pytest.raises(Exception, match="chunks from 1 to 3 to make again"):
        sample(redo="4")


def by_command(sample, module, monkeypatch, spoilt: int = 0, redo: str = "", on_fault: str = "stop") -> torch.Tensor:
    """Return the raw latents that the command line makes of the same inputs."""
    generate, pipeline = module("starcaster_core.generate"), module("starcaster_core.pipeline")
    command, types = sample.folder / "command", module("starcaster_core.types")
    command.mkdir()
    module("starcaster_core.identity").save_identity(
        command / "me.identity.safetensors", types.Identity(np.ones(128, np.float32))
    )
    drawn = []

    def keep(path, model, chunks, sound, decode, say, on_fault):
        drawn[:] = [model.to_raw(chunk.latents)[0].movedim(1, 0) for chunk in chunks]
        return SimpleNamespace(frames=40, seconds=1.6)

    words = f"--model tiny --device cpu --identity {command / 'me.identity.safetensors'} --seconds 1.6 --steps 1"
    words += f" --keep-journal --guidance-scale 1 --on-fault {on_fault} --out {command / 'o.mp4'}"
    parser = ArgumentParser()
    generate.add_arguments(parser)
    prepare = lambda model, identity, *rest: sample.conditions(identity)  # noqa: E731  the same speech, from no file
    with monkeypatch.context() as patch, torch.no_grad():
        patch.setattr(pipeline, "write_chunks", keep)
        patch.setattr(pipeline, "prepare", prepare)
        patch.setattr(pipeline, "choose_dtype", lambda device: torch.float32)
        if spoilt:
            spoil(module, patch, spoilt)
        for more in ("", f" --redo {redo}") if redo else ("",):
            generate.run(parser.parse_args((words + more).split()))
    return torch.cat(drawn)
