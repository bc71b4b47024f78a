"""Checkpoints: one safetensors file with every weight, and in its metadata the configuration and the provenance.

A file is loaded whole or not at all: missing, unexpected or misshapen weights are named, never passed over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import atomic_write
from ..presets import PRESETS, ModelConfig, upgrade_name
from .attention_kernels import has_amx
from .starcaster import Starcaster

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
BUILT_IN = ("mini",)
RANDOM = ("tiny",)  # no file: random weights from a fixed seed, for tests
LARGEST_TEXT = 2**20  # characters of a configuration or a provenance; those that exist have some thousand
LARGEST_WEIGHT = 1e6


def available_checkpoints() -> list[str]:
    """Names that need no file of the user's."""
    return list(BUILT_IN)


def load_checkpoint(
    name_or_path: str | os.PathLike, dtype: torch.dtype | None = None, float8: bool = False
) -> Starcaster:
    """Loads a model by built-in name ("mini") or from a file, ready for sampling on the CPU.

    dtype: precision to compute in; None chooses one for the CPU (see `cpu_precision`). float8: store the UNet's large
    weights in eight bits, which halves the model.
    Raises CheckpointError when the file is missing, truncated, or does not hold a whole STARCaster model.
    """
    name = str(name_or_path)
    if name in RANDOM:
        model = random_model(PRESETS[name])
    else:
        config, weights, provenance = read_checkpoint(find_checkpoint(name))
        model = build(config, weights, name, dtype or cpu_precision(), provenance.get("untrained", ()))
    model = model.set_precision(dtype or cpu_precision()).eval().requires_grad_(False)
    model.unet.to(memory_format=torch.channels_last)  # as its convolutions want their weights
    if float8:
        model.store_in_float8()
    return model


def find_checkpoint(name_or_path: str) -> Path:
    """The file of a built-in name; anything else is taken for a path"""
    return WEIGHTS / f"{name_or_path}.safetensors" if name_or_path in BUILT_IN else Path(name_or_path)


def build(
    config: ModelConfig,
    weights: dict[str, Tensor],
    name: str,
    dtype: torch.dtype = torch.float32,
    untrained: Iterable[str] = (),
) -> Starcaster:
    """Return a model with all of these weights, copied into `dtype` (a speech encoder's: float32).

    name: for error messages. untrained: `Starcaster.untrained`. Raises CheckpointError for weights that do not fit.
    """
    try:
        with torch.random.fork_rng(devices=[]), SkipInitialisation():  # the user's generator stays as it was
            model = Starcaster(config)
    except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AssertionError) as error:
        raise CheckpointError(
            "a configuration of parts that fit each other", f"{name}: {shorten(str(error))}", "Get the file again."
        ) from error
    held = {
        key: tensor.to(torch.float32 if key.startswith("speech_encoder.") else dtype, copy=True)
        for key, tensor in weights.items()
    }
    try:
        model.load_state_dict(held, strict=True, assign=True)
    except RuntimeError as error:
        raise CheckpointError(
            f"all weights of a STARCaster {config.name!r} model, no more and no less",
            f"{name}: {shorten(str(error))}",
            "Use a file written by `python -m starcaster_core train` or `assemble`.",
        ) from None
    model.untrained = tuple(untrained)
    return model.to(memory_format=torch.channels_last)


class SkipInitialisation(torch.overrides.TorchFunctionMode):
    """Layers made under it keep whatever their memory holds: for those that get all of their weights from a file."""

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = options or {}
        if getattr(function, "__module__", None) == "torch.nn.init":
            return options["tensor"] if "tensor" in options else arguments[0]
        return function(*arguments, **options)


