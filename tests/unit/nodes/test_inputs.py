"""The corpus through the nodes: what other nodes and users hand them gives a result, or one sentence, also below the
node."""

from __future__ import annotations

import json
import re
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import av
import corpus
import numpy as np
import pytest
import torch
from corpus import IDENTITY_FILES, KEYFRAME_TEXTS, LEVEL, RATE, voice
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("dlib")


@pytest.fixture
def below(module, bridge, monkeypatch) -> list[str]:
    """The sentences that stand below the node."""
    said = []
    monkeypatch.setattr(
        bridge, "show_below", lambda node_id, sentence: said.append(sentence) if node_id == "7" else None
    )
    for node in module("nodes.extension").NODES:
        hidden = SimpleNamespace(unique_id="7", prompt={"1": {"inputs": {}}}, extra_pnginfo=None)
        monkeypatch.setattr(node, "hidden", hidden, raising=False)
    return said


@pytest.fixture
def errors(module):
    return module("starcaster_core.errors")


def refused(errors, below, says: str, execute, *arguments, **inputs) -> None:
    with pytest.raises(errors.StarcasterError) as caught:
        execute(*arguments, **inputs)
    sentence = str(caught.value)
    assert re.search(says, sentence) and sentence.isprintable() and len(sentence) < 800
    assert below == [sentence]
    assert type(caught.value).__module__ == "builtins", "ComfyUI shows the class with its module's path"


def audio(waveform, rate=RATE) -> dict:
    return {"waveform": waveform, "sample_rate": rate}


def spoken(*channels: float) -> torch.Tensor:
    """The voice in as many channels, each times a factor, [1, C, N]."""
    return torch.from_numpy(np.stack([voice() * factor for factor in channels]))[None]


AUDIO = {
    "mono": (audio(spoken(1)), None),
    "stereo": (audio(spoken(1, 1)), None),
    "opposite phase": (audio(spoken(1, -1)), None),
    "5.1, voice in the middle": (audio(spoken(0, 0, 1, 0, 0, 0)), None),
    "7.1": (audio(spoken(0.7, 0.7, 0.7, 0, 0, 0, 0, 0)), None),
    "2-D": (audio(spoken(1)[0]), None),
    "1-D": (audio(spoken(1)[0, 0]), None),
    "bfloat16": (audio(spoken(1).bfloat16()), None),
    "float16": (audio(spoken(1).half()), None),
    "float64": (audio(spoken(1).double()), None),
    "int16": (audio((spoken(1) * 32767).short()), None),
    "int32": (audio((spoken(1) * (2**31 - 1)).int()), None),
    "uint8": (audio((spoken(1) * 127 + 128).byte()), None),
    "rate as text": (audio(spoken(1), "16000"), None),
    "rate as a float": (audio(spoken(1), 16000.0), None),
    "more entries": (audio(spoken(1)) | {"path": "x"}, None),
    "none": (None, "the video has no sound"),
    "no rate": ({"waveform": spoken(1)}, "a waveform and a sample rate"),
    "no waveform": ({"sample_rate": RATE}, "a waveform and a sample rate"),
    "a tensor": (spoken(1), "a waveform and a sample rate"),
    "a list as waveform": (audio([[0.0]]), "a waveform and a sample rate"),
    "rate None": (audio(spoken(1), None), "a sample rate"),
    "rate 0": (audio(spoken(1), 0), "a sample rate"),
    "rate below 0": (audio(spoken(1), -1), "a sample rate"),
    "rate NaN": (audio(spoken(1), float("nan")), "a sample rate"),
    "rate a word": (audio(spoken(1), "fast"), "a sample rate"),
    "a batch of two": (audio(spoken(1).repeat(2, 1, 1)), "a batch of 2"),
    "4-D": (audio(spoken(1)[None]), "the shape"),
    "NaN": (audio(spoken(float("nan"))), "NaN"),
    "samples of 32767": (audio(spoken(32767)), "-1..1"),
    "complex": (audio(spoken(1).to(torch.complex64)), "floats or whole numbers"),
    "boolean": (audio(spoken(1) > 0), "floats or whole numbers"),
}


