"""The server with the files that the tests load."""

from __future__ import annotations

import numpy as np
import pytest
from corpus import mute_video
from media import murmur, write_picture, write_sound
from PIL import Image
from provision_comfyui import REPO

MINI = REPO / "starcaster_core" / "weights" / "mini.safetensors"
CHECKPOINT = "mini" if MINI.exists() else "tiny.safetensors"


@pytest.fixture(scope="session")
def server(comfy_server):
    """The running server, its input folder filled with good and bad pictures and sounds."""
    data = pytest.importorskip("skimage.data")
    folder = comfy_server.base / "input"
    face = data.astronaut()
    write_picture(folder / "face.png", face)
    write_picture(folder / "grey.png", face.mean(-1).astype(np.uint8))
    write_picture(folder / "rgba.png", np.dstack([face, np.full(face.shape[:2], 255, np.uint8)]))
    write_picture(folder / "two_faces.png", np.concatenate([face, face[:, ::-1]], axis=1))
    write_picture(folder / "no_face.png", np.random.default_rng(0).integers(0, 255, (256, 256, 3), np.uint8))
    write_picture(folder / "small_face.png", np.asarray(Image.fromarray(face).resize((110, 110))))
    write_sound(folder / "voice.wav", murmur(1.0))
    write_sound(folder / "stereo.wav", np.stack([murmur(1.0, 44100)] * 2), 44100)
    broken = murmur(1.0)
    broken[5000:5010] = np.nan
    write_sound(folder / "nan.wav", broken)
    (folder / "mute.mp4").write_bytes(mute_video())
    models = comfy_server.base / "models" / "starcaster"
    whole = (models / "tiny.safetensors").read_bytes()
    (models / "truncated.safetensors").write_bytes(whole[: len(whole) // 2])
    (models / "text.safetensors").write_text("not a model")
    return comfy_server


@pytest.fixture
def quick(workflow):
    """quick(name, Node={...}) -> a shipped workflow cut down to a second of video and two steps."""

    def load(name: str = "talking_portrait", **changes: dict) -> dict:
        small = {
            "LoadImage": {"image": "face.png"},
            "LoadAudio": {"audio": "voice.wav"},
            "ModelLoader": {"checkpoint": CHECKPOINT},
            "Sampler": {"steps": 2},
        }
        for node in {*small, *changes}:
            small[node] = {**small.get(node, {}), **changes.get(node, {})}
        return workflow(name, **small)

    return load
