"""Portraits from a folder: who is found in it, and what the figures say of a video that stays and of one that does not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import starcaster_core
from starcaster_core.evaluation import photos
from starcaster_core.models.checkpoint import load_checkpoint

ASSETS = Path(starcaster_core.__file__).parent / "assets"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("portrait.png", "portrait_2.png"):
        (folder / name).symlink_to(ASSETS / name)
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(folder / "wall.jpg")
    (folder / "notes.txt").write_text("no picture")
    return photos.faces_in(folder, 128)


def test_pictures_without_a_face_are_left_out(people):
    assert list(people) == ["portrait.png", "portrait_2.png"]


def test_a_face_that_stays_is_told_from_one_that_does_not(people):
    model, (who, other) = load_checkpoint("mini"), people.values()
    stays = torch.from_numpy(who.portrait)[None].repeat(16, 1, 1, 1)
    figures = photos.measure(model, stays, who, [other])
    assert figures["found"] == 1 and figures["distance"] < 0.3 and figures["strangers"] > 0.5
    assert figures["colour"] == 0 and figures["sharpness"] == 1

    swapped = torch.from_numpy(other.portrait)[None].repeat(16, 1, 1, 1)
    assert photos.measure(model, swapped, who, [other])["distance"] > 0.5
    darker = photos.measure(model, (stays.float() * 0.8).byte(), who, [other])
    assert darker["colour"] > 10 and darker["sharpness"] == pytest.approx(0.8, abs=0.02)
    grey = photos.measure(model, torch.full_like(stays, 128), who, [other])
    assert grey["found"] == 0 and grey["distance"] is None
