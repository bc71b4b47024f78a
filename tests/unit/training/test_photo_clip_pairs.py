"""Photos that say what clips say: the truth opens as it was told, and holds the render's mouth."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starcaster_core.camera.poses import world_from_cam
from starcaster_core.conventions import FPS
from starcaster_core.data.shards import Clip
from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.checkpoint import load_checkpoint
from starcaster_core.models.lip_warp import mouth_gap, mouth_width
from starcaster_core.training.decoder import DecoderLoss, PairFiles, collate
from starcaster_core.training.decoder_pairs import count_pairs, encode_jpeg, read_pair, warp_picture
from starcaster_core.training.photo_clip_pairs import make_photo_clip_pairs, photo_clip_pairs

PORTRAIT = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets" / "portrait.png"
SIZE, FRAMES = 64, 16
OPENING = np.linspace(0, 0.4, FRAMES)  # mouth widths
RED = (90, 10, 10)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    with Image.open(PORTRAIT) as image:
        return np.array(image.convert("RGB").resize((512, 512)))


@pytest.fixture(scope="module")
def clip() -> Clip:
    """A red render whose mouth opens more and more."""
    landmarks = np.zeros((FRAMES, 4, 2), np.float32)
    landmarks[:, 0], landmarks[:, 1], landmarks[:, 2] = (24, 44), (40, 44), (32, 44)
    landmarks[:, 3, 0], landmarks[:, 3, 1] = 32, 44 + 16 * OPENING
    truth = {
        "landmarks": landmarks,
        "world_from_cam": world_from_cam(np.zeros(FRAMES), np.zeros(FRAMES)),
        "mouth_box": np.tile(np.float32([20, 38, 44, 54]), (FRAMES, 1)),
    }
    names = ["right_mouth", "left_mouth", "upper_lip_bottom", "lower_lip_top"]
    info = {"landmark_names": names, "kind": "temporal", "fps": FPS, "size": SIZE, "split": "train", "identity": 0}
    frames = np.full((FRAMES, SIZE, SIZE, 3), RED, np.uint8)
    return Clip("0", info, frames, np.zeros(FRAMES * 640, np.float32), truth)


@pytest.fixture(scope="module")
def model():
    torch.set_num_threads(1)
    return load_checkpoint("mini")


@pytest.fixture(scope="module")
def pairs(model, photo, clip):
    return photo_clip_pairs(model, photo, clip, np.random.default_rng(0))


def test_the_truth_opens_as_far_as_the_clip(photo, pairs):
    width = mouth_width(find_landmarks(photo).points) / 512
    told = [pair.gaps[1] for pair in pairs]
    np.testing.assert_allclose(told, OPENING[[0, 5, 10, 15]] * width, atol=1e-4)
    seen = [mouth_gap(find_landmarks(pair.target).points) for pair in pairs]
    assert np.all(np.diff(seen) > 0)
    assert [pair.with_lips().gaps[1] for pair in pairs] == told  # not what can be seen of the drawn lips


def test_between_the_lips_is_the_render_and_everything_else_the_photo(photo, pairs):
    widest = pairs[-1]
    hidden = widest.visible < 0.5
    places = np.kron(hidden, np.ones((4, 4), bool))
    assert 0.001 < hidden.mean() < 0.03 and widest.known.all()
    assert np.abs(np.median(widest.target[places], axis=0) - RED).max() < 25
    moved = warp_picture(photo, torch.from_numpy(widest.flow)[None])
    assert np.abs(moved[~places].astype(int) - widest.target[~places]).mean() < 1


def test_the_decoder_is_told_their_gaps_and_reads_the_others(pairs, model):
    batch = collate([pairs[-1], pairs[-1].__class__(**{**vars(pairs[-1]), "told": np.zeros(1)})])
    loss = DecoderLoss(model.reference_decoder.float())
    told, read = loss.gaps(batch, torch.Generator().manual_seed(0)).tolist()
    assert told == pytest.approx(pairs[-1].gaps[1], abs=0.02)
    assert read == pytest.approx(model.reference_decoder.read_gap(batch.drawn, batch.regions)[1].item(), abs=1e-4)


def test_pairs_of_a_folder_are_written_once(model, photo, clip, tmp_path, monkeypatch):
    from starcaster_core.data.shards import shard_path, write_shard

    photos, data, out = tmp_path / "photos", tmp_path / "clips", tmp_path / "pairs"
    photos.mkdir(), data.mkdir(), out.mkdir()
    (photos / "one.jpg").write_bytes(encode_jpeg(photo))
    monkeypatch.setattr("starcaster_core.training.decoder_pairs.split_of", lambda *_: "train")
    write_shard(shard_path(data, 0), [clip])
    make_photo_clip_pairs(model, photos, data, out, 7)
    (path,) = out.iterdir()
    written = path.stat().st_mtime_ns
    make_photo_clip_pairs(model, photos, data, out, 7)
    assert path.stat().st_mtime_ns == written and count_pairs(path) == 4
    assert read_pair(path, 0).told.all() and PairFiles(out).all == [path]