@pytest.mark.parametrize("name", [*AUDIO, "zero samples"])
def test_audio_into_the_audio_encoder(name, module, errors, below):
    sound, says = AUDIO.get(name, (audio(torch.zeros(1, 1, 0)), "0 seconds"))
    heard = []
    core = SimpleNamespace(
        config=SimpleNamespace(fps=25.0, speech_encoder="phonetic"),
        encode_speech=lambda samples: heard.append(samples) or SimpleNamespace(frames=1),
    )
    model = SimpleNamespace(core=core, on_device=lambda: core)
    execute = module("nodes.speech").AudioEncoder.execute
    if says:
        return refused(errors, below, says, execute, model, sound, 0.0)
    execute(model, sound, 0.0)
    assert heard[0].square().mean().sqrt() > LEVEL and len(heard[0]) == RATE


@pytest.mark.parametrize("name", AUDIO)
def test_audio_into_video_combine(name, module, errors, below, bridge):
    sound, says = AUDIO[name]
    if sound is None:
        says = None  # no sound, no matter
    if name == "samples of 32767":
        says = None  # clipped
    execute = module("nodes.video").VideoCombine.execute
    inputs = dict(fps=25.0, format="mp4", crf=30, filename_prefix="inputs/a", images=torch.zeros(25, 16, 16, 3))
    if says:
        return refused(errors, below, says, execute, audio=sound, **inputs)
    video = execute(audio=sound, **inputs).result[0]
    components = video.get_components()
    assert len(components.images) == 25
    if sound is not None:
        assert components.audio["waveform"].square().mean().sqrt() > 0.8 * LEVEL
    assert not below


def photo() -> torch.Tensor:
    return torch.from_numpy(np.asarray(corpus.face()).copy()).float()[None] / 255


def photos() -> dict[str, tuple]:
    image = photo()
    two = torch.cat([image, torch.zeros_like(image)])
    return {
        "float32": (image, None),
        "bfloat16": (image.bfloat16(), None),
        "float16": (image.half(), None),
        "float64": (image.double(), None),
        "uint8": ((image * 255).byte(), None),
        "without a batch": (image[0], None),
        "with alpha": (torch.cat([image, torch.ones_like(image[..., :1])], dim=-1), None),
        "grey": (image.mean(dim=-1, keepdim=True), None),
        "a little beyond 1": (image * 1.05, None),
        "not contiguous": (image.movedim(-1, 1).contiguous().movedim(1, -1), None),
        "0..255": (image * 255, "0..1"),
        "-1..1": (image * 2 - 1, "0..1"),
        "NaN": (image * float("nan"), "finite"),
        "channels first": (image.movedim(-1, 1), "channels last"),
        "five channels": (image.repeat(1, 1, 1, 2)[..., :5], "channels last"),
        "empty batch": (image[:0], "at least one photo"),
        "int64": ((image * 255).long(), "8-bit"),
        "black": (image * 0, "a photo with a face.*mask"),
        "on its side": (image.rot90(1, (1, 2)), "upright"),
        "two faces": (torch.cat([image, image], dim=2), "one person.*mask"),
        "the second without a face": (two, "photo 2 of 2"),
    }


@pytest.mark.parametrize("name", photos())
def test_images_into_the_identity_loader(name, module, errors, below):
    image, says = photos()[name]
    execute = module("nodes.identity").IdentityLoader.execute
    if says:
        return refused(errors, below, says, execute, "none", "single", "", image=image)
    identity, portrait = execute("none", "single", "", image=image).result
    assert portrait.shape == (1, 512, 512, 3) and np.isfinite(identity.embedding).all() and not below


def test_two_people_are_told_apart_below_the_node(module, below):
    one, other = (
        torch.from_numpy(
            corpus.np.asarray(corpus.Image.open(corpus.ASSETS / name).convert("RGB").resize((256, 256))).copy()
        )
        for name in ("portrait.png", "portrait_2.png")
    )
    module("nodes.identity").IdentityLoader.execute("none", "single", "", image=torch.stack([one, other]) / 255)
    assert "Photo 2 seems to show another person" in below[0]


