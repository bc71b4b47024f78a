"""A render that stops leaves what is finished, playable, and the same command goes on; no signal shows a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from starcaster_core import pipeline
from starcaster_core.cli import main
from starcaster_core.errors import StarcasterError
from starcaster_core.face_guard import FaceGuard
from starcaster_core.files import part_beside
from starcaster_core.identity import save_identity
from starcaster_core.sampling.execution import Network
from starcaster_core.sampling.rollout import ChunkProgress
from starcaster_core.sampling.settings import Conditions, SamplerSettings
from starcaster_core.signals import interruptible
from starcaster_core.types import Identity
from starcaster_core.video import probe

SETTINGS = SamplerSettings(steps=1, guidance_scale=1.0)


@pytest.fixture(scope="module")
def model():
    return pipeline.load_model("tiny", "cpu")


@pytest.fixture
def conditions():
    return Conditions(Identity(np.ones(128, np.float32)), frames=40)


@pytest.fixture
def command(tmp_path):
    save_identity(tmp_path / "me.identity.safetensors", Identity(np.ones(128, np.float32)))
    words = (
        f"generate --model tiny --device cpu --identity {tmp_path / 'me.identity.safetensors'} --seconds 1.6 --steps 1"
    )
    return [*words.split(), "--out", str(tmp_path / "o.mp4")]


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Decode:
    """A frame decoder that calls a function of latents and poses."""

    def __init__(self, decode):
        self.decode = decode

    def find(self, latents, pose):
        return latents, pose

    def show(self, found):
        return self.decode(*found)


class Stop:
    """Progress that raises after so many chunks."""

    def __init__(self, error: BaseException, chunks: int):
        self.error, self.chunks = error, chunks

    def __call__(self, report):
        if report.chunk == self.chunks:
            raise self.error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_a_stopped_render_leaves_a_playable_file_and_goes_on(model, conditions, tmp_path, error):
    path, said = tmp_path / "o.mp4", []
    options = {"journal": tmp_path / "journal", "say": said.append}
    with pytest.raises(type(error)):
        pipeline.save_video(path, model, conditions, SETTINGS, progress=Stop(error, 2), **options)
    assert names(tmp_path) == {"o.unfinished.mp4", "journal"}
    assert 4 <= probe(tmp_path / "o.unfinished.mp4").frames <= 32
    assert "o.unfinished.mp4" in said[0]
    assert said[1] == "2 of 3 chunks are kept: the same render goes on from there."
    frames, decode = [], pipeline.frame_decoder(model, conditions, SETTINGS)
    pipeline.save_video(path, model, conditions, SETTINGS, decode=keep(frames, decode), **options)
    assert said[2] == "Resumed at chunk 3 of 3."
    assert torch.equal(torch.cat(frames), torch.cat(list(pipeline.generate_frames(model, conditions, SETTINGS))))
    assert names(tmp_path) == {"o.unfinished.mp4", "o.mp4"}, "the journal is gone"


def test_what_a_stopped_render_leaves_is_never_written_over_another_file(model, conditions, tmp_path):
    (tmp_path / "o.unfinished.mp4").write_text("of the user")
    with pytest.raises(KeyboardInterrupt):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, SETTINGS, progress=Stop(KeyboardInterrupt(), 2))
    assert (tmp_path / "o.unfinished.mp4").read_text() == "of the user"
    assert names(tmp_path) == {"o.unfinished.mp4", "o.unfinished_2.mp4"}


def test_a_render_stopped_before_its_first_frame_leaves_nothing(model, conditions, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, SETTINGS, progress=Stop(KeyboardInterrupt(), 0))
    assert not names(tmp_path)


def test_the_command_keeps_its_journal_beside_the_video_and_removes_it(command, tmp_path, monkeypatch, capsys):
    from starcaster_core import generate

    monkeypatch.setattr(generate, "show_progress", Stop(KeyboardInterrupt(), 1))
    assert main(command) == 130
    assert names(tmp_path) == {"me.identity.safetensors", ".starcaster-journal", "o.unfinished.mp4"}
    monkeypatch.undo()
    assert main(command) == 0
    assert "Resumed at chunk 2 of 3." in capsys.readouterr().err
    assert names(tmp_path) == {"me.identity.safetensors", "o.unfinished.mp4", "o.mp4"}
    monkeypatch.setattr(generate, "show_progress", Stop(KeyboardInterrupt(), 1))
    assert main([*command, "--no-journal", "--out", str(tmp_path / "p.mp4")]) == 130
    assert names(tmp_path) == {"me.identity.safetensors", "o.unfinished.mp4", "o.mp4", "p.unfinished.mp4"}


def test_the_minutes_that_are_left_are_said_once(monkeypatch, capsys):
    from starcaster_core import generate

    clock = iter(range(100, 1000, 10))  # ten seconds a chunk
    monkeypatch.setattr(generate.time, "monotonic", lambda: next(clock))
    for chunks, said in ((62, ["About 10 minutes are left."]), (6, [])):
        progress = generate.Progress()
        for chunk in range(5):
            for step in (1, 2):
                progress(ChunkProgress(chunk, chunks, step, 2, None))
        assert [line for line in capsys.readouterr().err.splitlines() if "minutes" in line] == said


def test_the_command_makes_a_chunk_again(command, tmp_path, capsys):
    assert main([*command, "--keep-journal"]) == 0
    assert (tmp_path / ".starcaster-journal").exists()
    assert main([*command, "--redo", "2", "--redo-seed", "7", "--out", str(tmp_path / "p.mp4")]) == 0
    made = [line for line in capsys.readouterr().err.splitlines() if "done" in line]
    assert made == [f"chunk {number}/3 done" for number in (1, 2, 3, 2)]
    assert main([*command, "--redo", "2:lambda_audio=0.5", "--out", str(tmp_path / "q.mp4")]) == 0
    for wrong in (
        ["--redo", "4"],
        ["--redo", "2:steps=3"],
        ["--redo", "1", "--no-journal"],
        ["--redo", "1", "--redo-seed", "-1"],
    ):
        assert main([*command, *wrong]) == 1


def test_a_terminated_command_says_one_sentence_and_keeps_its_work(command, tmp_path):
    """The real thing: a process, SIGTERM, what lies on the disk, and a second process."""
    long = [sys.executable, "-m", "starcaster_core", *command, "--seconds", "8"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(long, stderr=subprocess.PIPE, text=True, env=environment)
    said = []
    for line in process.stderr:
        said.append(line)
        if line.startswith("chunk 3/"):
            process.terminate()
    assert process.wait() == 130
    assert said[-1] == "interrupted\n" and not any("Traceback" in line for line in said)
    assert "o.unfinished.mp4" in names(tmp_path) and "o.mp4" not in names(tmp_path)
    assert not list(tmp_path.rglob("*.part"))
    done = subprocess.run(long, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "Resumed at chunk" in done.stderr
    assert probe(tmp_path / "o.mp4").frames == 200


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_stopped_while_it_starts_says_so(number):
    handled = f"import signal; signal.signal({int(number)}, signal.default_int_handler)"  # not ignored, as under nohup
    code = f"import os; os.kill(os.getpid(), {int(number)})"
    starting = f"{handled}\nfrom starcaster_core.signals import ending_at_once\nwith ending_at_once():\n    {code}"
    done = subprocess.run([sys.executable, "-c", starting], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
    before = signal.signal(number, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt), interruptible():
        os.kill(os.getpid(), number)
        threading.Event().wait(1)
    assert signal.signal(number, before) is signal.default_int_handler


def test_an_ignored_signal_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruptible():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_leftovers_of_dead_renders_are_swept_when_the_next_begins(model, conditions, tmp_path):
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    part = part_beside(tmp_path / "o.mp4")
    dead = part.with_name(part.name.replace(f"-{os.getpid()}-", f"-{ended.stdout.strip()}-"))
    dead.write_text("half a video")
    pipeline.save_video(tmp_path / "o.mp4", model, conditions, SETTINGS)
    assert names(tmp_path) == {"o.mp4"}


# Guards ---------------------------------------------------------------------------------------------------------------


def broken(latents: torch.Tensor, kind: str) -> torch.Tensor:
    if kind == "frozen":
        return torch.zeros_like(latents)
    return torch.full_like(latents, float(kind))


@pytest.mark.parametrize(
    ("kind", "words"), [("nan", "NaN or infinite"), ("inf", "NaN or infinite"), ("frozen", "all the same")]
)
def test_a_bad_chunk_stops_the_render_and_is_named(model, conditions, tmp_path, monkeypatch, kind, words):
    plain, reached = model.unet.forward, []

    def forward(latents, *arguments, **options):
        bad = len(reached) == 2
        return broken(latents, kind) if bad else plain(latents, *arguments, **options)

    monkeypatch.setattr(model.unet, "forward", forward)
    settings = SamplerSettings(steps=1, guidance_scale=1.0, context_frames=0)
    progress = lambda report: reached.append(report.chunk)  # noqa: E731
    with pytest.raises(StarcasterError, match=rf"{words}.* chunk 3 \(1.28 to 1.92 s\)"):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, settings, progress=progress)
    assert names(tmp_path) == {"o.unfinished.mp4"}


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_black_pictures_stop_the_render(model, conditions, tmp_path, value):
    decoded = []

    def decode(latents, pose):
        decoded.append(latents.shape[2])
        return torch.full((latents.shape[2], 64, 64, 3), 0.5 if len(decoded) < 5 else value)

    with pytest.raises(StarcasterError, match=r"black ones in chunk 2 \(0.64 to 1.28 s\)"):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, SETTINGS, decode=Decode(decode))
    assert probe(tmp_path / "o.unfinished.mp4").frames == 16


FREE = SamplerSettings(steps=1, guidance_scale=1.0, context_frames=0)  # so that the network is asked once a chunk


def spoil(monkeypatch, kinds: dict[int, str]) -> list[torch.Tensor]:
    """Let the network's answers of these numbers be faulty; return the noise of all questions, as they come."""
    plain, asked = Network.predict, []

    def predict(network, latents, *arguments):
        asked.append(latents.clone())
        kind = kinds.get(len(asked))
        return broken(latents, kind) if kind else plain(network, latents, *arguments)

    monkeypatch.setattr(Network, "predict", predict)
    return asked


