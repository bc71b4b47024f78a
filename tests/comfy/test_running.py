"""Workflows through a real server: results, progress, cancelling, bad input."""

from __future__ import annotations

import shutil
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from comfy_server import ComfyServer, PromptRefused
from media import probe
from PIL import Image
from provision_comfyui import locate

pytestmark = pytest.mark.comfy

WORKFLOWS = ("talking_portrait", "free_viewpoint", "identity_only")


def run(server, prompt, **options):
    outcome = server.run(prompt, **options)
    assert outcome.status == "success", outcome.message or server.log_tail()
    return outcome


def video(server, outcome, suffix=".mp4"):
    (path,) = [path for path in server.output_files(outcome) if path.suffix == suffix]
    return path


@pytest.mark.parametrize("name", WORKFLOWS)
def test_shipped_workflows_make_a_video_with_sound(server, quick, name):
    # A seed of its own: ComfyUI may still hold what the browser tests rendered, and cached nodes send no previews.
    outcome = run(server, quick(name, Sampler={"seed": 11}))
    path = video(server, outcome)
    assert path.parent == server.base / "output" / "starcaster"
    found = probe(path)
    assert (found.codec, found.audio_codec) == ("h264", "aac")
    assert found.frames == 25 and found.fps == 25
    assert abs(found.audio_seconds - found.video_seconds) <= 1 / 25
    assert found.spread > 2, "the picture is flat"
    assert "prompt" in found.metadata and "synthetic media, STARCaster" in found.metadata["comment"]
    assert outcome.previews > 0


def test_the_shipped_inputs_run(server, workflow, quick):
    """As a fresh install runs it, but for the number of steps."""
    shipped = {"LoadImage": "starcaster_photo.webp", "LoadAudio": "starcaster_voice.flac"}
    missing = [name for name in shipped.values() if not (server.base / "input" / name).exists()]
    assert not missing, f"the pack did not put {missing} into the input folder"
    changes = {
        "LoadImage": {"image": shipped["LoadImage"]},
        "LoadAudio": {"audio": shipped["LoadAudio"]},
        "AudioEncoder": {"max_seconds": 1.0},
    }
    outcome = run(server, quick(Sampler={"steps": 1}, **changes))
    assert probe(video(server, outcome)).frames == 25


@pytest.mark.parametrize("picture", ["grey.png", "rgba.png"])
def test_grey_and_transparent_photos_are_fine(server, quick, picture):
    run(server, portrait_only(quick(LoadImage={"image": picture})))


def test_stereo_sound_of_another_rate(server, quick):
    found = probe(video(server, run(server, quick(LoadAudio={"audio": "stereo.wav"}))))
    assert found.frames == 25 and abs(found.audio_seconds - 1) <= 1 / 25


@pytest.mark.parametrize(
    ("format", "suffix", "codecs"),
    [("webm", ".webm", ("libvpx-vp9", "libopus")), ("mov", ".mov", ("prores", "pcm_s16le")), ("gif", ".gif", None)],
)
def test_other_formats(server, quick, format, suffix, codecs):
    prompt = quick(VideoCombine={"format": format})
    prompt["29"] = node("SaveVideo", video=["8", 0], filename_prefix="whole", format="auto", codec="auto")
    outcome = run(server, prompt)
    found = probe(video(server, outcome, suffix))
    assert found.frames == 25
    if codecs:
        assert found.audio_codec.removeprefix("lib") == codecs[1].removeprefix("lib")
        assert found.codec.removeprefix("libvpx-") == codecs[0].removeprefix("libvpx-")
    (again,) = [path for path in server.output_files(outcome) if path.name.startswith("whole")]
    assert again.suffix == ".mp4" and probe(again).frames == 25


