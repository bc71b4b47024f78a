"""Portraits from a folder: who is found in it, and what the figures say of a video that stays and of one that does
not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import starcaster_core
from starcaster_core.data.splits import split_of
from starcaster_core.evaluation import photos
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.sampling.settings import SamplerSettings

ASSETS = Path(starcaster_core.__file__).parent / "assets"


@pytest.fixture(scope="module")
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for name in ("portrait.png", "portrait_2.png"):
        (folder / name).symlink_to(ASSETS / name)
    Image.fromarray(np.full((128, 128, 3), 90, np.uint8)).save(folder / "wall.jpg")
    (folder / "notes.txt").write_text("no picture")
    return photos.identities_in(folder)


def test_pictures_without_a_face_are_left_out(people):
    assert list(people) == ["portrait.png", "portrait_2.png"]


def test_a_face_that_stays_is_told_from_one_that_does_not(people):
    who, other = people.values()
    stays = torch.from_numpy(np.array(who.portrait))[None].repeat(4, 1, 1, 1)
    figures = photos.measure(stays, who)
    assert figures["found"] == 1 and figures["distance"] < 0.3
    assert figures["colour"] == 0 and figures["sharpness"] == 1

    swapped = torch.from_numpy(np.array(other.portrait))[None].repeat(4, 1, 1, 1)
    assert photos.measure(swapped, who)["distance"] > 0.5
    darker = photos.measure((stays.float() * 0.8).byte(), who)
    assert darker["colour"] > 10 and darker["sharpness"] == pytest.approx(0.8, abs=0.02)
    grey = photos.measure(torch.full_like(stays, 128), who)
    assert grey["found"] == 0 and grey["distance"] is None


def test_every_version_is_measured_and_means_are_over_those_that_were_found(people):
    model = load_checkpoint("mini")
    speech = model.encode_speech(torch.zeros(8000))
    figures, rows = photos.evaluate_photos(model, people, speech, SamplerSettings.of(model.config))
    assert list(figures["photos"]) == list(people) and len(rows) == 2
    for one in figures["photos"].values():
        assert set(one["video"]) == set(photos.VERSIONS) and set(one["views"]) == {"15", "30"}
    summary = figures["summary"]["all"]
    assert summary["photos"] == 2 and summary["still"]["sharpness"] == 1
    distances = [one["video"]["photo"]["distance"] for one in figures["photos"].values()]
    assert summary["photo"]["distance"] == pytest.approx(np.mean(distances), abs=0.002)
    assert photos.mean_or_none([None, 1.0, 2.0]) == 1.5 and photos.mean_or_none([None]) is None


def test_photos_of_training_are_left_out(tmp_path):
    for number in range(12):
        (tmp_path / f"{number}.png").symlink_to(ASSETS / "portrait.png")
    held_out = photos.identities_in(tmp_path, held_out=True)
    assert all(split_of("photo", name) == "test" for name in held_out)
    assert len(held_out) < 12 and len(photos.identities_in(tmp_path, people=3)) == 3
