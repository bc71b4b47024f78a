"""Whatever a file holds, our own parsers give a value in range or one short sentence."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from corpus import GOOD_KEYS, RATE, identity_bytes, raw_safetensors, voice
from hypothesis import example, given
from hypothesis import strategies as st

from starcaster_core.camera import keyframe_path, parse_keyframes, read_keyframes
from starcaster_core.camera.keyframes import EASINGS
from starcaster_core.channels import TO_STEREO, downmix
from starcaster_core.errors import CameraError, InputError, shown
from starcaster_core.identity import load_identity
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.journal import open_journal
from starcaster_core.sampling.redo import read_redo
from starcaster_core.sampling.settings import SamplerSettings
from starcaster_core.video import check_name, check_output

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4),
    max_leaves=20,
)
NUMBER = st.floats() | st.integers() | JSON
KEYFRAME = st.fixed_dictionaries(
    {"time": st.floats(0, 9), "yaw": st.floats(-80, 80), "pitch": st.floats(-80, 80), "distance": st.floats(0.1, 9)},
    optional={"easing": st.sampled_from(sorted(EASINGS))},
)
CHANGED = st.dictionaries(st.sampled_from(["time", "yaw", "pitch", "distance", "easing", "roll"]), NUMBER, max_size=2)
KEYS = st.lists(KEYFRAME | st.builds(lambda key, changed: key | changed, KEYFRAME, CHANGED), max_size=4)


def is_short(error: InputError) -> bool:
    return len(str(error)) < 900 and str(error).isprintable()


def spoilt(content: bytes, places: list[tuple[int, int]], end: int) -> bytes:
    changed = bytearray(content)
    for at, value in places:
        changed[at % len(changed)] = value
    return bytes(changed[: end % (len(changed) + 1)])


CHANGES = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), max_size=8)


@given(KEYS.map(json.dumps) | JSON.map(json.dumps) | st.text(max_size=200) | st.builds(lambda t: t * 999, st.text()))
@example("[" * 100_000)
@example('[{"time": 1e308, "yaw": 0, "pitch": 0, "distance": 1}]')
def test_any_text_is_keyframes_or_a_sentence(text):
    try:
        keys = parse_keyframes(text)
        path = keyframe_path(text, 7)
    except CameraError as error:
        assert is_short(error)
    else:
        assert keys and all(before.time < after.time for before, after in zip(keys, keys[1:]))
        assert path.frames == 7 and np.isfinite(path.world_from_cam).all()


@given(st.binary(max_size=300) | st.builds(spoilt, st.just(GOOD_KEYS.encode("utf-16")), CHANGES, st.integers(0)))
def test_any_file_is_text_or_a_sentence(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "path.json")
        path.write_bytes(content)
        try:
            assert isinstance(read_keyframes(path), str)
        except CameraError as error:
            assert is_short(error)


def loads_or_says(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "me.safetensors")
        path.write_bytes(content)
        try:
            identity = load_identity(path)
        except InputError as error:
            assert is_short(error)
        else:
            assert len(identity.embedding) in (128, 512) and np.abs(identity.embedding).max() <= 1000
            assert abs(identity.yaw) <= 180 and abs(identity.pitch) <= 180


@given(
    st.dictionaries(st.sampled_from(["format", "backend", "yaw", "pitch", "other"]), st.none() | st.text(max_size=30)),
    st.sampled_from([1, 5, 128, 512]),
    st.floats(width=32),
)
def test_any_metadata_of_an_identity_is_in_range_or_a_sentence(metadata, count, value):
    loads_or_says(identity_bytes(np.full(count, value, np.float32), metadata))


@given(CHANGES, st.integers(0))
def test_any_spoilt_identity_file_is_in_range_or_a_sentence(places, end):
    loads_or_says(spoilt(identity_bytes(portrait=np.zeros((8, 8, 3), np.uint8)), places, end))


@given(JSON, st.binary(max_size=600))
def test_any_header_of_an_identity_file_is_a_sentence(header, body):
    loads_or_says(raw_safetensors(json.dumps(header), body))


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A journal's first chunk: its folder, its file's content and its latents."""
    folder, latents = tmp_path_factory.mktemp("journal"), torch.linspace(-1, 1, 64).view(1, 4, 1, 4, 4)
    with open_journal(folder, "0" * 32, 2, 2**20, lambda sentence: None) as journal:
        journal.write(0, latents)
        return journal.path(0), journal.path(0).read_bytes(), latents


