"""Everything in the corpus through the command line: a video with its sound, or one sentence and exit code 1."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import Case, all_cases, identity_bytes, wav
from PIL import Image

from starcaster_core import pipeline
from starcaster_core.cli import main
from starcaster_core.errors import InputError
from starcaster_core.identity import identity
from starcaster_core.identity.recognisers import Dlib
from starcaster_core.sampling import cost
from starcaster_core.video import VideoWriter

pytest.importorskip("dlib")
load_model = pipeline.load_model
CASES = all_cases()


@pytest.fixture(scope="module")
def tiny():
    return load_model("tiny", "cpu")


@pytest.fixture(scope="module")
def nobody(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("identity") / "nobody.safetensors"
    path.write_bytes(identity_bytes())
    return path


def command(case: Case, folder: Path, person: Path) -> list[str]:
    options = {"--model": "tiny", "--identity": person, "--seconds": 0.08, "--steps": 1, "--out": folder / "out.mp4"}
    options |= case.options(folder)
    words = ["generate"]
    for option, value in options.items():
        if value is not None:
            many = value if isinstance(value, list) else [value]
            words += [option, *map(str, many)] if isinstance(value, list) else [f"{option}={value}"]
    return words


def write_without_sampling(path, model, conditions, settings, **_):
    """In place of `save_video`: black frames, and the real sound through the real writer."""
    with VideoWriter(Path(path), model.config.fps, conditions.sound) as writer:
        writer.write(np.zeros((conditions.frames, 16, 16, 3), np.uint8))
    return writer.info


def heard(folder: Path) -> float:
    """Root mean square of the one video in the folder."""
    from starcaster_core.speech import load_audio

    return float(load_audio(folder / "out.mp4")[0].square().mean().sqrt())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_input(case, tmp_path, tiny, nobody, monkeypatch, capsys):
    def load(name="mini", device="auto", audio_encoder=None, **options):
        known = name == "tiny" and device == "auto" and audio_encoder is None
        return tiny if known else load_model(name, device, audio_encoder=audio_encoder, **options)

    features = []
    encode = type(tiny).encode_speech
    monkeypatch.setattr(pipeline, "load_model", load)
    monkeypatch.setattr(pipeline, "save_video", write_without_sampling)
    monkeypatch.setattr(
        type(tiny), "encode_speech", lambda model, samples: features.append(samples) or encode(model, samples)
    )
    if case.warns is None or "another person" not in case.warns:  # nothing else is about who is seen
        monkeypatch.setattr(Dlib, "embed", lambda recogniser, pixels, face: np.ones(128, np.float32))
        monkeypatch.setattr(identity, "look_at", lambda *_: {})
    words = command(case, tmp_path, nobody)
    before = contents(tmp_path)
    code = main(words)
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    if case.says is None:
        assert code == 0, said.err
        warnings = [line for line in said.err.splitlines() if line.startswith("warning: ")]
        if case.warns is not None:
            assert bool(warnings) == bool(case.warns) and re.search(case.warns, " ".join(warnings)), said.err
        if case.loud:
            assert features[0].square().mean().sqrt() >= case.loud, "the model does not hear the voice"
            assert heard(tmp_path) >= case.loud, "the video does not sound"
        left = {path for path in tmp_path.rglob("*") if path.name.startswith(".")}
    else:
        assert code == 1, said.err
        lines = said.err.strip().splitlines()
        assert lines[-1].startswith("error: Wanted") and re.search(case.says, lines[-1]), said.err
        assert len(lines) == 1 or all(line.startswith("warning: ") for line in lines[:-1]), said.err
        assert len(lines[-1]) < 800 and lines[-1].isprintable(), "echoes are short and escaped"
        after = contents(tmp_path)
        assert all(after[path] == content for path, content in before.items()), "an input was changed"
        left = after.keys() - before.keys()
    assert not left, "temporary files stay"
    assert case.after is None or case.after(tmp_path)


def test_what_is_impossible_is_said_before_the_model_is_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    (tmp_path / "me.safetensors").write_bytes(identity_bytes())
    (tmp_path / "path.json").write_text("{}")
    (tmp_path / "nan.wav").write_bytes(wav(np.full((1, 1600), np.nan, np.float32), width=-4))
    Image.new("RGB", (200, 200)).save(tmp_path / "grey.png")
    usual = ["generate", "--identity", str(tmp_path / "me.safetensors"), "--out", str(tmp_path / "a.mp4")]
    for wrong in (
        ["--out", str(tmp_path / "me.safetensors" / "a.mp4")],
        ["--speech", "gone.wav"],
        ["--steps", "0"],
        ["--size", "9"],
        ["--camera", str(tmp_path / "path.json")],
        ["--speech", str(tmp_path / "nan.wav")],
        ["--redo", "8"],
        ["--seconds", "86400", "--size", "2048", "--out", str(tmp_path / "a.mov")],
        ["--model", str(tmp_path / "path.json")],
    ):
        assert main([*usual, *wrong]) == 1 and capsys.readouterr().err.startswith("error: Wanted"), wrong
    faceless = ["generate", "--portrait", str(tmp_path / "grey.png"), "--out", str(tmp_path / "a.mp4")]
    assert main(faceless) == 1 and "no face" in capsys.readouterr().err
    assert not list(tmp_path.glob("a.*"))


def test_how_long_a_render_takes_is_said_before_the_model_is_loaded(tmp_path, nobody, monkeypatch, capsys):
    def load(*_, **__):
        raise InputError("nothing", "a model to load", "It is a test.")

    monkeypatch.setattr(pipeline, "load_model", load)
    monkeypatch.setattr(cost, "matmul_speed", lambda *_: 1e12)
    words = ["generate", "--identity", str(nobody), "--out", str(tmp_path / "a.mp4"), "--size", "64"]
    for seconds, said in (("1", False), ("3600", True)):
        assert main([*words, "--seconds", seconds]) == 1
        assert ("minutes are expected" in capsys.readouterr().err) == said
    monkeypatch.setattr(cost, "matmul_speed", lambda *_: 1e10)
    assert main([*words, "--seconds", "3600"]) == 1
    assert re.search(r"About \d+ hours are expected\.", capsys.readouterr().err)


def test_a_gpu_too_small_for_the_weights_is_named_before_the_model_is_loaded(tmp_path, nobody, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "load_model", lambda *_, **__: pytest.fail("the model was loaded"))
    monkeypatch.setattr(pipeline, "choose_device", lambda name: torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**6, 10**9))
    assert main(["generate", "--identity", str(nobody), "--out", str(tmp_path / "a.mp4")]) == 1
    assert re.search(r"free memory for the weights on the GPU, got 0.0 GB. Use --offload", capsys.readouterr().err)


def test_there_are_many():
    assert len(CASES) >= 120 and len({case.name for case in CASES}) == len(CASES)
