"""What the archive for the ComfyUI registry holds: the tracked files that .comfyignore leaves in."""

from __future__ import annotations

import json
import subprocess
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import quote

import pytest
from comfy_server import PACK, ComfyServer
from media import probe
from provision_comfyui import locate

REPO = Path(__file__).resolve().parents[2]
LEFT_OUT = {".basedpyright", ".ci", ".github", "benchmarks", "docs", "scripts", "tests"}
NEEDED = {"nodes", "starcaster_core", "web", "workflows"}
NEEDED_FILES = {"__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "NOTICE"}


def listed(*options: str) -> set[str]:
    command = ["git", "-C", str(REPO), "ls-files", "-z", "--cached", *options]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\0")) - {""}


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    if not (REPO / ".git").exists():
        pytest.skip("not a git checkout")
    return listed()


@pytest.fixture(scope="module")
def packed(tracked) -> set[str]:
    """ComfyUI's packer reads .comfyignore as git reads .gitignore."""
    return tracked - listed("--ignored", f"--exclude-from={REPO / '.comfyignore'}")


def test_whatever_the_pack_needs_is_packed(tracked, packed):
    needed = {name for name in tracked if name.split("/")[0] in NEEDED} | NEEDED_FILES
    assert not needed - packed
    for example in ("web/docs/STARCaster_Sampler.md", "starcaster_core/data/synth.py"):
        assert example in packed
    assert any(name.startswith("starcaster_core/weights/") and name.endswith(".safetensors") for name in packed)


def test_whatever_only_developers_need_is_not(packed):
    assert not {name for name in packed if name.split("/")[0] in LEFT_OUT}


def test_letters_are_those_that_tools_on_windows_read(tracked):
    """`comfy-test lint` refuses Python outside cp1252. What is opened without naming an encoding is plain ASCII."""
    for name in sorted(tracked):
        text = (REPO / name).read_bytes()
        if name.endswith(".py"):
            text.decode("utf-8").encode("cp1252")
        elif name in ("pyproject.toml", "requirements.txt", ".comfyignore") or name.startswith("workflows/"):
            assert name.endswith(".jpg") or text.isascii(), name


@pytest.fixture(scope="module")
def installed(packed, tmp_path_factory):
    """A server whose only pack was unpacked from the archive."""
    install = locate()
    if not (install.comfyui / "main.py").exists():
        pytest.skip("no ComfyUI: run `make setup`, or set COMFYUI_PATH")
    archive = tmp_path_factory.mktemp("archive") / "node.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in packed:
            file.write(REPO / name, name)
    server = ComfyServer(install, environment={"OMP_NUM_THREADS": "1"})
    with zipfile.ZipFile(archive) as file:
        file.extractall(server.base / "custom_nodes" / PACK)
    with server:
        yield server


def fetch(server: ComfyServer, path: str) -> bytes:
    with urllib.request.urlopen(server.url + path) as reply:
        return reply.read()


@pytest.mark.comfy
@pytest.mark.slow
def test_the_unpacked_archive_serves_its_help_and_runs_a_template(installed):
    ours = [key for key in installed.get("/object_info") if key.startswith("STARCaster_")]
    assert len(ours) == len(list((REPO / "web" / "docs").glob("*.md")))
    for key in ours:
        assert fetch(installed, f"/extensions/{PACK}/docs/{key}.md").startswith(b"# STARCaster")
    scripts = [name for name in installed.get("/extensions") if name.startswith(f"/extensions/{PACK}/")]
    assert scripts and all(fetch(installed, name) for name in scripts)
    for name in map(quote, installed.get("/workflow_templates")[PACK]):
        assert json.loads(fetch(installed, f"/api/workflow_templates/{PACK}/{name}.json"))["nodes"]
        assert fetch(installed, f"/api/workflow_templates/{PACK}/{name}.jpg")

    template = installed.base / "custom_nodes" / PACK / "workflows" / "api" / "talking_portrait.json"
    prompt = json.loads(template.read_text())
    for node in prompt.values():
        if node["class_type"] == "STARCaster_AudioEncoder":
            node["inputs"]["max_seconds"] = 0.5
        if node["class_type"] == "STARCaster_Sampler":
            node["inputs"] |= {"seconds": 0.5, "steps": 1}
    outcome = installed.run(prompt)
    assert outcome.status == "success", outcome.message or installed.log_tail()
    (video,) = [path for path in installed.output_files(outcome) if path.suffix == ".mp4"]
    assert probe(video).audio_codec == "aac"