def test_samples_decode_with_core_vae_nodes_and_video_goes_on_to_core_nodes(server, quick):
    prompt = by_the_vae(quick(VideoCombine={"format": "png"}))
    latents, vae = prompt["8"]["inputs"]["samples"], ["3", 1]
    prompt |= {
        "20": node("VAEDecode", samples=latents, vae=vae),
        "21": node("VAEEncode", pixels=["20", 0], vae=vae),
        "22": node(
            "VAEDecodeTiled", samples=["21", 0], vae=vae, tile_size=64, overlap=16, temporal_size=64, temporal_overlap=8
        ),  # fmt: skip
        "23": node("ImageFromBatch", image=["22", 0], batch_index=0, length=2),
        "24": node("SaveImage", images=["23", 0], filename_prefix="again"),
        "25": node("GetVideoComponents", video=["8", 0]),
        "26": node("ImageFromBatch", image=["25", 0], batch_index=0, length=2),
        "27": node("SaveImage", images=["26", 0], filename_prefix="parts"),
        "28": node("CreateVideo", images=["25", 0], fps=["25", 2], audio=["25", 1]),
        "29": node("SaveVideo", video=["28", 0], filename_prefix="whole", format="mp4", codec="h264"),
    }
    files = {path.name.split("_")[0]: path for path in server.output_files(run(server, prompt))}
    assert {"again", "parts", "frame"} <= files.keys()
    again = probe(next(path for name, path in files.items() if name == "whole"))
    assert again.frames == 25 and again.fps == 25 and again.audio_codec == "aac", "a folder of frames keeps its sound"
    sizes = {Image.open(path).size for path in files.values() if path.suffix == ".png"}
    assert len(sizes) == 1, "the core VAE nodes keep the size of the frames"


def test_the_whole_picture_talks_and_nothing_else_moves_in_it(server, quick):
    """Decode and Video Combine show the same; outside the mask every frame is the photo."""
    prompt = quick(VideoCombine={"frame": "picture", "format": "png"})
    prompt["40"] = node(
        "STARCaster_Decode", samples=["7", 0], model=["3", 0], identity=["4", 0], frame="picture", size=0
    )
    prompt["41"] = node("SaveImage", images=["40", 0], filename_prefix="decoded")
    prompt["42"] = node("MaskToImage", mask=["40", 1])
    prompt["43"] = node("SaveImage", images=["42", 0], filename_prefix="mask")
    files = sorted(server.output_files(run(server, prompt)))
    decoded = [np.asarray(Image.open(path)) for path in files if path.name.startswith("decoded")]
    (mask,) = (np.asarray(Image.open(path))[..., 0] for path in files if path.name.startswith("mask"))
    photo = np.asarray(Image.open(server.base / "input" / "face.png"))
    assert len(decoded) == 25 and decoded[0].shape == photo.shape
    for frame in decoded:
        assert np.abs(frame[mask == 0].astype(int) - photo[mask == 0]).max() <= 1
    assert np.abs(decoded[0][mask == 255].astype(int) - decoded[12][mask == 255]).mean() > 0.5
    folder = next(path for path in files if path.name.startswith("frame_")).parent
    combined = np.asarray(Image.open(folder / "frame_00013.png"))
    np.testing.assert_allclose(combined.astype(int), decoded[12], atol=1)


def test_odd_sized_images_become_a_video(server, quick):
    prompt = images_only(quick())
    found = probe(video(server, run(server, prompt)))
    assert found.size == (66, 64) and found.frames == 5 and found.audio_codec == "aac"


def test_identities_are_saved_listed_and_loaded(server, quick):
    run(server, portrait_only(quick(IdentityLoader={"save_as": "astronaut"})))
    name = "starcaster/astronaut.identity.safetensors [output]"
    options = server.get("/object_info")["STARCaster_IdentityLoader"]["input"]["required"]["identity_file"][1][
        "options"
    ]
    assert name in options
    prompt = portrait_only(quick(IdentityLoader={"identity_file": name}))
    del prompt["4"]["inputs"]["image"], prompt["1"]
    run(server, prompt)


def test_cancel_stops_within_a_second_or_so(server, quick):
    steps, pressed = [], []

    def press(kind, data):
        if kind == "progress":
            steps.append(time.monotonic())
            if len(steps) == 4:
                pressed.append(time.monotonic())
                server.interrupt()

    outcome = server.run(quick(Sampler={"steps": 1000, "seed": 5}), on_event=press)
    took = time.monotonic() - pressed[0]
    assert outcome.status == "interrupted"
    slowest = max(later - sooner for sooner, later in zip(steps, steps[1:]))
    assert took < 1 + slowest, f"{took:.2f} s, while a step takes up to {slowest:.2f} s here"
    run(server, portrait_only(quick()))  # and the server is fit for more


