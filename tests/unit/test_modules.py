"""The modules that are commands of their own end through one door: bad input is one sentence and exit code 1."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

CORE = Path(__file__).resolve().parents[2] / "starcaster_core"
# Started by `data.tts`, with exit codes of its own; and one that reads and writes no file.
OTHERS = {"starcaster_core.data.espeak_process", "starcaster_core.models.public.parameters"}

# Module -> its arguments; NONE is a folder or file that is not there, OUT a place to write to, FILE a file.
COMMANDS = {
    "benchmark.account": "--preset tiny --out FILE/counted.json",
    "data.faces": "--data NONE --out OUT",
    "data.synth": "--out FILE/clips --clips 1",
    "evaluation.autoencoder": "--model NONE --out OUT",
    "evaluation.fewstep": "--teacher mini --latents NONE --out OUT",
    "evaluation.identity_only": "--model NONE --out OUT",
    "evaluation.phonemes": "--speech NONE --utterances 0 --out OUT",
    "evaluation.photos": "--photos NONE --voice NONE --out OUT",
    "evaluation.syncnet": "--data NONE --syncnet NONE --out OUT",
    "training.autoencoder": "--data NONE --out OUT --minutes 0.01",
    "training.gap_reader": "--photos NONE --data NONE --out OUT",
    "training.interior": "--model NONE --out OUT",
    "training.identity_pictures": "--photos NONE --out OUT",
    "training.image_model": "--pictures NONE --out OUT",
    "training.latents": "--model mini --data NONE --out OUT",
    "training.lipreader": "--data NONE --out OUT",
    "training.make_pairs": "--photos NONE --out OUT",
    "training.phonetic": "--init NONE --utterances 1 --out OUT",
    "training.photo_clips": "--photos NONE --data NONE --out OUT",
    "training.probe": "--data NONE --out OUT --minutes 0.01",
    "training.publish": "--run NONE --out OUT",
    "training.speech_transfer": "--speech NONE --data NONE --out OUT",
    "training.syncnet": "--data NONE --out OUT",
}


def test_every_module_that_is_a_command_is_listed():
    programs = {
        ".".join(path.relative_to(CORE.parent).with_suffix("").parts)
        for path in CORE.rglob("*.py")
        if 'if __name__ == "__main__":' in path.read_text(encoding="utf-8")
    }
    assert programs - OTHERS == {f"starcaster_core.{name}" for name in COMMANDS}


@pytest.mark.parametrize("name", sorted(COMMANDS))
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_missing_folder_is_one_sentence(name, tmp_path, monkeypatch, capsys):
    places = {"NONE": tmp_path / "none", "OUT": tmp_path / "out", "FILE": tmp_path / "file"}
    places["FILE"].touch()
    words = re.sub("NONE|OUT|FILE", lambda found: str(places[found[0]]), COMMANDS[name]).split()
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(f"starcaster_core.{name}", run_name="__main__")
    said = capsys.readouterr().err
    assert "Traceback" not in said and ended.value.code == 1, said
    assert said.startswith("error: Wanted ") and said.count("\n") == 1
    assert "not foreseen" not in said, "the sentence says what to do"