def keep(frames: list, decode):
    """Return a decoder like `decode`, which also notes its frames."""

    def noting(latents, pose):
        frames.append(decode(latents, pose))
        return frames[-1]

    return Decode(noting)


@pytest.mark.parametrize("kind", ["nan", "inf", "frozen"])
def test_a_faulty_chunk_is_drawn_again_and_resumed_equals_uninterrupted(model, conditions, tmp_path, monkeypatch, kind):
    whole, resumed, said, decode = [], [], [], pipeline.frame_decoder(model, conditions, FREE)
    plain = list(pipeline.generate_latents(model, conditions, FREE))
    with monkeypatch.context() as patch:
        asked = spoil(patch, {2: kind})
        options = {"on_fault": "retry", "say": said.append, "decode": keep(whole, decode)}
        pipeline.save_video(tmp_path / "whole.mp4", model, conditions, FREE, **options)
    got = "frames that are all the same" if kind == "frozen" else "NaN or infinite numbers"
    assert said == [f"Chunk 2 (0.64 to 1.28 s) has {got}: it is drawn again, attempt 1 of 2."]
    assert len(asked) == 4 and not torch.allclose(asked[1], asked[2])
    others = [torch.cat(whole)[:16], torch.cat(whole)[32:]]
    assert torch.equal(torch.cat(others), torch.cat([decode(plain[n].latents, plain[n].pose) for n in (0, 2)]))

    options = {"on_fault": "retry", "journal": tmp_path / "journal"}
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        spoil(patch, {2: kind})
        pipeline.save_video(
            tmp_path / "o.mp4", model, conditions, FREE, progress=Stop(KeyboardInterrupt(), 2), **options
        )
    options |= {"say": said.append, "decode": keep(resumed, decode)}
    pipeline.save_video(tmp_path / "o.mp4", model, conditions, FREE, **options)
    assert said[1] == "Resumed at chunk 3 of 3."
    assert torch.equal(torch.cat(resumed), torch.cat(whole))