def test_a_cancelled_prompt_goes_on_where_it_stopped_and_gives_the_same_frames(server, quick):
    prompt = quick(Sampler={"seed": 21}, VideoCombine={"format": "png", "filename_prefix": "undisturbed"})
    undisturbed = frames(server, run(server, prompt))
    journals = server.base / "output" / "starcaster" / "journal"
    shutil.rmtree(journals)
    server.post("/free", {"unload_models": True, "free_memory": True})  # nothing is cached: as after a restart

    def press(kind, data):
        if kind == "progress" and list(journals.rglob("chunk_00000.safetensors")):
            server.interrupt()

    prompt = quick(Sampler={"seed": 21}, VideoCombine={"format": "png", "filename_prefix": "resumed"})
    assert server.run(prompt, on_event=press).status == "interrupted"
    resumed = frames(server, run(server, prompt))
    assert "Resumed at chunk 2 of 2." in server.log()
    assert len(resumed) == 25 and resumed == undisturbed


def frames(server, outcome) -> list[bytes]:
    """The pixels of all frames in the folder that was written."""
    (folder,) = {path.parent for path in server.output_files(outcome) if path.suffix == ".png"}
    return [Image.open(path).tobytes() for path in sorted(folder.glob("frame_*.png"))]


def test_prompts_at_once_and_two_servers_with_one_output_folder_lose_nothing(server, quick):
    """Two prompts wait in one server while another server writes the same names into the same folder."""
    prompts = [quick(Sampler={"seed": seed}, VideoCombine={"filename_prefix": "shared"}) for seed in (31, 32, 33)]
    other = ComfyServer(locate(), ("--output-directory", str(server.base / "output")), {"OMP_NUM_THREADS": "1"})
    with other:
        for name in ("face.png", "voice.wav"):
            shutil.copy(server.base / "input" / name, other.base / "input")
        with ThreadPoolExecutor(3) as pool:
            outcomes = list(pool.map(run, (server, server, other), prompts))
    names = [
        item["filename"]
        for outcome in outcomes
        for node in outcome.history["outputs"].values()
        for items in node.values()
        for item in items
        if isinstance(item, dict) and item.get("filename", "").endswith(".mp4")
    ]
    assert len(set(names)) == 3
    assert [probe(server.base / "output" / name).frames for name in names] == [25] * 3
    assert not list((server.base / "output").glob("*.part*"))


