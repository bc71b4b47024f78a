"""SCRFD and ArcFace through onnxruntime, on networks small enough to know by heart: what is fed in, what comes out."""

from __future__ import annotations

import numpy as np
import pytest

from starcaster_core.errors import CheckpointError, FaceError, InputError
from starcaster_core.identity import load_recogniser, make_identity

onnx = pytest.importorskip("onnx", reason="needs the package onnx to make test networks")
pytest.importorskip("onnxruntime", reason="needs the package onnxruntime")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402

from starcaster_core.identity.align import ARCFACE_POINTS, similarity  # noqa: E402
from starcaster_core.identity.arcface import sample  # noqa: E402
from starcaster_core.identity.scrfd import decode, without_doubles  # noqa: E402

TEMPLATE = ARCFACE_POINTS - 0.5  # as InsightFace counts

# What the toy detector says of every bright cell: sides in strides from its centre, and five points beside it.
SIDES = np.array([3, 4, 3, 5], np.float32)
POINTS = np.array([[-1.5, -1], [1.5, -1], [0, 0.5], [-1, 2], [1, 2]], np.float32)
BRIGHT = 250


def save(path, nodes, inputs, outputs, constants):
    named = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "toy", inputs, outputs, named)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, path)


def value(name, shape):
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)


def toy_detector(path):
    """Finds bright red cells at stride 16: the red channel's mean over a cell is the score; nothing at other
    strides."""
    nodes, constants = [], {"red": np.array([[[[1]], [[0]], [[0]]]], np.float32)}
    outputs = []
    nodes.append(helper.make_node("Conv", ["pixels", "red"], ["brightness"]))
    for stride in (8, 16, 32):
        anchors = (640 // stride) ** 2 * 2
        nodes.append(
            helper.make_node(
                "AveragePool", ["brightness"], [f"mean{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2
            )
        )
        constants[f"flat{stride}"] = np.array([anchors // 2, 1])
        constants[f"two{stride}"] = np.array([anchors, 1])
        # Both anchors of a cell score alike; strides 8 and 32 are turned down.
        constants[f"pair{stride}"] = np.full((1, 2), 1.0 if stride == 16 else 0.1, np.float32)
        nodes += [
            helper.make_node("Reshape", [f"mean{stride}", f"flat{stride}"], [f"column{stride}"]),
            helper.make_node("Mul", [f"column{stride}", f"pair{stride}"], [f"pairs{stride}"]),
            helper.make_node("Reshape", [f"pairs{stride}", f"two{stride}"], [f"score{stride}"]),
        ]
        outputs.append(value(f"score{stride}", [anchors, 1]))
    for kind, numbers in (("box", SIDES), ("points", POINTS.reshape(-1))):
        for stride in (8, 16, 32):
            anchors = (640 // stride) ** 2 * 2
            constants[f"{kind}{stride}_numbers"] = np.tile(numbers, (anchors, 1))
            nodes.append(helper.make_node("Identity", [f"{kind}{stride}_numbers"], [f"{kind}{stride}"]))
            outputs.append(value(f"{kind}{stride}", [anchors, len(numbers)]))
    save(path, nodes, [value("pixels", [1, 3, 640, 640])], outputs, constants)


def toy_recogniser(path, numbers=512):
    """512 weighted sums of the picture's 8x8 means, all channels."""
    weights = np.random.default_rng(0).standard_normal((3 * 14 * 14, numbers)).astype(np.float32)
    nodes = [
        helper.make_node("AveragePool", ["view"], ["means"], kernel_shape=[8, 8], strides=[8, 8]),
        helper.make_node("Flatten", ["means"], ["row"]),
        helper.make_node("MatMul", ["row", "weights"], ["embedding"]),
    ]
    save(path, nodes, [value("view", [1, 3, 112, 112])], [value("embedding", [1, numbers])], {"weights": weights})
    return weights


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("faces")
    toy_detector(folder / "scrfd_10g_bnkps.onnx")
    toy_recogniser(folder / "arcface.onnx")
    return folder


@pytest.fixture(scope="module")
def arcface(folder):
    return load_recogniser("arcface", [folder.parent / "nowhere", folder])


def picture(*cells, side=640):
    """Dark noise with bright red squares of 16 pixels at (column, row) of the detector's grid of the middle stride."""
    image = np.random.default_rng(1).integers(0, 60, (side, side, 3), dtype=np.uint8)
    for column, row in cells:
        image[row * 16 : row * 16 + 16, column * 16 : column * 16 + 16] = (BRIGHT, 20, 20)
    return image


def test_faces_come_back_in_the_pictures_own_pixels(arcface):
    image = picture((10, 20))
    (face,) = arcface.detect(image)
    centre = np.array([160, 320])
    np.testing.assert_allclose(face.box, [160 - 48, 320 - 64, 160 + 48, 320 + 80])
    np.testing.assert_allclose(face.points, centre + POINTS * 16 + 0.5)
    assert face.score == pytest.approx((BRIGHT - 127.5) / 128, abs=1e-4), "RGB, not BGR, scaled by 128"


def test_large_and_oblong_pictures_are_scaled_into_the_square(arcface):
    image = np.repeat(np.repeat(picture((10, 20)), 2, 0), 2, 1)[:1000]
    (face,) = arcface.detect(image)
    np.testing.assert_allclose(face.box, [224, 512, 416, 800])


def test_of_two_finds_of_one_face_the_surer_stays(arcface):
    image = picture((10, 20), (30, 20))
    image[320:336, 176:192] = (220, 20, 20)  # the neighbouring cell, less bright
    found = arcface.detect(image)
    assert [round(face.centre[0]) for face in found] == [160, 480]
    scores, boxes = np.array([0.6, 0.9]), np.array([[0, 0, 10, 10], [100, 0, 110, 10]], float)
    assert list(without_doubles(scores, boxes)) == [1, 0]


def test_batched_outputs_are_read_too():
    outputs = [np.zeros((1, n * n * 2, width), np.float32) for width in (1, 4, 10) for n in (80, 40, 20)]
    outputs[2][0, 3] = 0.8  # stride 32, cell 1 (column 1, row 0), second anchor
    outputs[5][0, 3] = 1
    scores, boxes, points = decode(outputs)
    assert scores == pytest.approx([0.8])
    np.testing.assert_allclose(boxes, [[0, -32, 64, 32]])
    np.testing.assert_allclose(points[0], [[32, 0]] * 5)


def test_the_similarity_undoes_a_known_one():
    angle = 0.3
    turned = TEMPLATE @ (1.7 * np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])) + [30, -5]
    back = similarity(turned, TEMPLATE)
    np.testing.assert_allclose(turned @ back[:2, :2].T + back[:2, 2], TEMPLATE, atol=1e-9)
    transform = pytest.importorskip("skimage.transform")
    noisy = turned + np.random.default_rng(0).normal(size=turned.shape)
    theirs = transform.estimate_transform("similarity", noisy, TEMPLATE)
    np.testing.assert_allclose(similarity(noisy, TEMPLATE), theirs.params, atol=1e-9)


def test_the_aligned_view_is_the_one_that_scikit_image_cuts():
    transform = pytest.importorskip("skimage.transform")
    image = picture((10, 20), (12, 22))
    points = np.array([160.0, 320.0]) + POINTS * 16
    theirs = transform.estimate_transform(
        "similarity", points, TEMPLATE
    )  # pixels counted from the centre of the first, as both sides of it do
    wanted = transform.warp(image, theirs.inverse, output_shape=(112, 112), order=1, preserve_range=True)
    ours = sample(image, similarity(points + 0.5, TEMPLATE + 0.5), 112)
    assert np.abs(ours - wanted).max() < 0.5


def test_the_embedding_is_the_networks_answer_to_the_aligned_face(arcface, tmp_path):
    weights = toy_recogniser(tmp_path / "again.onnx")
    image = picture((10, 20))
    (face,) = arcface.detect(image)
    view = sample(image, similarity(face.points, TEMPLATE + 0.5), 112)
    means = ((view - 127.5) / 127.5).reshape(14, 8, 14, 8, 3).mean((1, 3)).transpose(2, 0, 1)
    embedding = arcface.embed(image, face)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(embedding, means.reshape(-1) @ weights, rtol=1e-3, atol=1e-3)


def test_a_photo_becomes_an_arcface_identity(arcface):
    identity = make_identity([picture((10, 20))], 64, recogniser=arcface)
    assert identity.backend == "arcface" and identity.embedding.shape == (512,)
    assert identity.portrait.shape == (64, 64, 3)
    with pytest.raises(FaceError, match="2 faces"):
        make_identity([picture((10, 20), (30, 20))], 64, recogniser=arcface)


def test_a_marked_face_is_looked_for_where_it_was_marked(arcface):
    small = picture((10, 20), side=640)
    image = np.zeros((2560, 2560, 3), np.uint8)  # at a quarter of its size the cell is too small to be seen
    image[:640, 640:1280] = small
    assert not arcface.detect(image)
    box = [640 + 112, 256, 640 + 208, 400]
    face = arcface.face_at(image, np.array(box, float))
    assert (np.abs(face.centre - [800, 328]) < 80).all()
    with pytest.raises(FaceError, match="marked"):
        make_identity([image], 64, boxes=[[2000, 2000, 2100, 2100]], recogniser=arcface)


def test_missing_files_are_named_with_their_folders(folder, tmp_path):
    with pytest.raises(CheckpointError, match=r"scrfd_10g_bnkps\.onnx.*antelopev2.*models/starcaster"):
        load_recogniser("arcface", [tmp_path])
    with pytest.raises(CheckpointError, match="no folder named"):
        load_recogniser("arcface")
    (tmp_path / "scrfd_10g_bnkps.onnx").write_bytes((folder / "scrfd_10g_bnkps.onnx").read_bytes())
    with pytest.raises(CheckpointError, match=r"arcface\.onnx.*Arc2Face"):
        load_recogniser("arcface", [tmp_path])


def test_broken_and_strange_networks_are_refused(folder, tmp_path):
    good = (folder / "scrfd_10g_bnkps.onnx").read_bytes()
    detector = tmp_path / "scrfd_10g_bnkps.onnx"
    (tmp_path / "arcface.onnx").write_bytes((folder / "arcface.onnx").read_bytes())
    detector.write_bytes(good[: len(good) // 2])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_recogniser("arcface", [tmp_path])
    detector.write_bytes((folder / "arcface.onnx").read_bytes())
    with pytest.raises(CheckpointError, match="1 outputs"):
        load_recogniser("arcface", [tmp_path])
    detector.write_bytes(good)
    toy_recogniser(tmp_path / "arcface.onnx", 128)
    with pytest.raises(CheckpointError, match="512 numbers"):
        load_recogniser("arcface", [tmp_path])


def test_an_unknown_backend_is_an_error():
    with pytest.raises(InputError, match="dlib or arcface"):
        load_recogniser("facenet")
