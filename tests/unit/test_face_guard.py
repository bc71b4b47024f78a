"""A chunk that no longer shows the person's face is found out, and no other."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

import starcaster_core
from starcaster_core import face_guard
from starcaster_core.camera.poses import intrinsics, world_from_cam
from starcaster_core.face_guard import FaceGuard
from starcaster_core.identity import make_identity, read_picture
from starcaster_core.types import CameraPath, Identity

ASSETS = Path(starcaster_core.__file__).parent / "assets"
FACE, OTHER, NOTHING = 0, 1, 2  # what latents of these values are decoded to
SOMEBODY = Identity(np.zeros(128, np.float32))


@pytest.fixture(scope="module")
def people():
    return [make_identity([read_picture(ASSETS / name)], 512) for name in ("portrait.png", "portrait_2.png")]


@pytest.fixture
def model(people):
    """A model that draws the first person, the second or a plain surface; `drawn` counts its frames."""
    small = [np.asarray(Image.fromarray(person.portrait).resize((128, 128))) for person in people]
    pictures = torch.from_numpy(np.stack([*small, np.full((128, 128, 3), 120, np.uint8)])) / 255
    drawn = []

    def decode_frames(latents):
        drawn.append(latents.shape[2])
        return pictures[latents[0, 0, :, 0, 0].long()]

    return SimpleNamespace(decode_frames=decode_frames, device=torch.device("cpu"), drawn=drawn)


def chunk(*kinds: int) -> torch.Tensor:
    """Latents of 16 frames, as many of each kind."""
    frames = torch.tensor(kinds, dtype=torch.float32).repeat_interleave(16 // len(kinds))
    return frames[None, None, :, None, None].expand(1, 4, 16, 2, 2)


def test_a_lost_face_is_found_out_with_one_frame_a_chunk(model):
    guard = FaceGuard(model, SOMEBODY)
    assert guard.fault(chunk(FACE), 0) is None and guard.fault(chunk(FACE), 1) is None
    assert model.drawn == [1, 1]
    assert guard.fault(chunk(NOTHING), 2) == ("a face", "no face")
    assert guard.fault(chunk(FACE, NOTHING, NOTHING, NOTHING), 3) is None, "four frames count before a face is lost"
    assert guard.fault(chunk(NOTHING), 4) == ("a face", "no face")


def test_a_video_that_begins_without_a_face_is_not_looked_at_again(model):
    guard = FaceGuard(model, SOMEBODY)
    assert guard.fault(chunk(NOTHING), 0) is None
    model.drawn.clear()
    assert guard.fault(chunk(FACE), 1) is None and guard.fault(chunk(NOTHING), 2) is None and not model.drawn


def test_what_is_seen_from_far_aside_counts_as_good(model):
    aside = CameraPath(world_from_cam(np.repeat([0, 80, 0], 16), 0), intrinsics(48))
    guard = FaceGuard(model, SOMEBODY, aside)
    assert [guard.fault(chunk(kind), index) for index, kind in enumerate((FACE, NOTHING))] == [None, None]
    assert guard.fault(chunk(NOTHING), 2) is not None


@pytest.mark.parametrize("backend", ["dlib", "arcface"])
def test_a_face_that_becomes_another_is_found_out(model, people, monkeypatch, backend):
    monkeypatch.setattr(face_guard, "EVERY", 2)
    person = people[0] if backend == "dlib" else Identity(np.ones(512, np.float32), people[0].portrait, backend)
    guard = FaceGuard(model, person)
    assert [guard.fault(chunk(FACE), index) for index in range(3)] == [None] * 3
    assert guard.fault(chunk(OTHER), 3) is None, "it is not looked at"
    wanted, got = guard.fault(chunk(OTHER), 4)
    assert wanted == "the person's face" and got.startswith("another face (dlib distance 0.")
    monkeypatch.setattr(guard, "seen_from", lambda frame: (40, 0))
    assert guard.fault(chunk(OTHER), 4) is None, "from the side nobody is recognised"


def test_without_a_way_to_know_the_person_only_the_face_counts(model, people, monkeypatch):
    monkeypatch.setattr(face_guard, "EVERY", 1)
    guard = FaceGuard(model, Identity(np.ones(512, np.float32), None, "arcface"))
    assert guard.fault(chunk(FACE), 0) is None and guard.fault(chunk(OTHER), 1) is None
    assert guard.fault(chunk(NOTHING), 2) is not None
