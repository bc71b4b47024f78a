"""Writing videos in every format and reading them back, decoded to the last frame and sample."""

from __future__ import annotations

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

from starcaster_core.errors import AudioError, InputError, MissingDependencyError, StarcasterError
from starcaster_core.video import FORMATS, TAG, VideoWriter, as_rate, check_name, probe, write_video

av = pytest.importorskip("av")

FPS, COUNT, SIZE = 25, 15, 64
SECONDS = COUNT / FPS
CODECS = {"mp4": ("h264", "aac"), "webm": ("vp9", "opus"), "mov": ("prores", "pcm_s16le"), "png": ("png", "pcm_s16le")}
SOUNDING = tuple(CODECS)


def pictures(count=COUNT, width=SIZE, height=SIZE):
    """Smooth colours that move."""
    y, x = np.mgrid[:height, :width]
    for i in range(count):
        yield np.stack([x * 200 // width + 2 * i, y * 255 // height, 0 * x + 8 * i], -1).astype(np.uint8)


def tone(seconds, rate, channels=1):
    wave = 0.4 * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)
    return np.repeat(wave[None], channels, 0).astype(np.float32), rate


def target(folder, name):
    return folder / ("out" + FORMATS[name].suffix)


def decoded(path, kind):
    """Every frame of a stream as one array: pictures [T, H, W, 3], or sound [C, N]."""
    with av.open(str(path)) as file:
        frames = list(file.decode(**{kind: 0}))
        if kind == "video":
            return np.stack([frame.to_ndarray(format="rgb24") for frame in frames])
        to_float = av.AudioResampler(format="fltp")
        return np.concatenate([part.to_ndarray() for f in frames for part in to_float.resample(f)], axis=1)


@pytest.mark.parametrize("name", SOUNDING)
@pytest.mark.parametrize(
    "sound",
    [
        tone(SECONDS, 44100),
        tone(SECONDS, 48000, channels=2),
        tone(SECONDS, 16000),
        (np.zeros((1, 9600), np.float32), 16000),
        tone(0.2, 44100),
        tone(3.0, 22050, channels=2),
        (np.zeros((1, 0), np.float32), 16000),
    ],
    ids=["mono 44.1k", "stereo 48k", "mono 16k", "silent", "too short", "too long", "no samples"],
)
def test_sound_and_pictures_last_equally_long(tmp_path, name, sound):
    path = target(tmp_path, name)
    written = write_video(path, pictures(), FPS, sound, name)
    read = probe(path)
    for info in (written, read):
        assert (info.frames, info.fps, info.width, info.height) == (COUNT, FPS, SIZE, SIZE)
        assert (info.video_codec, info.audio_codec) == CODECS[name]
        assert abs(info.audio_seconds - info.seconds) < 1 / FPS
        assert info.channels == sound[0].shape[0] and info.is_cfr
    assert read.sample_rate == written.sample_rate
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", FORMATS)
def test_missing_sound(tmp_path, name):
    info = probe(write_and_name(tmp_path, name))
    assert info.frames == COUNT and info.audio_codec is None and info.is_cfr and info.fps == FPS


def write_and_name(folder, name, **settings):
    write_video(target(folder, name), pictures(), FPS, format=name, **settings)
    return target(folder, name)


@pytest.mark.parametrize("name", FORMATS)
def test_tag_and_workflow_are_inside(tmp_path, name):
    workflow = '{"nodes": ["über", "' + "x" * 3000 + '"]}'
    path = write_and_name(tmp_path, name, metadata={"prompt": '{"1": 2}', "workflow": workflow, "comment": "mine"})
    metadata = probe(path).metadata
    assert metadata["prompt"] == '{"1": 2}' and metadata["workflow"] == workflow
    assert metadata["comment"] == f"{TAG}. mine" and metadata["starcaster"] == TAG
    other = tmp_path / "plain"
    other.mkdir()
    assert probe(write_and_name(other, name)).metadata["comment"] == TAG


def test_mp4_starts_with_its_index(tmp_path):
    content = write_and_name(tmp_path, "mp4").read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


@pytest.mark.parametrize("name", FORMATS)
def test_odd_sides_gain_a_copied_line(tmp_path, name):
    path = target(tmp_path, name)
    write_video(path, pictures(3, 63, 49), FPS, format=name)
    info = probe(path)
    assert (info.width, info.height) == (64, 50)


def test_png_is_lossless_and_pads_by_the_edge(tmp_path):
    from PIL import Image

    (frame,) = pictures(1, 63, 49)
    write_video(tmp_path / "p", [frame], FPS, format="png")
    read = np.array(Image.open(tmp_path / "p" / "frame_00001.png"))
    np.testing.assert_array_equal(read[:49, :63], frame)
    np.testing.assert_array_equal(read[:49, 63], frame[:, 62])
    np.testing.assert_array_equal(read[49, :63], frame[48])


@pytest.mark.parametrize(("name", "limit"), [("mp4", 3), ("webm", 5), ("mov", 3), ("gif", 12)])
def test_colours_come_back(tmp_path, name, limit):
    path = target(tmp_path, name)
    colours = [(200, 30, 30), (30, 180, 40), (40, 40, 220), (230, 180, 150)]
    block = np.concatenate([np.full((64, 32, 3), c, np.uint8) for c in colours], 1)
    write_video(path, [block] * 3, FPS, format=name)
    read = decoded(path, "video")[1]
    for index, colour in enumerate(colours):
        assert np.abs(read[32, 32 * index + 16].astype(int) - colour).max() <= limit


@pytest.mark.parametrize("name", ["mp4", "webm"])
def test_crf_sets_the_size(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)
    sizes = []
    for crf in (5, 45):
        path = tmp_path / f"{crf}{FORMATS[name].suffix}"
        write_video(path, [noise], FPS, format=name, crf=crf)
        sizes.append(path.stat().st_size)
    assert sizes[0] > 2 * sizes[1]
    with pytest.raises(InputError, match="crf"):
        write_video(tmp_path / "x", [noise], FPS, format=name, crf=99)


@pytest.mark.parametrize("name", ["mp4", "webm", "mov"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_a_click_stays_where_it_was_and_in_its_channel(tmp_path, name, rate):
    clicks = np.zeros((2, rate), np.float32)
    clicks[0, rate * 3 // 10 : rate * 3 // 10 + rate // 500] = 0.9
    path = target(tmp_path, name)
    write_video(path, pictures(), FPS, (clicks, rate), name)
    info, heard = probe(path), np.abs(decoded(path, "audio"))
    assert heard[0].argmax() / info.sample_rate == pytest.approx(0.301, abs=0.004)
    assert heard[1].max() < 0.1 * heard[0].max()


@pytest.mark.parametrize("name", ["mp4", "webm", "mov"])
@pytest.mark.parametrize("fps", [24, 29.97, 30, Fraction(12)])
def test_other_frame_rates_are_constant_and_exact(tmp_path, name, fps):
    path = target(tmp_path, name)
    write_video(path, pictures(31), fps, tone(2, 48000), name)
    info = probe(path)
    assert info.frames == 31 and info.is_cfr and abs(info.audio_seconds - info.seconds) < 1 / fps
    assert float(info.fps) == pytest.approx(float(as_rate(fps)), rel=1e-4)


def test_frame_rates():
    assert as_rate(25.0) == 25 and as_rate(23.976) == Fraction(24000, 1001) and as_rate(29.97) == Fraction(30000, 1001)
    assert as_rate(12.5) == Fraction(25, 2)
    for wrong in (0, -1, 1000, float("nan"), float("inf"), "fast", None):
        with pytest.raises(InputError):
            as_rate(wrong)


def test_batches_of_floats_equal_single_bytes(tmp_path):
    frames = np.stack(list(pictures(8)))
    batches = (torch.from_numpy(part).float() / 255 for part in (frames[:5], frames[5:]))
    write_video(tmp_path / "a.mp4", batches, FPS)
    write_video(tmp_path / "b.mp4", frames, FPS)
    np.testing.assert_array_equal(decoded(tmp_path / "a.mp4", "video"), decoded(tmp_path / "b.mp4", "video"))


def test_frames_are_taken_as_they_come(tmp_path):
    with VideoWriter(tmp_path / "a.webm", FPS) as writer:
        for frame in pictures(4):
            writer.write(frame)
            assert not (tmp_path / "a.webm").exists()
    assert writer.info.frames == 4 and probe(tmp_path / "a.webm").frames == 4


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_nothing_is_left_of_an_abandoned_video(tmp_path, name, failure):
    def failing():
        yield from pictures(5)
        raise failure

    with pytest.raises(failure):
        write_video(target(tmp_path, name), failing(), FPS, tone(1, 16000), name)
    assert list(tmp_path.iterdir()) == []


def test_a_failed_video_leaves_the_old_one(tmp_path):
    path = write_and_name(tmp_path, "mp4")
    before = path.read_bytes()
    with pytest.raises(InputError, match="one size"):
        write_video(path, [np.zeros((64, 64, 3), np.uint8), np.zeros((32, 32, 3), np.uint8)], FPS)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", FORMATS)
def test_a_failing_encoder_is_explained(tmp_path, name, monkeypatch):
    from starcaster_core.video import sinks

    def broken(self):
        raise av.error.ExternalError(5, "no space left in the encoder")

    kind = {"gif": sinks.GifSink, "png": sinks.FolderSink}.get(name, sinks.ContainerSink)
    monkeypatch.setattr(kind, "finish", broken)
    with pytest.raises(StarcasterError, match="to write out.*no space left.*free space"):
        write_and_name(tmp_path, name)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_encoder_is_explained(tmp_path, monkeypatch):
    from starcaster_core.video import formats

    monkeypatch.setitem(formats.FORMATS, "mp4", dataclasses.replace(FORMATS["mp4"], video="libx999"))
    with pytest.raises(MissingDependencyError, match="libx999"):
        write_and_name(tmp_path, "mp4")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_is_explained(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StarcasterError, match="a folder to write into"):
        write_video(tmp_path / "file" / "out.mp4", pictures(), FPS)


def test_a_folder_of_frames_is_not_overwritten(tmp_path):
    write_and_name(tmp_path, "png")
    with pytest.raises(InputError, match="empty folder"):
        write_and_name(tmp_path, "png")
    (tmp_path / "empty").mkdir()
    assert write_video(tmp_path / "empty", pictures(2), FPS, format="png").frames == 2


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        ([], "at least one frame"),
        ([np.full((8, 8, 3), np.nan, np.float32)], "NaN"),
        ([np.zeros((8, 8, 4), np.uint8)], "shape"),
        ([np.zeros((8, 8), np.uint8)], "shape"),
        ([np.zeros((8, 8, 3), np.int64)], "int64"),
    ],
)
def test_bad_frames_are_refused(tmp_path, frames, words):
    with pytest.raises(InputError, match=words):
        write_video(tmp_path / "a.mp4", frames, FPS)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sound", "words"),
    [
        ((np.full((1, 100), np.nan, np.float32), 16000), "NaN"),
        ((np.zeros(100, np.float32), 16000), "shape"),
        ((np.zeros((1, 100), np.float32), 0), "sampling rate"),
    ],
)
def test_bad_sound_is_refused(tmp_path, sound, words):
    with pytest.raises(AudioError, match=words):
        write_video(tmp_path / "a.mp4", pictures(), FPS, sound)
    assert list(tmp_path.iterdir()) == []


def test_surround_becomes_stereo(tmp_path):
    assert write_video(tmp_path / "a.mp4", pictures(), FPS, tone(1, 48000, channels=6)).channels == 2


def test_unknown_formats_and_files_without_video_are_refused(tmp_path):
    with pytest.raises(InputError, match="avi"):
        write_video(tmp_path / "a.avi", pictures(), FPS)
    (tmp_path / "a.txt").write_text("no video")
    (tmp_path / "folder").mkdir()
    for name in ("a.txt", "folder", "missing.mp4"):
        with pytest.raises(InputError, match="video in"):
            probe(tmp_path / name)


@pytest.mark.parametrize("name", ["STARCaster", "video/take 1", "a.b", "portrait-é_2", "conference"])
def test_good_names_pass(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "  ", "..", "../a", "a/../b", "a/..", "/etc/a", "C:/a", "c:a", "a\\b", "..\\a", "a\0b", "a\nb", "a:b", "a*"]
    + ["a?", "a|b", "<a>", 'a"b', "con", "NUL.mp4", "a//b", "a/", "a.", "a /b", "./a", "x" * 300, None, 3],
)
def test_bad_names_do_not(name):
    with pytest.raises(InputError, match="file name"):
        check_name(name)
