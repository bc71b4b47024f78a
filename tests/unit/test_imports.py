"""Who may import whom, and what importing the pack costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from provision_comfyui import locate

REPO = Path(__file__).resolve().parents[2]
CORE = REPO / "starcaster_core"
COMFY_MODULES = {"comfy", "comfy_api", "comfy_execution", "comfy_extras", "folder_paths", "server", "execution"}
STREAMS = {"speech", "identity", "camera", "video"}
BASE = {"errors", "conventions", "types", "presets", "files", "channels", "head_motion", "frame_sizes"}
# What a folder or file of the core may import besides itself. Streams know neither each other nor the models.
ALLOWED = {
    "errors": set(),
    "types": {"errors", "conventions"},
    "presets": {"errors", "conventions", "ranges"},
    "conventions": set(),
    "head_motion": {"conventions", "speech"},  # heads nod to voices
    "files": set(),
    "channels": set(),
    "locks": {"errors"},
    "ranges": set(),
    "signals": set(),
    "frame_sizes": set(),
    **{stream: BASE for stream in STREAMS},
    "video": BASE | {"locks"},
    "models": BASE | {"speech", "camera", "command"},  # `mini` holds its own phonetic encoder, and turns its portrait
    "sampling": BASE | {"models", "locks"},
    "data": BASE | STREAMS | {"command"},
    "training": BASE | STREAMS | {"models", "sampling", "data", "command"},
    "evaluation": BASE
    | STREAMS
    | {"models", "sampling", "data", "training", "pipeline", "frame_decoder", "identity_only", "command"},
    "frame_decoder": BASE | {"models", "identity"},
    "identity_only": BASE | {"models", "sampling", "identity"},
    "face_guard": BASE | {"models", "identity", "camera"},
    "pipeline": BASE | STREAMS | {"models", "sampling", "frame_decoder", "face_guard", "identity_only"},
    "preflight": {"errors"},
    "generate": BASE | STREAMS | {"models", "sampling", "pipeline", "identity_only", "signals", "locks", "preflight"},
    "benchmark": BASE | STREAMS | {"models", "sampling", "pipeline", "command"},
    # The command line reaches a command's module by name, and only that one.
    "cli": {"command", "signals"},
    "command": {"errors", "signals"},
    "__main__": {"cli", "signals"},
    "__init__": set(),
}
# Inner folders, and who else in the core may import from them. A public speech encoder can be given beside the model.
INNER = {"models/public": {"generate", "pipeline"}, "models/judges": {"evaluation", "training"}, "data/heads": {"data"}}
HEAVY = {"diffusers", "transformers", "librosa", "kornia", "dlib", "moderngl", "av", "accelerate", "matplotlib"}
# Where the name one imports is not that of the package one installs.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "dlib": "dlib-bin",
    "triton": "torch",
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
}


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


def core_imports(path: Path):
    """The files of `starcaster_core` that a file of it imports, wherever in the file it does so."""
    folder = path.relative_to(CORE).parent.parts
    for level, module, names in imports(path):
        if not 0 < level <= len(folder) + 1:
            continue  # not relative, or out of the core
        base = CORE.joinpath(*folder[: len(folder) + 1 - level], *filter(None, module.split(".")))
        for name in names:
            for target in (base / name / "__init__.py", base / f"{name}.py", base / "__init__.py"):
                if target.exists():
                    break
            else:
                target = base.with_suffix(".py")
            yield target.relative_to(CORE)


def home(path: Path) -> str:
    """The folder, or the file beside the folders, that a path relative to the core belongs to."""
    return path.parts[0].removesuffix(".py")


def test_core_knows_no_comfyui():
    wrong = [
        f"{path.relative_to(REPO)}: {module}"
        for path in modules(CORE)
        for level, module, _ in imports(path)
        if level == 0 and module.split(".")[0] in COMFY_MODULES
    ]
    assert not wrong, "the core never imports ComfyUI: " + "; ".join(wrong)


def test_the_pack_imports_itself_relatively():
    """ComfyUI loads the pack under a name of its own choosing; `starcaster_core` may then be another copy, or none."""
    wrong = []
    for path in [REPO / "__init__.py", *modules(REPO / "nodes"), *modules(CORE)]:
        for level, module, _ in imports(path):
            if level == 0 and module.split(".")[0] in {"nodes", "starcaster_core"}:
                wrong.append(f"{path.relative_to(REPO)}: {module}")
            if path.is_relative_to(CORE) and level > len(path.relative_to(CORE).parts):
                wrong.append(f"{path.relative_to(REPO)}: {'.' * level}{module} leads out of the core")
    assert not wrong, "; ".join(wrong)


def test_core_respects_the_direction_of_dependencies():
    wrong = []
    for path in modules(CORE):
        source = path.relative_to(CORE)
        if home(source) not in ALLOWED:
            wrong.append(f"{source} has no line in ALLOWED: say there what it may import")
            continue
        for target in core_imports(path):
            if home(target) not in ALLOWED[home(source)] | {home(source), "__init__"}:
                wrong.append(f"{source} imports {target}")
            for folder, outsiders in INNER.items():
                if target.is_relative_to(folder) and not source.is_relative_to(folder):
                    if home(source) not in outsiders:
                        wrong.append(f"{source} imports {target}")
    assert not wrong, "; ".join(dict.fromkeys(wrong))


def test_no_files_import_each_other():
    reached = {path.relative_to(CORE): set(core_imports(path)) for path in modules(CORE)}
    circles = set()
    for start in reached:
        below, waiting = set(), list(reached[start] - {start})
        while waiting:
            path = waiting.pop()
            if path not in below:
                below.add(path)
                waiting += reached[path] - {path}
        if start in below:
            circles.add(start)
    assert not circles, "in a circle: " + ", ".join(sorted(map(str, circles)))


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
    assert int(count) == 9
    assert float(seconds) < 1.0, f"loading took {seconds} s and brought {new}"
    assert not HEAVY & set(new), f"loading the pack imports {HEAVY & set(new)}"


def test_requirement_lists_agree():
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    listed = [line for line in (REPO / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert listed == project["dependencies"]
    assert not [line for line in listed if line.startswith("comfyui")], "ComfyUI pins its own parts, the frontend too"


def test_versions_agree():
    tomllib = pytest.importorskip("tomllib")
    import starcaster_core

    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    assert starcaster_core.__version__ == project["version"]
    assert f"\nversion: {project['version']}\n" in (REPO / "CITATION.cff").read_text()
    assert f"\n## [{project['version']}] - " in (REPO / "CHANGELOG.md").read_text()


def test_what_is_imported_is_declared():
    """What only an extra brings is imported where it is used, so that the rest runs without it."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = {name: set(map(bare, found)) for name, found in project["optional-dependencies"].items()}
    always = set(map(bare, project["dependencies"]))
    sometimes = always.union(*(found for name, found in extras.items() if name not in ("test", "dev")))
    wrong = []
    for path in [*modules(REPO / "nodes"), *modules(CORE)]:
        for top_level_only, declared in ((True, always), (False, sometimes)):
            for package in third_party(path, top_level_only) - declared:
                wrong.append(f"{path.relative_to(REPO)}: {package}{' at its top' if top_level_only else ''}")
    assert not wrong, "not declared in pyproject.toml: " + "; ".join(wrong)


def test_what_is_declared_is_imported():
    """Nothing is installed for nothing: librosa, say, brings numba, llvmlite and scikit-learn."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    files = [*modules(REPO / "nodes"), *modules(CORE)]
    used = set().union(*(third_party(path, top_level_only=False) for path in files))
    used.add("face-recognition-models")  # its files are read by path: importing it fails without pkg_resources
    assert set(map(bare, project["dependencies"])) <= used


def bare(requirement: str) -> str:
    """The name in a requirement like `torch>=2`."""
    return re.match(r"[A-Za-z0-9_.-]+", requirement)[0].lower()


def third_party(path: Path, top_level_only: bool) -> set[str]:
    """The packages to install for a file's imports, without the standard library and ComfyUI."""
    names = {module.split(".")[0] for level, module, _ in imports(path, top_level_only) if level == 0}
    names -= set(sys.stdlib_module_names) | COMFY_MODULES
    return {DISTRIBUTIONS.get(name, name) for name in names}
