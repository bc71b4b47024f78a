"""Training the image model: its pictures, its loss, and that it learns who is who."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

import starcaster_core
from starcaster_core.data.splits import split_of
from starcaster_core.errors import InputError
from starcaster_core.models.checkpoint import load_checkpoint, random_model, read_checkpoint, save_checkpoint
from starcaster_core.models.image_model import ATTRIBUTES
from starcaster_core.presets import PRESETS
from starcaster_core.sampling.portraits import draw_portraits
from starcaster_core.training import image_model as module
from starcaster_core.training.identity_pictures import (
    attributes_of,
    background_of,
    load_pictures,
    make_pictures,
    vary_photo,
)

ASSETS = Path(starcaster_core.__file__).parent / "assets"
TINY = PRESETS["tiny"]
PEOPLE = torch.nn.functional.normalize(torch.randn(4, 128, generator=torch.Generator().manual_seed(0)), dim=1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    """Four people, each of one colour, as photos and as renders."""
    folder = tmp_path_factory.mktemp("pictures")
    colours = torch.linspace(-1.5, 1.5, 4)[:, None, None, None, None].expand(-1, 4, 16, 8, 8)
    for kind in ("photos", "renders"):
        rows = {
            "latents": colours.half().contiguous(),
            "embedding": PEOPLE,
            "attributes": torch.zeros(4, 4, len(ATTRIBUTES)),
        }
        save_file(rows, folder / f"{kind}-00000.safetensors")
    return folder


def arguments(folder: Path, pictures: Path, steps: int) -> Namespace:
    return Namespace(
        pictures=pictures,
        held_out=None,
        model=str(folder / "tiny.safetensors"),
        minutes=0,
        steps=steps,
        learning_rate=2e-3,
        grid_minutes=100,
        precision="float32",
        threads=0,
        seed=0,
        out=folder / "run",
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures) -> Path:
    """The folder of a run that was stopped once and went on."""
    folder = tmp_path_factory.mktemp("run")
    save_checkpoint(folder / "tiny.safetensors", random_model(TINY), {"made for": "tests"}, dtype=torch.float32)
    for steps in (25, 60):
        module.run(arguments(folder, pictures, steps))
    return folder / "run"


def test_it_learns_who_is_who_and_leaves_all_else_as_it_was(trained):
    model, before = load_checkpoint(trained / "image.safetensors", torch.float32), random_model(TINY)
    drawn = draw_portraits(model, PEOPLE, seed=1, steps=4).mean(dim=(1, 2, 3, 4))
    assert (drawn.diff() > 0.05).all()  # from the darkest person to the brightest
    for name, weight in before.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight.half().float()), name
    made_with = read_checkpoint(trained / "image.safetensors")[2]
    assert made_with["made for"] == "tests" and made_with["image_model"]["people"] == {"photos": 4, "renders": 4}
    assert list((trained / "grids").glob("image-*.png"))
    assert (trained / "image.csv").read_text().splitlines()[-1].startswith("60,")


def test_the_loss_hides_people_and_weighs_the_face(pictures):
    known = {kind: load_pictures(pictures, kind) for kind in ("photos", "renders")}
    model = module.with_image_model(random_model(TINY))
    hidden = []

    def note(latents, timesteps, embedding, attributes, unknown):
        hidden.append((unknown.float().mean().item(), attributes.isnan().all(dim=1).float().mean().item()))
        return torch.zeros_like(latents)

    loss = module.ImageLoss(model, known)
    loss.model = Namespace(image_model=note)
    for number in range(40):
        value, parts = loss(torch.Generator().manual_seed(number))
        assert value.item() == pytest.approx(
            module.PHOTOS * parts["photos"] + (1 - module.PHOTOS) * parts["renders"], rel=0.02
        )
    assert np.mean(hidden, axis=0) == pytest.approx(module.UNKNOWN, abs=0.02)
    weights = module.ImageLoss(Namespace(config=PRESETS["mini"]), known).weights[0, 0, 0]
    assert weights.shape == (16, 16)
    assert weights.mean().item() == pytest.approx(1) and weights[9, 8] == module.FACE_WEIGHT * weights[0, 0]


def test_a_photo_and_its_mirror_image_are_pictures_of_one_person(tmp_path):
    pytest.importorskip("dlib")
    number = next(n for n in range(99) if split_of("photo", f"{n}.png") == "train")
    other = next(n for n in range(99) if split_of("photo", f"{n}.png") != "train")
    for name in (number, other):
        (tmp_path / f"{name}.png").symlink_to(ASSETS / "portrait.png")
    Image.fromarray(np.full((512, 512, 3), 90, np.uint8)).save(tmp_path / "wall.png")
    model = load_checkpoint("tiny", torch.float32)
    assert make_pictures(tmp_path / "out", model, photos=tmp_path) == 2  # the face, with either embedding
    assert make_pictures(tmp_path / "out", model, photos=tmp_path) == 0  # nothing is made again
    rows = load_pictures(tmp_path / "out", "photos")
    assert rows["latents"].shape == (2, 4, 16, 8, 8) and 0 < (rows["embedding"][0] - rows["embedding"][1]).norm() < 0.4
    assert make_pictures(tmp_path / "held", model, photos=tmp_path, splits=("val", "test")) == 2
    attributes = rows["attributes"]
    assert attributes.shape == (2, 4, len(ATTRIBUTES))
    with pytest.raises(InputError, match=r"none in .*renders"):
        load_pictures(tmp_path / "renders")


def test_attributes_say_how_a_picture_was_taken():
    pytest.importorskip("dlib")
    portrait = np.asarray(Image.open(ASSETS / "photo.webp").convert("RGB"))
    lit = (portrait * np.linspace(1.0, 0.1, portrait.shape[1])[None, :, None]).astype(np.uint8)
    plain, mirrored, aside = (attributes_of(picture) for picture in (portrait, portrait[:, ::-1].copy(), lit))
    yaw, _, light = range(3)
    assert plain[yaw] == pytest.approx(-mirrored[yaw], abs=0.25) and plain[light] == pytest.approx(
        -mirrored[light], abs=0.1
    )
    assert aside[light] > plain[light] + 0.2  # the subject's right cheek, left in the picture, is brighter
    assert np.isnan(attributes_of(np.full((128, 128, 3), 90, np.uint8))).all()


def test_a_studio_is_told_from_a_street():
    studio = np.full((128, 128, 3), (120, 128, 140), np.uint8)
    street = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    plain, busy = background_of(studio), background_of(street)
    assert plain[0] == pytest.approx(0, abs=0.1) and plain[1] < 0 < busy[1] and plain[2] < busy[2]
    middle = studio.copy()
    middle[:, 40:90] = 255  # the head itself does not count
    assert background_of(middle) == plain


def test_a_photo_is_restaged_without_a_border_coming_in():
    rng = np.random.default_rng(0)
    photo = rng.integers(100, 256, (128, 128, 3), dtype=np.uint8)
    turn = np.linspace(0, 2 * np.pi, 478)
    points = np.stack([0.5 + 0.15 * np.cos(turn), 0.5 + 0.2 * np.sin(turn)], axis=1)
    varied = vary_photo(photo, points, np.random.default_rng(1))
    assert np.array_equal(varied[0], photo) and np.array_equal(varied[1], photo[:, ::-1])
    for staged in varied[2:]:
        assert staged[:40, :20].std() < 0.5 * photo[:40, :20].std()  # beside the head it is plainer
        assert staged[56:72, 56:72].std() > 0.5 * photo[56:72, 56:72].std()  # the face is not
        assert staged.min() > 40  # nothing black from beyond the border
    dark = vary_photo(photo // 4, points, np.random.default_rng(1))
    assert dark[2, 56:72, 56:72].mean() > dark[0, 56:72, 56:72].mean() + 10
