"""The pack as a real server sees it: imported, described, served."""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest

from starcaster_core.models.public.parts import PUBLIC_FILES

pytestmark = pytest.mark.comfy

SURFACE = Path(__file__).with_name("surface.json")
FIX = (
    "Node ids, input names, their order, sockets and outputs are part of every saved workflow: append, never rename or "
    "reorder. If the change only appends, run this test with UPDATE_SURFACE=1 and commit surface.json."
)


def surface(server) -> dict:
    """What saved workflows depend on, by node id."""
    nodes = {key: info for key, info in server.get("/object_info").items() if key.startswith("STARCaster_")}
    return {
        key: {
            "inputs": [
                [group, name, spec[0] if spec[0] != "COMBO" else ["COMBO", *fixed_options(name, spec[1]["options"])]]
                for group in ("required", "optional")
                for name, spec in info["input"].get(group, {}).items()
            ],
            "outputs": [list(pair) for pair in zip(info["output"], info["output_name"])],
            "output_node": info["output_node"],
        }
        for key, info in nodes.items()
    }


FROM_FILES = ("checkpoint", "identity_file", *(file.name for file in PUBLIC_FILES))


def fixed_options(name: str, options: list[str]) -> list[str]:
    """The options that do not come from files."""
    return options[:1] if name in FROM_FILES else options


def test_the_pack_imports_without_complaint(server):
    log = server.log()
    assert "Cannot import" not in log and "IMPORT FAILED" not in log
    assert "STARCaster" in log, "the import times list every pack"


def test_surface_is_unchanged(server):
    now = surface(server)
    if os.environ.get("UPDATE_SURFACE"):
        SURFACE.write_text(json.dumps(now, indent=1) + "\n")
    assert now == json.loads(SURFACE.read_text()), FIX


def test_every_input_has_a_tooltip_and_every_node_help(server):
    for key, info in server.get("/object_info").items():
        if not key.startswith("STARCaster_"):
            continue
        assert info["description"] and info["search_aliases"]
        for group in ("required", "optional"):
            for name, spec in info["input"].get(group, {}).items():
                assert spec[1].get("tooltip"), f"{key}.{name} has no tooltip"
        assert len(info["output_tooltips"]) == len(info["output"]) and all(info["output_tooltips"])
        with urllib.request.urlopen(f"{server.url}/extensions/STARCaster/docs/{key}.md") as page:
            assert page.read().decode().startswith("# STARCaster")


def test_templates_are_listed(server):
    listed = server.get("/workflow_templates")["STARCaster"]
    assert sorted(listed) == ["Free viewpoint", "Identity only", "Talking portrait"]


def test_the_shipped_inputs_are_in_the_input_folder(server):
    info = server.get("/object_info")
    assert "starcaster_voice.flac" in info["LoadAudio"]["input"]["required"]["audio"][1]["options"]
    pictures = info["LoadImage"]["input"]["required"]["image"][0]
    assert {"starcaster_photo.webp", "starcaster_portrait.png"} <= set(pictures)  # saved workflows name the second
