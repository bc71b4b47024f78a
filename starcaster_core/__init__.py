"""STARCaster: identity-aware, speech-driven, camera-controlled talking portraits.

The core of the node pack, usable from a script. Nothing in here imports ComfyUI, and every import inside the
package is relative, because ComfyUI loads the pack under a name of its own choosing.

The names of `__all__` are imported when they are asked for, so that `import starcaster_core` costs nothing.
"""

from __future__ import annotations

from importlib import import_module

__version__ = "0.1.0"

_HOMES = {
    "load_model": "pipeline",
    "prepare": "pipeline",
    "generate_frames": "pipeline",
    "save_video": "pipeline",
    "SamplerSettings": "sampling.settings",
    "CameraMove": "camera",
    "Identity": "types",
    "StarcasterError": "errors",
}
__all__ = [
    "CameraMove",
    "Identity",
    "SamplerSettings",
    "StarcasterError",
    "generate_frames",
    "load_model",
    "prepare",
    "save_video",
]


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
