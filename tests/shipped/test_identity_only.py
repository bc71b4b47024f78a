"""From an embedding alone the shipped model draws the person that it belongs to."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import starcaster_core
from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.identity_only import draw_identity
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.pipeline import read_identity

ASSETS = Path(starcaster_core.__file__).parent / "assets"
PEOPLE = ("photo.webp", "portrait.png", "portrait_2.png")


@pytest.mark.slow
def test_portraits_show_their_own_person_from_the_front_with_open_eyes():
    """Fails where an embedding is not what was trained on, tokens are mixed up, or attributes are not asked for."""
    from starcaster_core.evaluation.identity import embed_picture

    model = load_checkpoint("mini")
    people = [read_identity(model.config, ASSETS / name) for name in PEOPLE]
    embeddings = np.stack([who.embedding for who in people])
    for own, who in enumerate(people):
        drawn = draw_identity(model, replace(who, portrait=None, photo=None), seed=1)
        seen = embed_picture(drawn.portrait)
        distances = np.linalg.norm(embeddings - seen, axis=1)
        assert distances.argmin() == own and distances[own] < 0.7, (PEOPLE[own], distances)
        assert abs(drawn.yaw) < 15 and abs(drawn.pitch) < 15
        assert max(find_landmarks(drawn.portrait).lid_openings) > 0.14
