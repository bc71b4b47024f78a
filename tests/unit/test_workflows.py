"""The shipped workflows as files: complete, connected, and told twice alike."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
MINI = FOLDER.parent / "starcaster_core" / "weights" / "mini.safetensors"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> tuple[dict, dict]:
    return json.loads((FOLDER / f"{name}.json").read_text()), json.loads((FOLDER / "api" / f"{name}.json").read_text())


def test_the_three_are_there_in_both_forms():
    assert NAMES == ["free_viewpoint", "identity_only", "talking_portrait"]
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == NAMES


@pytest.mark.skipif(not MINI.exists(), reason="no trained model yet to make the thumbnails with")
def test_each_has_a_thumbnail():
    assert [name for name in NAMES if not (FOLDER / f"{name}.jpg").exists()] == [], "run `make thumbnails`"


@pytest.mark.parametrize("name", NAMES)
def test_links_agree_with_the_nodes_at_both_ends(name):
    workflow, _ = load(name)
    nodes = {node["id"]: node for node in workflow["nodes"]}
    assert workflow["last_node_id"] == max(nodes) and workflow["last_link_id"] == len(workflow["links"])
    for link, source, out, target, slot, kind in workflow["links"]:
        assert link in nodes[source]["outputs"][out]["links"]
        assert nodes[target]["inputs"][slot]["link"] == link
        assert nodes[source]["outputs"][out]["type"] == nodes[target]["inputs"][slot]["type"] == kind


@pytest.mark.parametrize("name", NAMES)
def test_both_forms_have_the_same_nodes_and_connections(name):
    workflow, api = load(name)
    nodes = {str(node["id"]): node for node in workflow["nodes"] if node["type"] != "MarkdownNote"}
    assert {key: node["type"] for key, node in nodes.items()} == {key: node["class_type"] for key, node in api.items()}
    sources = {link: [str(source), out] for link, source, out, *_ in workflow["links"]}
    for key, node in nodes.items():
        wired = {slot["name"]: sources[slot["link"]] for slot in node["inputs"] if slot["link"]}
        assert wired == {name: value for name, value in api[key]["inputs"].items() if isinstance(value, list)}


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap(name):
    workflow, _ = load(name)
    title = 30
    boxes = [(n["id"], n["pos"][0], n["pos"][1] - title, *n["size"]) for n in workflow["nodes"]]
    for index, (a, ax, ay, aw, ah) in enumerate(boxes):
        for b, bx, by, bw, bh in boxes[index + 1 :]:
            apart = ax + aw <= bx or bx + bw <= ax or ay + ah + title <= by or by + bh + title <= ay
            assert apart, f"{name}: nodes {a} and {b} overlap"
