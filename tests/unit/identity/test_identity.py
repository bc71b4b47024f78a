"""Photos to identities, on the one real face every scikit-image brings along."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from starcaster_core.errors import FaceError, InputError
from starcaster_core.identity import (
    align,
    as_rgb,
    detect,
    embed,
    ffhq_transform,
    load_identity,
    make_identity,
    save_identity,
    select_face,
    warp,
)
from starcaster_core.identity.identity import FORMAT
from starcaster_core.types import Identity

pytest.importorskip("dlib")
data = pytest.importorskip("skimage.data")


@pytest.fixture(scope="module")
def photo():
    return np.ascontiguousarray(data.astronaut()[:260, 110:370])


@pytest.fixture(scope="module")
def face(photo):
    (found,) = detect(photo)
    return found


def resized(image, side):
    from PIL import Image

    return np.array(Image.fromarray(image).resize((side, side), Image.Resampling.LANCZOS))


def framed(image, side=200):
    """The picture in the middle of a grey one."""
    frame = np.full((side, side, 3), 128, np.uint8)
    top = (side - image.shape[0]) // 2
    frame[top : top + image.shape[0], top : top + image.shape[1]] = image
    return frame


def test_finds_the_face_and_orders_its_points(face):
    left_outer, left_inner, right_inner, right_outer, nose = face.points
    assert left_outer[0] < left_inner[0] < nose[0] < right_inner[0] < right_outer[0]
    assert nose[1] > face.points[:4, 1].max()
    assert face.size > 80


def test_crop_puts_eyes_and_mouth_where_ffhq_has_them(photo, face):
    crop, transform = align(photo, face.points, 128)
    assert crop.shape == (128, 128, 3) and crop.dtype == np.uint8
    eyes = transform[:2, :2] @ face.points[:4].mean(0) + transform[:2, 2]
    assert np.abs(eyes - [64, 58]).max() < 4  # FFHQ: eyes a little above the middle
    (again,) = detect(resized(crop, 256))
    assert np.abs(again.points.mean(0) / 2 - [64, 63]).max() < 4


def test_ffhq_transform_against_the_published_construction():
    left, right, mouth = np.array([100.0, 90.0]), np.array([160.0, 110.0]), np.array([115.0, 170.0])
    eyes, eye_to_eye = (left + right) / 2, right - left
    eye_to_mouth = mouth - eyes
    x = eye_to_eye - eye_to_mouth[::-1] * [-1, 1]
    x *= max(np.hypot(*eye_to_eye) * 2.0, np.hypot(*eye_to_mouth) * 1.8) / np.hypot(*x)
    y = x[::-1] * [-1, 1]
    centre = eyes + eye_to_mouth * 0.1
    quad = np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])
    transform = ffhq_transform(left, right, mouth, 64)
    corners = quad @ transform[:2, :2].T + transform[:2, 2]
    np.testing.assert_allclose(corners, [[0, 0], [0, 64], [64, 64], [64, 0]], atol=1e-9)


def test_warp_is_exact_for_the_identity_and_the_mean_for_a_reduction():
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(warp(image, np.eye(3), 64), image)
    for factor in (2, 8):
        small = warp(image, np.diag([1 / factor, 1 / factor, 1]), 64 // factor)
        mean = image.reshape(64 // factor, factor, 64 // factor, factor, 3).mean((1, 3))
        assert np.abs(small - mean).mean() < 16 / factor


def test_warp_mirrors_what_lies_outside():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 0] = 200
    shifted = np.eye(3)
    shifted[0, 2] = 8  # the picture starts 8 pixels into the crop
    crop = warp(image, shifted, 32)
    assert crop[0, 7, 0] == 200 and crop[0, 8, 0] == 200 and crop[0, 3, 0] == 0


def test_embedding_is_deterministic_and_knows_the_person(photo, face):
    first, second = embed(photo, face), embed(photo, face)
    assert first.shape == (128,) and first.dtype == np.float32
    np.testing.assert_array_equal(first, second)
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    assert np.linalg.norm(first - embed(mirrored, detect(mirrored)[0])) < 0.4


def test_embedding_is_the_one_dlib_makes_by_itself(photo):
    import dlib

    from starcaster_core.identity.faces import model_file

    box = dlib.get_frontal_face_detector()(photo, 0)[0]
    shape = dlib.shape_predictor(model_file("shape_predictor_5_face_landmarks.dat"))(photo, box)
    recogniser = dlib.face_recognition_model_v1(model_file("dlib_face_recognition_resnet_model_v1.dat"))
    expected = np.array(recogniser.compute_face_descriptor(photo, shape))
    np.testing.assert_allclose(embed(photo, detect(photo)[0]), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["float", "tensor", "grey", "grey channel", "rgba", "batch of one"])
def test_accepts_every_kind_of_picture(photo, kind):
    grey = photo.mean(2).astype(np.uint8)
    opaque = np.dstack([photo, np.full(photo.shape[:2], 255, np.uint8)])
    picture = {
        "float": photo.astype(np.float32) / 255,
        "tensor": torch.from_numpy(photo).float() / 255,
        "grey": grey,
        "grey channel": grey[..., None],
        "rgba": opaque,
        "batch of one": photo[None],
    }[kind]
    identity = make_identity([picture], 32)
    assert identity.portrait.shape == (32, 32, 3) and identity.backend == "dlib"
    plain = make_identity([photo], 32)
    limit = 0.45 if kind.startswith("grey") else 1e-3
    assert np.linalg.norm(identity.embedding - plain.embedding) < limit


def test_alpha_shows_grey():
    clear = np.zeros((4, 4, 4), np.uint8)
    assert np.abs(as_rgb(clear).astype(int) - 127).max() <= 1


@pytest.mark.parametrize(
    ("picture", "words"),
    [
        (np.full((64, 64, 3), np.nan, np.float32), "NaN"),
        (np.full((64, 64, 3), 200.0, np.float32), "0..1"),
        (np.zeros((64, 64, 3), np.int64), "8-bit"),
        (np.zeros((2, 64, 64, 3), np.uint8), "shape"),
        (np.zeros((0, 64, 3), np.uint8), "shape"),
        (np.zeros((64, 64, 3), np.uint8), "no face"),
    ],
)
def test_refuses_what_is_no_usable_picture(picture, words):
    with pytest.raises(InputError, match=words):
        make_identity([picture], 32)


def test_two_faces_need_a_choice(photo):
    pair = np.ascontiguousarray(np.hstack([photo, photo]))
    faces = detect(pair)
    assert len(faces) == 2
    with pytest.raises(FaceError, match="2 faces"):
        select_face(faces, pair)
    assert select_face(faces, pair, "leftmost").centre[0] < 260 < select_face(faces, pair, "rightmost").centre[0]
    assert select_face(faces, pair, "largest") in faces
    mask = np.zeros(pair.shape[:2])
    mask[:, 300:] = 1
    assert select_face(faces, pair, mask=mask).centre[0] > 260
    assert select_face(faces, pair, box=(0, 0, 260, 260)).centre[0] < 260


def test_a_tiny_face_is_named_as_such(photo):
    tiny = framed(resized(photo, 60))  # the face itself is about 20 pixels wide
    with pytest.raises(FaceError, match="40 pixels wide"):
        select_face(detect(tiny), tiny)


def test_a_faint_find_does_not_make_a_second_person():
    from PIL import Image

    # at this size the detector sees something in the folds of the suit
    doubled = np.array(Image.fromarray(data.astronaut()).resize((1024, 1024)))
    assert len(detect(doubled)) == 1


def test_a_box_stands_in_for_the_detector(photo, face):
    hidden = np.full_like(photo, 128)
    found = select_face([], hidden, box=face.box)
    assert found.score == 0 and np.isfinite(found.points).all()
    chosen = select_face([], photo, box=face.box)
    assert np.abs(chosen.points - face.points).max() <= 3


@pytest.mark.parametrize("box", [(50, 50, 20, 90), (0, 0, float("nan"), 9), (1, 2, 3), (900, 900, 950, 950)])
def test_refuses_a_broken_box(photo, box):
    with pytest.raises(InputError, match="box"):
        select_face([], photo, box=box)


def test_refuses_a_mask_of_another_size_an_empty_one_and_an_unknown_rule(photo):
    with pytest.raises(InputError, match="mask"):
        select_face([], photo, mask=np.ones((3, 3)))
    with pytest.raises(InputError, match="empty"):
        select_face([], photo, mask=np.zeros(photo.shape[:2]))
    with pytest.raises(InputError, match="prettiest"):
        select_face([], photo, "prettiest")


def test_several_photos_are_averaged(photo):
    mirrored = np.ascontiguousarray(photo[:, ::-1])
    both, one, other = (make_identity(p, 32) for p in ([photo, mirrored], [photo], [mirrored]))
    np.testing.assert_allclose(both.embedding, (one.embedding + other.embedding) / 2, atol=1e-6)
    np.testing.assert_array_equal(both.portrait, one.portrait)
    with pytest.raises(FaceError, match="photo 2 of 2"):
        make_identity([photo, np.zeros_like(photo)], 32)
    with pytest.raises(InputError, match="at least one"):
        make_identity([], 32)


@pytest.mark.parametrize("portrait", [np.arange(48, dtype=np.uint8).reshape(4, 4, 3), None])
def test_file_round_trip(tmp_path, portrait):
    identity = Identity(np.arange(128, dtype=np.float32), portrait, "dlib", yaw=-12.5)
    save_identity(tmp_path / "a.safetensors", identity)
    read = load_identity(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(read.embedding, identity.embedding)
    assert read.backend == "dlib" and read.yaw == -12.5 and (read.portrait is None) == (portrait is None)
    if portrait is not None:
        np.testing.assert_array_equal(read.portrait, portrait)
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_of_before_the_yaw_was_known_is_read(tmp_path):
    from safetensors.numpy import save_file

    metadata = {"format": FORMAT, "backend": "dlib"}
    save_file({"embedding": np.ones(128, np.float32)}, tmp_path / "old.safetensors", metadata)
    assert load_identity(tmp_path / "old.safetensors").yaw == 0
    for wrong in ("left", "nan"):
        save_file({"embedding": np.ones(128, np.float32)}, tmp_path / "odd.safetensors", metadata | {"yaw": wrong})
        with pytest.raises(InputError, match="odd.safetensors"):
            load_identity(tmp_path / "odd.safetensors")


def test_broken_files_are_named(tmp_path):
    from safetensors.numpy import save_file

    good = tmp_path / "good.safetensors"
    save_identity(good, Identity(np.ones(128, np.float32)))
    (tmp_path / "cut.safetensors").write_bytes(good.read_bytes()[:-40])
    (tmp_path / "empty.safetensors").write_bytes(b"")
    (tmp_path / "text.safetensors").write_text("hello, I am not a tensor at all")
    save_file({"embedding": np.ones(128, np.float32)}, tmp_path / "other.safetensors")
    save_identity(tmp_path / "nan.safetensors", Identity(np.full(128, np.nan, np.float32)))
    for name in ("cut", "empty", "text", "other", "nan", "missing"):
        with pytest.raises(InputError, match=f"{name}.safetensors"):
            load_identity(tmp_path / f"{name}.safetensors")


def test_where_no_landmarks_are_found_the_five_points_say_where_mouth_and_eyes_are(photo):
    """A turned head under a hat keeps its own pixels in the frames, which need no more than that"""
    known = make_identity([photo], 256)
    guessed = make_identity([photo], 256, landmarks=lambda *_: None)
    off = np.abs(guessed.regions - known.regions).max(axis=1)
    assert off[0] < 0.07 and off[1:].max() < 0.02  # of a laughing mouth, and of the eyes
    assert guessed.yaw == guessed.pitch == 0 and guessed.regions.dtype == np.float32


def test_the_detector_from_the_file_is_dlib_s_own(photo, monkeypatch, tmp_path):
    import dlib

    from starcaster_core.identity import faces

    mine, its = faces._detector.__wrapped__(), dlib.get_frontal_face_detector()
    for side in (90, 260, 700):
        found, wanted = (one.run(resized(photo, side), 1, -0.5) for one in (mine, its))
        assert len(wanted[0]) and list(found[0]) == list(wanted[0]) and list(found[1:]) == list(wanted[1:])
    (tmp_path / "other").write_bytes(b"of another version")
    monkeypatch.setattr(faces, "DETECTOR", tmp_path / "other")
    assert faces._detector.__wrapped__().run(photo, 0, 0.0)[0]
