"""Portraits from embeddings: the person is told from somebody else, and no face counts as wrong."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import starcaster_core
from starcaster_core.evaluation import identity_only as module
from starcaster_core.pipeline import read_identity
from starcaster_core.presets import PRESETS

ASSETS = Path(starcaster_core.__file__).parent / "assets"


@pytest.fixture(scope="module")
def people():
    pytest.importorskip("dlib")
    return {name: read_identity(PRESETS["mini"], ASSETS / name) for name in ("portrait.png", "portrait_2.png")}


def measured(people, monkeypatch, draw):
    monkeypatch.setattr(module, "draw_identity", draw)
    return module.measure_people(None, people)


def test_right_and_wrong_people_are_told_apart_and_the_photo_is_not_shown(people, monkeypatch):
    portraits = {who.embedding.tobytes(): who.portrait for who in people.values()}
    swapped = dict(zip(portraits, reversed(portraits.values())))

    def draw(pictures):
        def drawn(model, who, seed):
            assert who.portrait is None
            return replace(who, portrait=pictures[who.embedding.tobytes()])

        return drawn

    right, strips = measured(people, monkeypatch, draw(portraits))
    assert right["people"] == 2 and right["found"] == 1 and right["rank_1"] == 1
    assert right["distance"] < 0.3 < right["others"] and right["seeds"] == 0 and right["skin"] == 0
    wrong, _ = measured(people, monkeypatch, draw(swapped))
    assert wrong["rank_1"] == 0 and wrong["distance"] > 0.5 and wrong["skin"] > 0
    sheet = module.contact_sheet(strips)
    assert sheet.shape == (128, 4 * 3 * 128, 3) and (sheet[:, -128:] == 255).all()


def test_a_portrait_without_a_face_counts_as_wrong(people, monkeypatch):
    grey = np.full((512, 512, 3), 127, np.uint8)
    none, _ = measured(people, monkeypatch, lambda model, who, seed: replace(who, portrait=grey))
    assert none["found"] == 0 and none["rank_1"] == 0 and none["distance"] is None and none["seeds"] is None