def test_a_chunk_that_stays_faulty_stops_after_two_retries(model, conditions, tmp_path, monkeypatch):
    said, asked = [], spoil(monkeypatch, dict.fromkeys(range(2, 9), "nan"))
    with pytest.raises(StarcasterError, match=r"NaN or infinite.* chunk 2 \(0.64 to 1.28 s\)"):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, FREE, on_fault="retry", say=said.append)
    assert len(asked) == 4 and len({float(noise.sum()) for noise in asked}) == 4
    again = "Chunk 2 (0.64 to 1.28 s) has NaN or infinite numbers: it is drawn again, attempt"
    assert said[:2] == [f"{again} 1 of 2.", f"{again} 2 of 2."]
    assert names(tmp_path) == {"o.unfinished.mp4"}


def test_frozen_chunks_are_named_and_kept(model, conditions, tmp_path, monkeypatch):
    said, path, options = [], tmp_path / "o.mp4", {"journal": tmp_path / "journal", "keep_journal": True}
    with monkeypatch.context() as patch:
        spoil(patch, {2: "frozen"})
        pipeline.save_video(path, model, conditions, FREE, on_fault="warn", say=said.append, **options)
    assert said == ["The picture stands still in chunk 2 (0.64 to 1.28 s); the render goes on."]
    assert probe(path).frames == 40
    with pytest.raises(StarcasterError, match=r"all the same in chunk 2"):
        pipeline.save_video(path, model, conditions, FREE, **options)
    frames, decode = [], pipeline.frame_decoder(model, conditions, FREE)
    pipeline.save_video(path, model, conditions, FREE, on_fault="retry", decode=keep(frames, decode), **options)
    assert torch.equal(torch.cat(frames), torch.cat(list(pipeline.generate_frames(model, conditions, FREE))))