BAD = {
    "no face": ({"LoadImage": {"image": "no_face.png"}}, "IdentityLoader", "no face"),
    "two faces": ({"LoadImage": {"image": "two_faces.png"}}, "IdentityLoader", "2 faces"),
    "a tiny face": ({"LoadImage": {"image": "small_face.png"}}, "IdentityLoader", "face"),
    "NaN samples": ({"LoadAudio": {"audio": "nan.wav"}}, "AudioEncoder", "NaN"),
    "a truncated checkpoint": ({"ModelLoader": {"checkpoint": "truncated.safetensors"}}, "ModelLoader", "truncated"),
    "a text file as checkpoint": ({"ModelLoader": {"checkpoint": "text.safetensors"}}, "ModelLoader", "safetensors"),
    "keyframes out of order": (
        {
            "CameraTrajectory": {
                "preset": "keyframes",
                "keyframes": '[{"time": 2, "yaw": 0, "pitch": 0, "distance": 1},'
                ' {"time": 1, "yaw": 9, "pitch": 0, "distance": 1}]',
            }
        },
        "CameraTrajectory",
        "earlier",
    ),
    "keyframes that are not JSON": (
        {"CameraTrajectory": {"preset": "keyframes", "keyframes": "left, right"}},
        "CameraTrajectory",
        "JSON",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_a_clear_message_at_its_node(server, quick, case):
    changes, culprit, words = BAD[case]
    outcome = server.run(quick(**changes))
    assert outcome.status == "error"
    assert outcome.detail["node_type"] == f"STARCaster_{culprit}"
    assert words in outcome.message and outcome.message.startswith("Wanted ")
    assert "Traceback" not in outcome.message and "\n" not in outcome.message
    assert outcome.texts[-1] == (outcome.detail["node_id"], outcome.message), "it stands below the node as well"
    assert "." not in outcome.detail["exception_type"], "no path of a module above it"
    frames = "".join(outcome.detail["traceback"])
    assert "starcaster_core" not in frames, "users need no trace through our code for their own mistakes"
    assert not list(server.base.parent.glob("escaped*"))


def test_a_video_without_sound_is_no_recording(server, quick):
    prompt = quick()
    prompt["2"] = node("GetVideoComponents", video=["20", 0])
    prompt["20"] = node("LoadVideo", file="mute.mp4")
    for other in prompt.values():
        if other["class_type"] in ("STARCaster_AudioEncoder", "STARCaster_VideoCombine"):
            other["inputs"]["audio"] = ["2", 1]
    outcome = server.run(prompt)
    assert outcome.detail["node_type"] == "STARCaster_AudioEncoder" and "the video has no sound" in outcome.message


@pytest.mark.parametrize(("seconds", "words"), [(0.0, "0 seconds"), (600.0, "max_seconds")])
def test_empty_and_endless_sound(server, quick, seconds, words):
    prompt = quick()
    prompt["2"] = node("EmptyAudio", duration=seconds, sample_rate=8000, channels=1)
    outcome = server.run(prompt)
    assert outcome.status == "error" and words in outcome.message, outcome.message


def test_silence_speaks_with_a_closed_mouth(server, quick):
    prompt = quick()
    prompt["2"] = node("EmptyAudio", duration=1.0, sample_rate=16000, channels=2)
    run(server, prompt)
    assert "silent" in server.log()


def test_leaving_the_trained_range_warns_and_goes_on(server, quick):
    run(server, quick(CameraTrajectory={"preset": "oscillate", "yaw": 120.0, "period_seconds": 1.0}))
    assert "outside -70 to 70 degrees" in server.log()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"Sampler": {"seed": 2**64}}, "bigger than max"),
        ({"ModelLoader": {"checkpoint": "nowhere.safetensors"}}, "not in"),
        ({"VideoCombine": {"filename_prefix": "../../escaped"}}, "file name inside the output folder"),
        ({"VideoCombine": {"filename_prefix": "/tmp/escaped"}}, "absolute"),
        ({"IdentityLoader": {"save_as": "../escaped"}}, "file name inside the output folder"),
    ],
)
def test_impossible_values_are_refused_before_anything_runs(server, quick, changes, words):
    with pytest.raises(PromptRefused) as refusal:
        server.run(quick(**changes))
    assert words in str(refusal.value)
    assert not list(server.base.parent.glob("escaped*"))


def test_missing_connections_are_named(server, quick):
    prompt = by_the_vae(quick())
    del prompt["8"]["inputs"]["vae"]
    outcome = server.run(prompt)
    assert outcome.status == "error" and "model and identity" in outcome.message


def by_the_vae(prompt: dict) -> dict:
    """A graph as it was saved before Video Combine took model and identity."""
    inputs = {key: value for key, value in prompt["8"]["inputs"].items() if key not in ("model", "identity", "frame")}
    return prompt | {"8": {**prompt["8"], "inputs": inputs | {"vae": ["3", 1]}}}


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs, "_meta": {"title": class_type}}


def portrait_only(prompt: dict) -> dict:
    """Only what finds the face, ending in a saved picture."""
    kept = {key: prompt[key] for key in ("1", "4") if key in prompt}
    return kept | {"30": node("SaveImage", images=["4", 1], filename_prefix="crop")}


def images_only(prompt: dict) -> dict:
    """Frames of 65 x 63 pixels straight into Video Combine, with sound."""
    combine = {**prompt["8"], "inputs": {**prompt["8"]["inputs"], "images": ["31", 0]}}
    for name in ("samples", "model", "identity", "frame"):
        del combine["inputs"][name]
    frames = node("EmptyImage", width=65, height=63, batch_size=5, color=int(np.uint32(0x3366AA)))
    return {"2": prompt["2"], "31": frames, "8": combine}
