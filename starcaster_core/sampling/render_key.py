"""A name for everything that decides a video's latents: equal names, equal bits."""

from __future__ import annotations

import hashlib
import json
import weakref
from dataclasses import asdict

import numpy as np
import torch
from torch import Tensor

from .execution import Execution
from .settings import Conditions, SamplerSettings

VERSION = 1  # counts up when the same inputs come to give other latents
DECIDING = ("unet", "vae", "identity_tokens", "speech_tokens", "camera_tokens")  # parts of a model that make latents
_fingerprints: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def render_key(model, conditions: Conditions, settings: SamplerSettings, execution: Execution | None = None) -> str:
    """Return 32 hexadecimal digits of a model's weights, the conditions, the settings and the machine's arithmetic."""
    who, heard, seen = conditions.identity, conditions.speech, conditions.camera
    key = hashlib.blake2b(digest_size=16)
    feed(key, {"version": VERSION, "weights": fingerprint(model), "config": model.config.to_dict()})
    feed(key, {"settings": asdict(settings), "frames": conditions.frames, "arithmetic": arithmetic(model)})
    feed(key, asdict(execution or Execution()))
    feed(key, {"backend": who.backend, "angles": (who.yaw, who.pitch)}, who.embedding, who.portrait)
    if heard is not None:
        feed(key, {"speech": heard.encoder, "fps": heard.fps}, heard.features, heard.loudness)
    if seen is not None:
        feed(key, {"camera": True}, seen.vectors())
    if conditions.head_motion is not None:
        feed(key, {"head motion": True}, conditions.head_motion)
    return key.hexdigest()


def fingerprint(model) -> str:
    """Return a hash of the weights that decide the latents, counted once for a model."""
    if model not in _fingerprints:
        digest = hashlib.blake2b(digest_size=16)
        for part in DECIDING:
            for name, weight in getattr(model, part).state_dict().items():
                feed(digest, {"weight": f"{part}.{name}"}, weight)
        _fingerprints[model] = digest.hexdigest()
    return _fingerprints[model]


def arithmetic(model) -> dict:
    """Return what the last bits of a result depend on: device, precision, PyTorch."""
    device, cpu = model.device, torch.backends.cpu.get_cpu_capability()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{cpu}, {torch.get_num_threads()} threads"
    return {"device": device.type, "name": name, "dtype": str(model.dtype), "torch": torch.__version__}


def feed(digest, facts: dict, *arrays: Tensor | np.ndarray | None) -> None:
    """Add facts and arrays, shapes and types with them, so that no two different inputs read alike."""
    tensors = [None if array is None else torch.as_tensor(array) for array in arrays]
    shapes = [None if tensor is None else (str(tensor.dtype), *tensor.shape) for tensor in tensors]
    digest.update(json.dumps([facts, shapes], sort_keys=True).encode() + b"\0")
    for tensor in tensors:
        if tensor is not None:
            digest.update(bytes_of(tensor))


def bytes_of(tensor: Tensor) -> memoryview:
    """Return a tensor's bytes in row-major order."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