@pytest.fixture
def faceless(monkeypatch):
    """faceless(*calls): FaceGuard finds the chunks of these calls without a face."""

    def spoil(*calls: int) -> None:
        asked = []

        def fault(self, latents, index):
            asked.append(index)
            return ("a face", "no face") if len(asked) in calls else None

        monkeypatch.setattr(FaceGuard, "fault", fault)

    return spoil


def test_a_chunk_without_a_face_is_named_or_drawn_again(model, conditions, tmp_path, faceless):
    path, said = tmp_path / "o.mp4", []
    faceless(2)
    with pytest.raises(StarcasterError, match=r"Wanted a face, got no face in chunk 2 \(0.64 to 1.28 s\)"):
        pipeline.save_video(path, model, conditions, FREE)
    faceless(3)
    pipeline.save_video(path, model, conditions, FREE, on_fault="warn", say=said.append)
    assert said == ["There is no face in chunk 3 (1.28 to 1.92 s); the render goes on."]

    whole, decode = [], pipeline.frame_decoder(model, conditions, FREE)
    options = {"on_fault": "retry", "journal": tmp_path / "journal", "keep_journal": True, "say": said.append}
    faceless(2, 3)
    pipeline.save_video(path, model, conditions, FREE, decode=keep(whole, decode), **options)
    again = "Chunk 2 (0.64 to 1.28 s) has no face: it is drawn again, attempt"
    assert said[1:] == [f"{again} 1 of 2.", f"{again} 2 of 2."]
    plain = list(pipeline.generate_latents(model, conditions, FREE))
    assert torch.equal(torch.cat(whole)[:16], decode(plain[0].latents, plain[0].pose))
    assert not torch.allclose(torch.cat(whole)[16:32], decode(plain[1].latents, plain[1].pose), atol=0.01)
    faceless()
    resumed = []
    pipeline.save_video(path, model, conditions, FREE, decode=keep(resumed, decode), **options)
    assert said[3] == "All 3 chunks were in the journal." and torch.equal(torch.cat(resumed), torch.cat(whole))


def grey(values: list[float]):
    """Return a decoder whose parts of four frames have these values, one after the other."""
    left = iter(values)
    return Decode(lambda latents, pose: torch.full((latents.shape[2], 64, 64, 3), next(left)))


def test_black_pictures_are_named_once_a_chunk(model, conditions, tmp_path):
    said, decode = [], grey([0.05] * 4 + [0.0] * 4 + [0.05] * 2)
    pipeline.save_video(tmp_path / "o.mp4", model, conditions, FREE, decode=decode, on_fault="warn", say=said.append)
    assert said == ["Frames are black in chunk 2 (0.64 to 1.28 s); the render goes on."]
    assert probe(tmp_path / "o.mp4").frames == 40
    with pytest.raises(StarcasterError, match="black ones in chunk 1"):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, FREE, decode=grey([0.0] * 10), on_fault="retry")


def test_what_cannot_be_drawn_stops_in_spite_of_warn(model, conditions, tmp_path, monkeypatch):
    path = tmp_path / "o.mp4"
    with pytest.raises(StarcasterError, match="chunk 2"):
        decode = grey([0.5] * 4 + [float("nan")] * 6)
        pipeline.save_video(path, model, conditions, FREE, decode=decode, on_fault="warn")
    spoil(monkeypatch, {3: "nan"})
    with pytest.raises(StarcasterError, match="chunk 3"):
        pipeline.save_video(path, model, conditions, FREE, on_fault="warn")


@pytest.mark.parametrize("choice", ["stop", "retry", "warn"])
def test_a_colour_that_drifts_is_named_once(model, conditions, tmp_path, choice):
    said, levels = [], [100, 100, 100, 100, 40, 120, 140, 140, 120, 140]  # chunks of 100, 110 and 130
    decode = grey([level / 255 for level in levels])
    pipeline.save_video(tmp_path / "o.mp4", model, conditions, FREE, decode=decode, on_fault=choice, say=said.append)
    assert said == ["The colour of chunk 3 (1.28 to 1.92 s) is 30 grey levels from the first chunk's."]


def test_the_command_hands_on_what_is_to_happen(command, monkeypatch):
    handed = []

    def save_video(*arguments, **options):
        handed.append(options["on_fault"])
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "save_video", save_video)
    assert [main([*command, *words]) for words in ([], ["--on-fault", "retry"], ["--on-fault", "warn"])] == [130] * 3
    assert handed == ["stop", "retry", "warn"]


def test_another_choice_is_refused(model, conditions, tmp_path):
    with pytest.raises(StarcasterError, match="stop, retry, warn"):
        pipeline.save_video(tmp_path / "o.mp4", model, conditions, FREE, on_fault="ignore")
    assert not names(tmp_path)
