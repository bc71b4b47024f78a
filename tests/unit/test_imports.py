"""Who may import whom, and what importing the pack costs."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from provision_comfyui import locate

REPO = Path(__file__).resolve().parents[2]
CORE = REPO / "starcaster_core"
COMFY_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution"}
STREAMS = {"speech", "identity", "camera", "video"}
BASE = {"errors", "types", "presets", "files", "idle"}
# What a folder or file of the core may import besides itself. Streams know neither each other nor the models.
ALLOWED = {
    "errors": set(),
    "types": {"errors"},
    "presets": {"errors"},
    "idle": set(),
    "files": set(),
    **{stream: BASE for stream in STREAMS},
    "models": BASE | {"speech", "camera"},  # `mini` holds its own phonetic encoder, and turns its portrait
    "sampling": BASE | {"models"},
    "data": BASE | STREAMS,
    "training": BASE | STREAMS | {"models", "sampling", "data"},
    "evaluation": BASE | STREAMS | {"models", "sampling", "data", "training"},
}
HEAVY = {"diffusers", "transformers", "librosa", "kornia", "dlib", "moderngl", "av", "accelerate", "matplotlib"}


def modules(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*.py")) if "__pycache__" not in path.parts]


def imports(path: Path, top_level_only: bool = False):
    """(level, module name, names) of every import statement in a file."""
    tree = ast.parse(path.read_text())
    statements = tree.body if top_level_only else ast.walk(tree)
    for node in statements:
        if isinstance(node, ast.Import):
            yield from ((0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.level, node.module or "", [alias.name for alias in node.names]


def core_targets(path: Path):
    """The first-level names of `starcaster_core` that a file of it imports."""
    depth = len(path.relative_to(CORE).parts)
    for level, module, names in imports(path):
        if level == depth:
            yield from [module.split(".")[0]] if module else names
        elif 0 < level < depth and depth - level >= 1:
            yield path.relative_to(CORE).parts[0]


def test_core_knows_no_comfyui_and_imports_itself_relatively():
    wrong = [
        f"{path.relative_to(REPO)}: {module}"
        for path in modules(CORE)
        for level, module, _ in imports(path)
        if level == 0 and module.split(".")[0] in COMFY_MODULES | {"nodes", "starcaster_core"}
    ]
    assert not wrong, "the core imports itself relatively and never ComfyUI: " + "; ".join(wrong)


def test_core_respects_the_direction_of_dependencies():
    wrong = []
    for path in modules(CORE):
        home = path.relative_to(CORE).parts[0].removesuffix(".py")
        if home not in ALLOWED:
            continue  # the command line and __init__ may import everything
        for target in core_targets(path):
            if (CORE / target).exists() or (CORE / f"{target}.py").exists():
                if target != home and target not in ALLOWED[home]:
                    wrong.append(f"{path.relative_to(REPO)} imports {target}")
    assert not wrong, "; ".join(wrong)


def test_only_the_bridge_imports_comfyui():
    wrong = [
        f"{path.name}: {module}"
        for path in modules(REPO / "nodes")
        if path.name not in ("comfy_bridge.py", "operations.py")
        for level, module, _ in imports(path)
        if level == 0 and module.split(".")[0] in COMFY_MODULES
    ]
    assert not wrong, "ComfyUI is reached through nodes/comfy_bridge.py and operations.py alone: " + "; ".join(wrong)


def test_nodes_import_heavy_packages_only_when_they_run():
    wrong = [
        f"{path.name}: {module}"
        for path in modules(REPO / "nodes")
        for level, module, _ in imports(path, top_level_only=True)
        if level == 0 and module.split(".")[0] in HEAVY
    ]
    assert not wrong, "; ".join(wrong)


LOAD_PACK = """
import asyncio, importlib.util, sys, time
comfyui, repo = sys.argv[1:3]
sys.argv = ["main.py", "--cpu", "--base-directory", sys.argv[3]]
sys.path.insert(0, comfyui)
import comfy.options
comfy.options.enable_args_parsing()
import torch, comfy.sd, comfy.model_patcher, folder_paths
from comfy_api.latest import io
before, modules = time.process_time(), set(sys.modules)
spec = importlib.util.spec_from_file_location("pack", repo + "/__init__.py", submodule_search_locations=[repo])
pack = sys.modules["pack"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pack)
extension = asyncio.run(pack.comfy_entrypoint())
nodes = asyncio.run(extension.get_node_list())
for node in nodes:
    node.GET_SCHEMA()
print(len(nodes), time.process_time() - before, *sorted({n.split(".")[0] for n in set(sys.modules) - modules}))
"""


@pytest.mark.skipif(not (locate().comfyui / "main.py").exists(), reason="no ComfyUI: run `make setup`")
def test_loading_the_pack_takes_less_than_a_second_of_computing(tmp_path):
    command = [sys.executable, "-c", LOAD_PACK, str(locate().comfyui), str(REPO), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    count, seconds, *new = done.stdout.splitlines()[-1].split()
    assert int(count) == 8
    assert float(seconds) < 1.0, f"loading took {seconds} s and brought {new}"
    assert not HEAVY & set(new), f"loading the pack imports {HEAVY & set(new)}"


def test_requirement_lists_agree():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    listed = [line for line in (REPO / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert listed == project["dependencies"]
