"""What decoders know of the inside of mouths begins with what pairs show there."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from starcaster_core.identity.landmarks import find_landmarks
from starcaster_core.models.lip_warp import lip_field
from starcaster_core.models.reference_decoder import INTERIOR, INTERIOR_SCALE, ReferenceDecoder
from starcaster_core.presets import ReferenceDecoderConfig
from starcaster_core.training.decoder_pairs import write_pairs
from starcaster_core.training.interior import backfit, begin_interior, with_contrast
from starcaster_core.training.talking_pairs import pair_of

PORTRAIT = Path(__file__).resolve().parents[3] / "starcaster_core" / "assets" / "portrait.png"
CONFIG = ReferenceDecoderConfig((8, 8, 8), 8, 4, 4, 8, reader_width=4, lip_layers=True)


def test_the_sum_of_two_pictures_is_found_again():
    generator = torch.Generator().manual_seed(0)
    one, other = torch.rand(2, INTERIOR**2, 3, generator=generator)
    upper, lower = torch.randint(0, INTERIOR**2, (2, 1_000_000), generator=generator)
    colours = one[upper] + other[lower]
    found = backfit(upper, lower, colours)
    torch.testing.assert_close(found[0][upper] + found[1][lower], colours, rtol=0, atol=0.02)


def test_the_interior_is_what_pairs_that_were_told_show_between_lips(tmp_path):
    with Image.open(PORTRAIT) as image:
        photo = np.array(image.convert("RGB").resize((512, 512)))
    points = (find_landmarks(photo).points[:, :2] / 512).astype(np.float64)
    colour = torch.tensor([0.1, 0.8, 0.3])[:, None, None].expand(3, 512, 512)
    drawn = np.zeros((128, 128, 3), np.uint8)

    def pair(told: bool, shown: torch.Tensor = colour):
        mouth = (lambda moved: shown) if told else None
        return pair_of(photo, points, lip_field(points), drawn, torch.eye(3), 0.06, 1.0, mouth)

    decoder = ReferenceDecoder(CONFIG)
    write_pairs(tmp_path / "talk-a.safetensors", [pair(False)])
    begin_interior(decoder, [tmp_path / "talk-a.safetensors"])
    assert not decoder.interior.any()  # what was drawn is no truth
    write_pairs(tmp_path / "say-a.safetensors", [pair(True)])
    begin_interior(decoder, [tmp_path / "say-a.safetensors"])
    renders = tmp_path / "scene-a.safetensors"
    write_pairs(renders, [pair(True, torch.zeros(3, 512, 512))])
    begin_interior(decoder, [renders, tmp_path / "say-a.safetensors"])  # photos alone are asked
    shown = INTERIOR_SCALE * decoder.interior.sum(dim=0)[:, 4, 4] / 2 + 0.5
    torch.testing.assert_close(shown, colour[:, 0, 0], rtol=0, atol=0.06)


def test_more_contrast_keeps_the_mean_colour():
    pictures = torch.rand(2, 3, INTERIOR, INTERIOR)
    changed = with_contrast(pictures, 1.6)
    torch.testing.assert_close(changed.mean(dim=(2, 3)), pictures.mean(dim=(2, 3)))
    torch.testing.assert_close(changed.std(dim=(2, 3)), 1.6 * pictures.std(dim=(2, 3)))