MASKS = {
    "empty": (torch.zeros(1, 256, 256), None),
    "bfloat16": (torch.ones(1, 256, 256).bfloat16(), None),
    "2-D": (torch.ones(256, 256), None),
    "another size": (torch.ones(1, 64, 64), "a mask as large as the picture"),
    "two for one": (torch.ones(2, 256, 256), "one mask a photo"),
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_into_the_identity_loader(name, module, errors, below):
    mask, says = MASKS[name]
    execute = module("nodes.identity").IdentityLoader.execute
    if says:
        return refused(errors, below, says, execute, "none", "single", "", image=photo(), mask=mask)
    assert execute("none", "single", "", image=photo(), mask=mask).result


@pytest.mark.parametrize("name", IDENTITY_FILES)
def test_identity_files_into_the_identity_loader(name, module, errors, below, bridge):
    content, says = IDENTITY_FILES[name]
    path = Path(bridge.folder_paths.get_input_directory()) / "me.identity.safetensors"
    path.write_bytes(content())
    execute = module("nodes.identity").IdentityLoader.execute
    if says:
        return refused(errors, below, says, execute, path.name, "single", "")
    assert execute(path.name, "single", "").result[0].embedding.shape == (128,)


def test_saved_identities_are_never_replaced_and_never_twice(module, below, bridge):
    execute = module("nodes.identity").IdentityLoader.execute
    folder = Path(bridge.folder_paths.get_output_directory()) / "starcaster"
    source = Path(bridge.folder_paths.get_input_directory()) / "source.identity.safetensors"
    for value in (1, 1, 2):
        source.write_bytes(corpus.identity_bytes(np.full(128, value, np.float32)))
        execute(source.name, "single", "people/me")
    names = sorted(path.name for path in (folder / "people").iterdir())
    assert names == ["me.identity.safetensors", "me_2.identity.safetensors"]
    assert below == ["me.identity.safetensors exists, so it was saved as me_2.identity.safetensors."]


@pytest.mark.parametrize("name", KEYFRAME_TEXTS)
def test_keyframes_into_the_camera_trajectory(name, module, errors, below):
    text, says = KEYFRAME_TEXTS[name]
    execute = module("nodes.camera").CameraTrajectory.execute
    values = ("keyframes", 0.0, 0.0, 1.0, 0.0, 0.2, text)
    if says:
        return refused(errors, below, says, execute, *values)
    path, plot = execute(*values).result
    assert path.frames == 5 and plot.ndim == 4


def name_cases() -> dict[str, str | None]:
    long = "é" * 100
    good = [
        "a",
        "a b",
        "video/take 1",
        "\u65e5\u672c",
        "\U0001f600",
        long,
        "x" * 200,
        "50%",
        "%nothing%",
        "%No node.width%",
        "a.b",
    ]
    bad = ["", " ", "..", "../a", "/a", "C:/a", "a\\b", "a\0", "a\nb", "a:b", "con", "a/", "a.", "x" * 201, long + "é"]
    bad += ["\u65e5" * 67, "/".join(["d" * 199] * 9), "a\ud800", None, 3, "%date:dd:MM%", "\x1b[31mred"]
    return {**dict.fromkeys(good), **dict.fromkeys(bad, "a file name inside the output folder")}


@pytest.mark.parametrize("name", name_cases(), ids=lambda name: ascii(name)[:30])
def test_names_of_videos_and_identities(name, module, errors, below, bridge):
    says = name_cases()[name]
    combine = module("nodes.video").VideoCombine.execute
    inputs = dict(fps=25.0, format="mp4", crf=30, filename_prefix=name, images=torch.zeros(1, 16, 16, 3))
    if says:
        return refused(errors, below, says, combine, **inputs)
    video = combine(**inputs).result[0]
    path = Path(video.get_stream_source())
    assert path.is_file() and path.is_relative_to(bridge.folder_paths.get_output_directory())
    assert bridge.identity_output_path(name).name.endswith(".identity.safetensors")


def test_names_are_filled_in_as_the_frontend_does(module, bridge, monkeypatch, below):
    fill_in = module("nodes.names").fill_in
    now = datetime(2026, 3, 4, 5, 6, 7)
    prompt = {
        "3": {"class_type": "KSampler", "inputs": {"seed": 42, "model": ["1", 0], "text": "a/b:c"}},
        "4": {"class_type": "Other", "inputs": {"seed": 7}, "_meta": {"title": "My node"}},
    }
    workflow = {"nodes": [{"id": 3, "title": "Mine", "properties": {"Node name for S&R": "Nice one"}}]}
    for pattern, wanted in {
        "%date:yyyy-MM-dd%": "2026-03-04",
        "%date:yy.M.d hh-mm-ss%": "26.3.4 05-06-07",
        "%KSampler.seed%_%My node.seed%": "42_7",
        "%Nice one.seed%/%Mine.seed%": "42/42",
        "%KSampler.text%": "a_b_c",
        "%KSampler.model% %KSampler.gone% %Gone.seed% %width% 100%": "%KSampler.model% %KSampler.gone% %Gone.seed% "
        "%width% 100%",
    }.items():
        assert fill_in(pattern, prompt, workflow, now) == wanted
    combine = module("nodes.video").VideoCombine
    combine.hidden.prompt = prompt
    prefix = "%date:yyyy%/%width%x%height%_%KSampler.seed%"
    video = combine.execute(25.0, "mp4", 30, prefix, images=torch.zeros(1, 16, 32, 3)).result[0]
    path = Path(video.get_stream_source())
    assert path.name == "32x16_42_00001_.mp4" and path.parent.name == str(datetime.now().year)


def test_any_name_is_filled_in_or_refused(module, errors):
    """Node titles and values are the user's own, and so is the pattern."""
    fill_in, check_name = module("nodes.names").fill_in, module("starcaster_core.video").check_name
    word = st.text("ab/.%:\\\0 é", max_size=8)
    node = st.fixed_dictionaries(
        {"class_type": word, "inputs": st.dictionaries(word, word | st.integers() | st.none())}
    )
    workflow = st.fixed_dictionaries(
        {"nodes": st.lists(st.none() | st.fixed_dictionaries({"id": word, "title": word}))}
    )

    @given(
        word | st.builds("%{}.{}%".format, word, word) | st.builds("%date:{}%".format, st.text("yMdhms-", max_size=9)),
        st.dictionaries(word, node, max_size=3),
        st.none() | workflow,
    )
    def check(prefix, prompt, workflow):
        name = fill_in(prefix, prompt, workflow)
        try:
            assert ".." not in check_name(name).split("/")
        except errors.InputError as error:
            assert str(error).isprintable()

    check()


@pytest.mark.parametrize("kind", ["video", "identity"])
def test_links_do_not_lead_out_of_the_output_folder(kind, module, errors, bridge, tmp_path):
    root = Path(bridge.folder_paths.get_output_directory())
    (root / "starcaster").mkdir(exist_ok=True)
    for folder in (root, root / "starcaster"):
        if not (folder / "away").exists():
            (folder / "away").symlink_to(tmp_path)
    name = {
        "video": lambda: next(bridge.next_outputs("away/a", ".mp4")),
        "identity": lambda: bridge.identity_output_path("away/a"),
    }
    with pytest.raises(errors.InputError, match="a link that leads out of it"):
        name[kind]()
    assert not list(tmp_path.iterdir())


PACES = {
    "as made": (25.0, 25.0, 25, None),
    "samples at another rate": (50.0, 25.0, 25, "made for 25 a second; at 50"),
    "images as long as the sound at 25": (50.0, None, 25, "made for 25 a second; at 50"),
    "images of another source": (30.0, None, 30, None),
    "images longer than the sound": (30.0, None, 300, None),
}


@pytest.mark.parametrize("name", PACES)
def test_frames_at_another_pace_than_the_speech(name, module):
    fps, made_for, count, says = PACES[name]
    said = module("nodes.video").pace_warnings(fps, "mp4", made_for, count, (torch.zeros(1, RATE), RATE))
    assert len(said) == bool(says) and re.search(says or "", " ".join(said))


def test_gif_says_when_its_clock_is_too_coarse(module):
    paces = module("nodes.video").pace_warnings
    assert not paces(25.0, "gif", None, 9, None) and "hundredths" in paces(30.0, "gif", None, 9, None)[0]


def test_samples_of_another_model(module, errors, below, bridge):
    core = module("starcaster_core.models.checkpoint").load_checkpoint("tiny", torch.float32)
    vae = bridge.StarcasterVAE(core.vae)
    wrong = torch.zeros(1, core.config.autoencoder.latent_channels + 1, 8, 8)
    with pytest.raises(errors.InputError, match="channels"):
        vae.decode(wrong)
    combine = module("nodes.video").VideoCombine.execute
    refused(errors, below, "channels", combine, 25.0, "mp4", 30, "a", samples={"samples": wrong}, vae=vae)
    below.clear()
    model = bridge.LoadedModel(core)
    identity = module("starcaster_core.types").Identity(np.ones(128, np.float32))
    decode = module("nodes.decode").Decode.execute
    refused(errors, below, "channels", decode, {"samples": wrong}, model, identity, "face", 0)


def test_a_folder_of_frames_keeps_its_sound_and_rate_as_video(module, below):
    combine = module("nodes.video").VideoCombine.execute
    images = torch.rand(6, 16, 16, 3)
    video = combine(12.0, "png", 30, "frames", images=images, audio=audio(spoken(1))).result[0]
    components = video.get_components()
    assert components.frame_rate == Fraction(12) and video.get_frame_rate() == 12 and video.get_frame_count() == 6
    assert torch.allclose(components.images, images, atol=1 / 255) and video.get_dimensions() == (16, 16)
    assert components.audio["waveform"].shape == (1, 1, RATE // 2) and components.audio["sample_rate"] == RATE


@pytest.mark.parametrize("format", ["mp4", "webm", "mov", "gif", "png"])
def test_every_format_is_shown_as_a_video_that_browsers_play(format, module, below, bridge):
    combine = module("nodes.video").VideoCombine.execute
    images = torch.rand(6, 40, 1100, 3)
    done = combine(25.0, format, 30, "shown", images=images, audio=audio(spoken(1)))
    folders = bridge.folder_paths
    (shown,) = done.ui["images"]
    (saved,) = done.ui.get("files", [shown])
    assert tuple(done.ui["animated"]) == (True,)
    path = Path(folders.get_output_directory(), saved["subfolder"], saved["filename"])
    assert saved["type"] == "output" and path.is_file()
    if format in ("mp4", "webm"):
        return
    assert shown["type"] == "temp" and shown["filename"].endswith(".mp4")
    preview = module("starcaster_core.video").probe(Path(folders.get_temp_directory(), shown["filename"]))
    assert (preview.video_codec, preview.width, preview.frames, preview.fps) == ("h264", 512, 6, 25)
    assert preview.audio_codec == (None if format == "gif" else "aac")


@pytest.mark.parametrize("format", ["mp4", "webm", "mov", "gif", "png"])
@pytest.mark.parametrize(("container", "codec"), [("auto", "auto"), ("mp4", "auto"), ("auto", "h264")])
def test_core_saves_the_video_of_every_format(format, container, codec, module, below, bridge, tmp_path):
    """As core's Save Video calls it, into an .mp4 file whatever came in."""
    combine = module("nodes.video").VideoCombine.execute
    video = combine(25.0, format, 30, "saved", images=torch.rand(6, 32, 48, 3), audio=audio(spoken(1))).result[0]
    target = tmp_path / "again.mp4"
    settings = {"format": bridge.Types.VideoContainer(container), "codec": codec, "metadata": {"prompt": {"1": 2}}}
    video.save_to(str(target), **settings, crf=None)
    again = module("starcaster_core.video").probe(target)
    assert (again.frames, again.width, again.height, again.fps) == (6, 48, 32, 25)
    assert bool(again.audio_codec) == (format != "gif")
    with av.open(str(target)) as file:
        depth = file.streams.video[0].format.components[0].bits
    assert depth == 8 and again.video_codec == (
        "vp9" if (format, container, codec) == ("webm", "auto", "auto") else "h264"
    )


@pytest.mark.parametrize("format", ["mp4", "mov", "gif", "png"])
def test_a_part_of_the_video_is_still_ours(format, module, below, bridge, tmp_path):
    """As core's Video Slice cuts it: Save Video takes the part, with its sound and its rate."""
    combine = module("nodes.video").VideoCombine.execute
    images = torch.linspace(0, 1, 50)[:, None, None, None].expand(50, 32, 48, 3)
    video = combine(50.0, format, 1, "part", images=images, audio=audio(spoken(1))).result[0]
    assert video.as_trimmed(0.5, 0.8) is None, "longer than the video"
    parts = [
        video.as_trimmed(0, 0),
        video.as_trimmed(0.5, 0.2),
        video.as_trimmed(-0.3, 0),
        video.as_trimmed(0.9, 3, False),
    ]
    for part, first, count in zip(parts, (0, 25, 35, 45), (50, 10, 15, 5)):
        components = part.get_components()
        assert len(components.images) == count and components.frame_rate == 50
        assert components.images[0].mean() == pytest.approx(first / 49, abs=0.03)
        assert (components.audio is None) == (format == "gif")
        target = tmp_path / "part.mp4"
        part.save_to(str(target), format=bridge.Types.VideoContainer("mp4"), codec="auto", metadata=None, crf=None)
        assert module("starcaster_core.video").probe(target).frames == count


@pytest.mark.parametrize("format", ["mov", "gif", "png"])
@pytest.mark.parametrize("when", ["opening", "writing", "closing"])
def test_a_preview_that_cannot_be_written_costs_a_warning(when, format, module, below, bridge, monkeypatch):
    previews = module("nodes.preview")

    class FullDisk(previews.VideoWriter):
        def _fail(self, *_):
            raise OSError(28, "No space left on device")

        _open = _fail if when == "writing" else previews.VideoWriter._open
        _describe = _fail if when == "closing" else previews.VideoWriter._describe
        __enter__ = _fail if when == "opening" else previews.VideoWriter.__enter__

    monkeypatch.setattr(previews, "VideoWriter", FullDisk)
    before = set(Path(bridge.folder_paths.get_temp_directory()).glob("*"))
    combine = module("nodes.video").VideoCombine.execute
    done = combine(24.0, format, 30, "full", images=torch.rand(25, 16, 16, 3), audio=audio(spoken(1)))
    assert "images" not in done.ui
    (saved,) = done.ui["files"]
    assert Path(bridge.folder_paths.get_output_directory(), saved["subfolder"], saved["filename"]).is_file()
    assert done.result[0].get_frame_count() == 25
    assert "No space left" in below[-1] and "preview" in below[-1] and "out of step" in below[-1]
    if when != "closing":
        assert set(Path(bridge.folder_paths.get_temp_directory()).glob("*")) == before


def test_nan_in_a_prompt_still_gives_json(bridge):
    node = SimpleNamespace(
        hidden=SimpleNamespace(
            prompt={"1": {"inputs": {"a": float("nan"), "b": [float("inf"), 1]}}}, extra_pnginfo=None
        )
    )
    text = bridge.workflow_metadata(node)["prompt"]
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "1": {"inputs": {"a": None, "b": [None, 1]}}
    }


def test_a_full_disk_is_a_sentence_below_the_node(bridge, errors, below):
    @bridge.user_errors
    def execute(node):
        raise OSError(28, "No space left on device", "/output/a.mp4")

    node = SimpleNamespace(hidden=SimpleNamespace(unique_id="7"))
    refused(errors, below, "room on the disk", execute, node)
