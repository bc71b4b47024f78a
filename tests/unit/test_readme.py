"""What the README says to type runs as written."""

import re
import shutil
from pathlib import Path

import av
import pytest

from starcaster_core import load_model

REPO = Path(__file__).resolve().parents[2]
ASSETS = REPO / "starcaster_core" / "assets"


def test_the_python_snippet_leaves_a_video(tmp_path, monkeypatch):
    pytest.importorskip("dlib")
    (snippet,) = re.findall(r"```python\n(.*?)```", (REPO / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    shutil.copy(ASSETS / "portrait.png", tmp_path / "portrait.png")
    with av.open(str(ASSETS / "voice.flac")) as source, av.open(str(tmp_path / "speech.wav"), "w") as target:
        stream = target.add_stream("pcm_s16le", rate=16000, layout="mono")
        for frame in source.decode(audio=0):
            target.mux(stream.encode(frame))
        target.mux(stream.encode(None))
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})  # noqa: S102 the text is our own
    with av.open(str(tmp_path / "talking.mp4")) as video:
        assert len(list(video.decode(video=0))) == 2 * load_model("mini").config.fps
        assert video.streams.audio
