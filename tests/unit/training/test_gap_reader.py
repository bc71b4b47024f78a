"""The reader of the drawn mouth: it learns how far lips are apart, whatever the light, and leaves out what is not
known."""

import math

import numpy as np
import pytest
import torch

from starcaster_core.models.extensions.portrait_warp import camera_at
from starcaster_core.models.reference_decoder import GapReader
from starcaster_core.training import decoder_pairs
from starcaster_core.training.decoder_pairs import Pair, write_pairs
from starcaster_core.training.gap_reader import fit_gap_reader, read_mouths

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
