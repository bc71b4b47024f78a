"""The node pack inside this process, loaded the way ComfyUI loads it."""

from __future__ import annotations

import asyncio
import importlib.util
import sys

import pytest
from provision_comfyui import REPO, locate

PACK = "starcaster_pack_under_test"


@pytest.fixture(scope="session")
def pack(tmp_path_factory):
    """The pack's root module. Its core is not the `starcaster_core` that other tests import: reach it through here."""
    comfyui = locate().comfyui
    if not (comfyui / "main.py").exists():
        pytest.skip("no ComfyUI: run `make setup`, or set COMFYUI_PATH")
    sys.path.append(str(comfyui))  # last, so that nothing of ours or of other packages is shadowed
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    import folder_paths

    base = tmp_path_factory.mktemp("comfy")
    for name in ("input", "output", "temp"):
        (base / name).mkdir()
        getattr(folder_paths, f"set_{name}_directory")(str(base / name))
    folder_paths.models_dir = str(base / "models")
    spec = importlib.util.spec_from_file_location(PACK, REPO / "__init__.py", submodule_search_locations=[str(REPO)])
    module = sys.modules[PACK] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    asyncio.run(asyncio.run(module.comfy_entrypoint()).on_load())
    return module


@pytest.fixture(scope="session")
def module(pack):
    """module("nodes.video") -> a module of the pack."""
    return lambda name: importlib.import_module(f"{PACK}.{name}")


@pytest.fixture(scope="session")
def bridge(module):
    return module("nodes.comfy_bridge")