@given(CHANGES, st.integers(0))
def test_any_spoilt_chunk_of_a_journal_is_whole_or_not_used(kept, places, end):
    path, content, latents = kept
    path.write_bytes(spoilt(content, places, end))
    with open_journal(path.parent.parent, "0" * 32, 2, 2**20, lambda sentence: None) as journal:
        found = journal.read(0)
    assert found is None or torch.equal(found, latents)


PARTS = st.lists(
    st.builds(
        "{}{}{}{}".format,
        st.integers(-2, 9) | st.floats(-1, 9) | st.text("0123456789.-s:=", max_size=6),
        st.sampled_from(["", "-3", "s", "-2s", "-1.5s"]),
        st.sampled_from(["", ":7", ":-1", f":{2**64}", ":x"]),
        st.sampled_from(["", ":audio_scale=2", ":lambda_audio=nan", ":steps=3", ":lambda_camera=", ":=", ":a=1:b=2"]),
    ),
    max_size=4,
).map(" ".join)


@given(PARTS | st.text(max_size=80))
def test_any_text_names_chunks_to_make_again_or_is_a_sentence(text):
    settings = SamplerSettings(steps=1)
    try:
        redo = read_redo(text, PRESETS["tiny"], 64, settings, 5)
    except InputError as error:
        assert is_short(error)
    else:
        assert all(0 <= index < 4 and again.steps == 1 for index, again in redo.items())


@given(st.text(max_size=300) | st.text("a/.é\u65e5\U0001f600 ", max_size=600))
def test_a_name_that_passes_can_be_written_inside_the_folder(name):
    try:
        assert check_name(name) == name
    except InputError as error:
        assert is_short(error)
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"{name}_00001_.identity.safetensors")
        check_output(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        assert path.resolve().is_relative_to(Path(folder).resolve())


@given(st.text(max_size=300) | st.binary(max_size=300).map(os.fsdecode))
def test_an_output_that_passes_can_be_written(name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name.replace("/", "_") + ".mp4")
        try:
            check_output(path)
        except InputError as error:
            assert is_short(error)
        else:
            path.touch()


@given(st.text(max_size=2000) | st.binary(max_size=900).map(os.fsdecode))
def test_what_is_shown_is_short_and_printable(text):
    assert shown(text).isprintable() and len(shown("x" * len(text))) <= 420
    assert shown("plain é \u65e5\u672c text") == "plain é \u65e5\u672c text"


@given(st.integers(1, 12), st.lists(st.sampled_from(sorted(TO_STEREO)), max_size=12), st.data())
def test_a_voice_in_any_channel_but_the_bass_is_heard_in_the_mix(count, names, data):
    index = data.draw(st.integers(0, count - 1))
    channels = np.zeros((count, 800), np.float32)
    channels[index] = voice()[RATE // 2 : RATE // 2 + 800]
    level = np.square(channels[index]).mean() ** 0.5
    mixed = downmix(channels, names)
    assert mixed.shape[0] in (1, 2) and np.abs(mixed).max() <= max(1, np.abs(channels).max()) + 1e-6
    is_bass = len(names) == count > 2 and names[index].startswith("LFE") or count in (6, 7, 8) and index == 3
    if not is_bass:
        assert np.square(mixed).mean(axis=1).max() ** 0.5 >= 0.49 * level


@pytest.mark.parametrize("names", [("FL", "FR", "FC", "LFE", "BL", "BR")])
def test_the_mix_is_that_of_the_standard(names):
    """ITU-R BS.775-3, table 2: two channels of 3/2."""
    one = np.eye(6, dtype=np.float32) / 4
    left, right = downmix(one, names) * 4
    np.testing.assert_allclose(left, [1, 0, 0.7071, 0, 0.7071, 0], atol=1e-4)
    np.testing.assert_allclose(right, [0, 1, 0.7071, 0, 0, 0.7071], atol=1e-4)
