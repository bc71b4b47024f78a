"""Pictures that go through an autoencoder: what is measured, and which part of a photo."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from starcaster_core.evaluation.autoencoder import crops, figures, load_photos


class Noisy(torch.nn.Module):
    """Gives a picture back with a constant error in the mouth's place, none elsewhere."""

    def __init__(self, error: float):
        super().__init__()
        self.error = error

    def encode(self, images):
        return images

    def decode(self, latents):
        wrong = latents.clone()
        side = latents.shape[-1]
        wrong[..., int(side * 0.6) : int(side * 0.85), int(side * 0.3) : int(side * 0.7)] += self.error
        return wrong


def test_error_in_the_mouth_is_found_there():
    images = torch.randint(60, 190, (3, 3, 100, 100), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = figures(Noisy(0.1), images)
    assert found["pictures"] == 3
    assert found["psnr_mouth"] == pytest.approx(10 * np.log10(4 / 0.1**2), abs=0.01)
    assert found["psnr"] == pytest.approx(found["psnr_mouth"] + 10, abs=0.01)  # a tenth of the area
    assert found["mean_picture"] < 20


def test_photos_without_a_face_are_cut_to_the_square_in_their_middle():
    photo = np.zeros((60, 100, 3), np.uint8)
    photo[:, 20:80] = 200
    kind, (crop,) = crops(photo, 30)
    assert kind == "other" and crop.shape == (30, 30, 3) and (crop == 200).all()


def test_faces_are_cut_the_ffhq_way(tmp_path):
    data = pytest.importorskip("skimage.data", reason="needs scikit-image's photo of a face")
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.png")
    Image.fromarray(np.full((64, 64, 3), 90, np.uint8)).save(tmp_path / "wall.PNG")
    (tmp_path / "notes.txt").write_text("no picture")
    photos = load_photos(tmp_path, 64)
    assert {kind: tuple(made.shape) for kind, made in photos.items()} == {
        "faces": (1, 3, 64, 64),
        "other": (1, 3, 64, 64),
    }
    assert (photos["other"] == 90).all() and photos["faces"].float().std() > 20
