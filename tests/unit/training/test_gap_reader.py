"""The reader of the drawn mouth: it learns how far lips are apart, whatever the light, and leaves out what is not
known."""

import math
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from starcaster_core.models.extensions.portrait_warp import camera_at
from starcaster_core.models.lip_warp import LOWER_MIDDLE
from starcaster_core.models.reference_decoder import GAP, GapReader
from starcaster_core.training import decoder_pairs
from starcaster_core.training.decoder_pairs import Pair, write_pairs
from starcaster_core.training.gap_reader import fit_gap_reader, read_mouths, side_by_side

FRONT = camera_at().numpy()
REGIONS = np.float32([[0.5, 0.7], [0.4, 0.45], [0.6, 0.45]])


def pair(gap: float, seed: int) -> Pair:
    """A drawn frame with a dark slit where the mouth is, `gap` image sides high."""
    rng = np.random.default_rng(seed)
    drawn = np.full((128, 128, 3), rng.uniform(90, 220), np.float32) * rng.uniform(0.8, 1.2, 3)
    rows = (np.arange(128) + 0.5) / 128
    drawn[np.abs(rows - 0.7) < gap / 2, 52:76] *= 0.3
    drawn = (drawn + rng.normal(0, 4, drawn.shape)).clip(0, 255).astype(np.uint8)
    blank, flow = np.zeros((512, 512, 3), np.uint8), np.zeros((2, 128, 128))
    return Pair(blank, blank, drawn, flow, flow[0], REGIONS, np.eye(3), FRONT, FRONT, gaps=np.float32([0.01, gap]))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    gaps = np.random.default_rng(0).uniform(0, 0.08, 60)
    gaps[0] = np.nan
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoder_pairs, "find_landmarks", lambda picture: None)  # there is no face to be looked for
        for number, gap in enumerate(gaps):
            write_pairs(folder / f"talk-{number}.safetensors", [pair(float(gap), number)])
    return sorted(folder.glob("*.safetensors"))


def test_it_learns_to_read_and_repeats_itself(files):
    def fitted() -> tuple[float, torch.Tensor]:
        torch.manual_seed(0)
        reader = GapReader(4)
        return fit_gap_reader(reader, files, seed=0, steps=250), reader.out.weight.detach()

    (error, weights), (_, again) = fitted(), fitted()
    assert error < 0.012  # a guess of the mean is 0.02 off
    torch.testing.assert_close(weights, again, rtol=0, atol=0)


def test_pairs_whose_opening_is_not_known_are_left_out(files):
    mouths, gaps = read_mouths(files)
    assert len(mouths) == len(gaps) == 59 and not gaps.isnan().any()
    reader = GapReader(4)
    before = reader.out.weight.clone()
    assert math.isnan(fit_gap_reader(reader, files[:1])) and torch.equal(reader.out.weight, before)


def test_mouths_whose_opening_is_known_teach_beside_pairs_or_alone(files, capsys):
    known = tuple(rows.repeat_interleave(4, dim=0) for rows in read_mouths(files))
    for pairs in (files, []):
        torch.manual_seed(0)
        assert fit_gap_reader(GapReader(4), pairs, seed=0, steps=250, known=known) < 0.012
    assert '"correlation": 0.9' in capsys.readouterr().out


def test_a_pair_knows_how_far_the_lips_of_its_truth_are_apart(monkeypatch):
    """Not how far those of the drawn frame are: what the model draws may be less open."""
    points = np.zeros((478, 3))
    points[LOWER_MIDDLE, 1] = 0.06 * 512

    def found(picture):
        return SimpleNamespace(points=points if picture.any() else np.zeros((478, 3)))

    monkeypatch.setattr(decoder_pairs, "find_landmarks", found)
    monkeypatch.setattr(
        decoder_pairs,
        "lip_field",
        lambda points: SimpleNamespace(
            **dict.fromkeys(("way", "layers"), torch.zeros(1, 1, 1, 1)), gap=torch.tensor([0.01])
        ),
    )
    one = replace(pair(0.02, 0), gaps=np.full(2, np.nan, np.float32), target=np.ones((512, 512, 3), np.uint8))
    np.testing.assert_allclose(one.with_lips().gaps, [0.01, 0.06], rtol=1e-5)
    assert one.with_lips().told == 1
    asked = replace(one, gaps=np.float32([np.nan, 0.03]), told=np.ones(1, np.float32))
    np.testing.assert_allclose(asked.with_lips().gaps, [0.01, 0.03], rtol=1e-5)


def test_mouths_are_cut_out_of_the_truth_as_the_model_would_draw_it(files):
    drawn, gaps = read_mouths(files)
    mouths, same = read_mouths(files, lambda frames: F.interpolate(frames.movedim(-1, 1), 128).movedim(1, -1) + 0.5)
    assert torch.equal(gaps, same) and mouths.shape == drawn.shape
    assert (mouths == 128).all() and not (drawn == 128).all()  # the truth of these pairs is black


def test_two_readers_side_by_side_read_their_mean():
    torch.manual_seed(0)
    readers = [GapReader(4), GapReader(6)]
    for reader in readers:
        for parameter in reader.parameters():
            torch.nn.init.normal_(parameter, std=0.1)
    crops = torch.randn(5, 3, 40, 48)
    logits = [torch.expm1(reader(crops).double() / GAP).log().float() for reader in readers]
    both = side_by_side(*readers)
    torch.testing.assert_close(both(crops), GAP * F.softplus((logits[0] + logits[1]) / 2), rtol=1e-3, atol=1e-5)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(both(crops), readers[0](crops), rtol=1e-3, atol=1e-5)
