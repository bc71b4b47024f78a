"""Videos whose content is known become clips that say so."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from starcaster_core.data import clips
from starcaster_core.data.shards import SAMPLE_RATE, read_clips
from starcaster_core.errors import InputError

pytest.importorskip("dlib")
PORTRAIT = Path(clips.__file__).parents[1] / "assets" / "portrait.png"
PLAIN = np.full((240, 320, 3), 90, np.uint8)


def scene(shift: float = 0.0, turn: int = 0, side: int = 200) -> np.ndarray:
    """The shipped portrait on a plain wall, `shift` pixels to the right of the middle."""
    face = np.asarray(Image.open(PORTRAIT).convert("RGB").resize((side, side)).rotate(turn))
    picture = PLAIN.copy()
    left = int(60 + shift)
    picture[20 : 20 + side, left : left + side] = face
    return picture


def write_video(path: Path, pictures: list[np.ndarray], fps: int, sound: np.ndarray | None) -> None:
    with av.open(str(path), "w") as file:
        video = file.add_stream("libx264" if path.suffix != ".webm" else "libvpx-vp9", rate=fps)
        video.height, video.width, video.pix_fmt = *pictures[0].shape[:2], "yuv420p"
        audio = (
            file.add_stream("aac" if path.suffix != ".webm" else "libopus", rate=48000) if sound is not None else None
        )
        for picture in pictures:
            file.mux(video.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), "rgb24")))
        file.mux(video.encode())
        if audio is not None:
            frame = av.AudioFrame.from_ndarray(sound[None].astype(np.float32), "fltp", "mono")
            frame.sample_rate = 48000
            file.mux(audio.encode(frame))
            file.mux(audio.encode())


def click(seconds: float, at: float) -> np.ndarray:
    """Silence with a short burst in it, 48 kHz"""
    sound = np.zeros(int(48000 * seconds), np.float32)
    start = int(48000 * at)
    sound[start : start + 960] = 0.8 * np.sin(np.arange(960) * 0.3)
    return sound


def run(videos: Path, out: Path, frames: int = 20) -> dict[str, dict]:
    parser = argparse.ArgumentParser()
    clips.add_arguments(parser)
    clips.run(parser.parse_args(["--videos", str(videos), "--out", str(out), "--frames", str(frames), "--size", "64"]))
    return {entry["video"]: entry for entry in json.loads((out / "report.json").read_text())}


def test_a_moving_face_becomes_steady_clips_with_the_sound_of_their_moment(tmp_path):
    pictures = [scene(shift=index * 0.8) for index in range(50)]  # 50 frames a second: one second
    write_video(tmp_path / "talk.mp4", pictures * 2, fps=50, sound=click(2, at=1.0))
    report = run(tmp_path, tmp_path / "out")["talk.mp4"]
    # The face jumps back in the middle: two takes of 25 frames at 25 fps, a clip of 20 each.
    assert report["clips"] == 2 and report["dropped_seconds"] == {"rest of a take": 0.4}
    first, second = read_clips(tmp_path / "out")
    for clip in (first, second):
        assert clip.frames.shape == (20, 64, 64, 3) and clip.audio.shape == (20 * SAMPLE_RATE // 25,)
        assert clip.truth["landmarks"].shape == (20, 5, 2)
        eyes = clip.truth["landmarks"][:, :4].mean(axis=1)
        assert np.ptp(eyes, axis=0).max() < 3, "the crop does not follow the face"
        assert abs(eyes[:, 0].mean() - 32) < 5
    assert first.info["seconds"] == [0.0, 0.8] and second.info["seconds"] == [1.0, 1.8]
    assert np.abs(first.audio).max() < 0.05 and np.abs(second.audio[: SAMPLE_RATE // 20]).max() > 0.3
    assert np.linalg.norm(first.truth["embedding"] - second.truth["embedding"]) < 0.3


def test_cuts_empty_and_crowded_pictures_are_left_out_with_the_reason(tmp_path):
    two = np.concatenate([scene(), scene()], axis=1)[:, ::1]
    wide = np.concatenate([scene(), PLAIN], axis=1)
    nobody = np.concatenate([PLAIN, PLAIN], axis=1)
    pictures = [wide] * 25 + [nobody] * 10 + [two] * 10 + [wide] * 12
    write_video(tmp_path / "mixed.webm", pictures, fps=25, sound=click(2.3, at=0.1))
    report = run(tmp_path, tmp_path / "out")["mixed.webm"]
    assert report["clips"] == 1
    dropped = report["dropped_seconds"]
    assert dropped["no face"] == pytest.approx(0.4, abs=0.2)
    assert dropped["several faces"] == pytest.approx(0.4, abs=0.2)
    assert dropped["take too short"] == pytest.approx(0.48, abs=0.2)


def test_a_video_without_sound_is_refused_and_said_so(tmp_path):
    write_video(tmp_path / "mute.mp4", [scene()] * 10, fps=25, sound=None)
    report = run(tmp_path, tmp_path / "out")["mute.mp4"]
    assert report["clips"] == 0 and "refused" in report


def test_damaged_videos_are_recorded_and_left_out(tmp_path, monkeypatch):
    good = tmp_path / "z.mp4"
    write_video(good, [scene()] * 25, fps=25, sound=click(1, at=0.1))
    content = good.read_bytes()
    (tmp_path / "cut.mp4").write_bytes(content[: len(content) // 2])
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile z.mp4\n")
    (tmp_path / "text.mkv").write_text("no video " * 99)
    (tmp_path / "folder.mp4").mkdir()
    write_video(tmp_path / "fails.mp4", [scene()] * 25, fps=25, sound=click(1, at=0.1))
    crop = clips.make_clips

    def failing(path, *arguments):
        made = crop(path, *arguments)
        yield next(made)
        if path.name == "fails.mp4":
            raise RuntimeError("no decoder")

    monkeypatch.setattr(clips, "make_clips", failing)
    report = run(tmp_path, tmp_path / "out")
    assert report["z.mp4"]["clips"] == 1 and "refused" not in report["z.mp4"]
    for name in ("cut.mp4", "empty.mp4", "list.mp4", "text.mkv", "folder.mp4", "fails.mp4"):
        assert report[name]["clips"] == 0 and report[name]["refused"], name
    assert "no decoder" in report["fails.mp4"]["refused"]
    assert len(list(read_clips(tmp_path / "out"))) == 1, "half a shard stays"
    assert sorted(path.suffix for path in (tmp_path / "out").iterdir()) == [".json", ".tar"]


def test_long_videos_are_read_to_their_end(tmp_path, monkeypatch):
    from starcaster_core.speech import audio

    monkeypatch.setattr(audio, "LIMIT_SECONDS", 0.5)
    write_video(tmp_path / "long.mp4", [scene()] * 25, fps=25, sound=click(1, at=0.9))
    assert run(tmp_path, tmp_path / "out")["long.mp4"]["clips"] == 1


def test_a_report_that_is_none_is_refused(tmp_path):
    write_video(tmp_path / "a.mp4", [scene()] * 2, fps=25, sound=None)
    (tmp_path / "report.json").write_text("{")
    with pytest.raises(InputError, match="report of an earlier run"):
        run(tmp_path, tmp_path)


def test_a_second_run_does_only_what_is_new(tmp_path, monkeypatch):
    write_video(tmp_path / "a.mp4", [scene()] * 25, fps=25, sound=click(1, at=0.1))
    before = run(tmp_path, tmp_path / "out")
    (tmp_path / "0").mkdir()  # a new one that comes first in the alphabet takes nobody's place
    write_video(tmp_path / "0" / "a.mp4", [scene()] * 25, fps=25, sound=click(1, at=0.5))
    process = clips.process
    monkeypatch.setattr(
        clips,
        "process",
        lambda path, name, *rest: process(path, name, *rest) if name == "0/a.mp4" else pytest.fail(name),
    )
    after = run(tmp_path, tmp_path / "out")
    assert after["a.mp4"] == before["a.mp4"] and after["0/a.mp4"]["clips"] == 1
    loud = [int(np.abs(clip.audio).argmax() / SAMPLE_RATE * 10) for clip in read_clips(tmp_path / "out")]
    assert loud == [1, 5]


def test_an_empty_folder_is_an_error(tmp_path):
    with pytest.raises(InputError, match="a folder with videos"):
        run(tmp_path, tmp_path / "out")


def test_frames_come_at_25_a_second_whatever_the_rate(tmp_path):
    for fps, count in ((10, 10), (25, 25), (60, 60)):
        path = tmp_path / f"{fps}.mp4"
        write_video(path, [np.full((64, 64, 3), 4 * index, np.uint8) for index in range(count)], fps, None)
        brightness = np.array([picture.mean() for picture in clips.frames_at(path)]) / 4
        assert len(brightness) == pytest.approx(25, abs=2)
        expected = np.arange(len(brightness)) / 25 * fps  # which picture is on the screen
        assert np.abs(brightness - expected).max() < fps / 25 / 2 + 1.5