def random_model(config: ModelConfig, seed: int = 0) -> Starcaster:
    """A model with random weights, the same for the same seed; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Starcaster(config)
        for parameter in model.parameters():  # zero-initialised layers would hide mistakes from tests
            if parameter.ndim > 1 and not parameter.any():
                torch.nn.init.normal_(parameter, std=0.02)
    return model.to(memory_format=torch.channels_last)


def save_checkpoint(path: str | os.PathLike, model: Starcaster, provenance: dict, dtype=torch.float16) -> None:
    """Write a model with its configuration. provenance: data, command, seeds, ..., for the metadata.

    What of the model is untrained is added to the provenance, from where `load_checkpoint` takes it.
    """
    from safetensors.torch import save_file

    if model.untrained:
        provenance = {**provenance, "untrained": list(model.untrained)}

    weights = {key: tensor.detach().to("cpu", dtype).contiguous() for key, tensor in model.state_dict().items()}
    metadata = {
        "format": "pt",
        "starcaster": json.dumps(model.config.to_dict()),
        "provenance": json.dumps(provenance),
    }
    with atomic_write(path) as part:
        save_file(weights, part, metadata)


def read_checkpoint(path: str | os.PathLike) -> tuple[ModelConfig, dict[str, Tensor], dict]:
    """Return the configuration, the weights by name and the provenance.

    Raises CheckpointError for a file that is missing, truncated or something else, values of the configuration outside
    their ranges, and weights that are not finite floating-point numbers.
    """
    weights = {}
    config, provenance = read_header(path, weights)
    check_weights(weights, Path(path).name)
    return config, weights, provenance


def read_config(name_or_path: str | os.PathLike) -> ModelConfig:
    """Return the configuration alone, without the weights. Raises CheckpointError as `load_checkpoint` does."""
    name = str(name_or_path)
    return PRESETS[name] if name in RANDOM else read_header(find_checkpoint(name))[0]


def read_header(path: str | os.PathLike, weights: dict[str, Tensor] | None = None) -> tuple[ModelConfig, dict]:
    """Return the configuration and the provenance; `weights`, where given, is filled with the weights as they are."""
    from safetensors import SafetensorError, safe_open

    fix = "Choose a built-in model (mini) or a STARCaster .safetensors file in models/starcaster."
    if not Path(path).is_file():
        raise CheckpointError("a STARCaster checkpoint", f"no file at {path}", fix)
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if weights is not None:
                weights |= {upgrade_name(key): file.get_tensor(key) for key in file.keys()}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            "a whole safetensors file",
            f"{Path(path).name}, which cannot be read ({shorten(str(error))})",
            "The file is truncated or not a safetensors file: copy or download it again.",
        ) from None
    if "starcaster" not in metadata:
        raise CheckpointError("a STARCaster checkpoint", f"{Path(path).name}, some other model", fix)
    try:
        config = ModelConfig.from_dict(parse(metadata["starcaster"]))
        provenance = parse(metadata.get("provenance", "{}"))
        if not isinstance(provenance, dict) or not isinstance(provenance.get("untrained", []), list):
            raise ValueError("a provenance that is none")
    except (TypeError, ValueError, RecursionError) as error:
        raise CheckpointError(
            "a configuration this version understands",
            f"{Path(path).name} ({shorten(str(error), 200)})",
            "Update the node pack; if that does not help, the file is damaged: get it again.",
        ) from None
    return config, provenance


def parse(text: str):
    """Return what a JSON text says. Raises ValueError for one above LARGEST_TEXT, RecursionError for a deep one."""
    if len(text) > LARGEST_TEXT:
        raise ValueError(f"{len(text)} characters of metadata")
    return json.loads(text)


def check_weights(weights: dict[str, Tensor], file: str) -> None:
    """Raise CheckpointError for weights that are not finite floating-point numbers below LARGEST_WEIGHT in size."""
    for name, weight in weights.items():
        if not weight.is_floating_point():
            got = f"{name} of {str(weight.dtype).removeprefix('torch.')} in {file}"
            raise CheckpointError(
                "floating-point weights", got, "Use the file as training or `assemble` wrote it, or another precision."
            )
        if not is_sane(weight):
            raise CheckpointError(
                f"finite weights below {LARGEST_WEIGHT:g}",
                f"others in {name} of {file}",
                "The file is damaged: get it again.",
            )


def is_sane(weight: Tensor) -> bool:
    """Return whether all numbers are finite and small enough.

    Without their signs, floats are ordered as their bits are as integers. NumPy compares those many times faster than
    PyTorch compares half precision on a CPU.
    """
    if weight.element_size() not in (2, 4) or weight.dtype == torch.float64:
        weight = weight.float()
    kind = torch.int16 if weight.element_size() == 2 else torch.int32
    limit = torch.tensor(LARGEST_WEIGHT, dtype=weight.dtype).view(kind).item()
    bits = weight.contiguous().view(kind).numpy()
    return bits.size == 0 or int((bits & torch.iinfo(kind).max).max()) < limit


def cpu_precision() -> torch.dtype:
    """For sampling and training on a CPU: bfloat16 where it multiplies tiles of it (AMX) or has at least its dot
    product, up to several times faster; float32 elsewhere (docs/decisions/0001)."""
    dot_product = getattr(torch.cpu, "_is_avx512_bf16_supported", lambda: False)
    return torch.bfloat16 if has_amx() or dot_product() else torch.float32


def shorten(text: str, length: int = 400) -> str:
    text = " ".join(text.split())
    return text if len(text) <= length else text[: length - 3] + "..."
