"""ONNX files that the user placed: found by name, opened with onnxruntime, checked for what they take and give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import CheckpointError, MissingDependencyError


def find_file(names: Sequence[str], folders: Sequence[str | Path], wanted: str, source: str) -> Path:
    """Return the first of the files that lies in one of the folders; `source` is for the error."""
    for folder in folders:
        for name in names:
            if (Path(folder) / name).is_file():
                return Path(folder) / name
    places = ", ".join(str(folder) for folder in folders) or "no folder named"
    raise CheckpointError(
        f"{wanted}, {' or '.join(names)}",
        f"no such file in {places}",
        f"Take it from {source} and put it into ComfyUI/models/starcaster, or name its folder with --face-models. "
        "It is not downloaded by itself, and its licence forbids commercial use.",
    )


def open_onnx(path: Path, wanted: str):
    """Open an onnxruntime session on the CPU. Raises CheckpointError for a file that is damaged or none."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingDependencyError(
            f"onnxruntime, to run {path.name}", f"{error}", "Run `pip install onnxruntime`."
        ) from None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class of its own for each way to be broken
        raise CheckpointError(wanted, f"{path.name}, which cannot be read ({error})", "Copy the file again.") from None


def refuse(path: Path, wanted: str, got: str) -> CheckpointError:
    return CheckpointError(wanted, f"{path.name} with {got}", "This is another model's file.")
