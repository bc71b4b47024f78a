"""The shipped workflows as files: complete, connected, and told twice alike."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path

import pytest
from PIL import Image

FOLDER = Path(__file__).resolve().parents[2] / "workflows"
MINI = FOLDER.parent / "starcaster_core" / "weights" / "mini.safetensors"
NAMES = sorted(path.stem for path in FOLDER.glob("*.json"))


def load(name: str) -> tuple[dict, dict]:
    prompt = FOLDER / "api" / f"{api_name(name)}.json"
    return json.loads((FOLDER / f"{name}.json").read_text()), json.loads(prompt.read_text())


def api_name(name: str) -> str:
    """Return the name of a template's prompt: templates are listed by their names, prompts are typed."""
    return name.lower().replace(" ", "_")


def test_the_three_are_there_in_both_forms():
    assert NAMES == ["Free viewpoint", "Identity only", "Talking portrait"]
    assert sorted(path.stem for path in (FOLDER / "api").glob("*.json")) == [api_name(name) for name in NAMES]


@pytest.mark.skipif(not MINI.exists(), reason="no trained model yet to make the thumbnails with")
def test_each_has_a_thumbnail():
    for name in NAMES:  # the frontend asks for .jpg; browsers look at what is in it, so it may move
        with Image.open(FOLDER / f"{name}.jpg") as picture:
            assert picture.format == "WEBP" and picture.n_frames > 20, "run `make thumbnails`"
        assert (FOLDER / f"{name}.jpg").stat().st_size < 400_000


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


TITLE = 30  # pixels above a node's position
PREVIEW = 260  # pixels that a node grows by for what it shows
SHOWING = ("LoadImage", "PreviewImage", "STARCaster_Sampler", "STARCaster_VideoCombine")


def boxes_after_a_run(workflow: dict) -> dict[int, tuple[float, float, float, float]]:
    """Left, top, right and bottom of each node by its id, when previews stand below those that show one."""
    boxes = {}
    for node in workflow["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        bottom = y + height + (PREVIEW if node["type"] in SHOWING else 0)
        boxes[node["id"]] = (x, y - TITLE, x + width, bottom)
    return boxes


@pytest.mark.parametrize("name", NAMES)
def test_nodes_do_not_overlap_after_a_run(name):
    """Notes are nodes too: none is covered."""
    boxes = boxes_after_a_run(load(name)[0])
    for (a, (left, top, right, bottom)), (b, other) in combinations(boxes.items(), 2):
        apart = right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
        assert apart, f"{name}: nodes {a} and {b} overlap"


@pytest.mark.parametrize("name", NAMES)
def test_links_run_from_left_to_right(name):
    workflow, _ = load(name)
    boxes = boxes_after_a_run(workflow)
    for link, source, _, target, *_ in workflow["links"]:
        assert boxes[source][2] < boxes[target][0], f"{name}: link {link} from node {source} to {target}"


@pytest.mark.parametrize("name", NAMES)
def test_groups_hold_whole_nodes_and_do_not_overlap(name):
    workflow, _ = load(name)
    frames = [(x, y, x + w, y + h) for x, y, w, h in (group["bounding"] for group in workflow["groups"])]
    for a, b in combinations(frames, 2):
        assert a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] or b[3] <= a[1]
    for node, (left, top, right, bottom) in boxes_after_a_run(workflow).items():
        for x, y, x_end, y_end in frames:
            inside = x <= left and y <= top and right <= x_end and bottom <= y_end
            outside = right <= x or x_end <= left or bottom <= y or y_end <= top
            assert inside or outside, f"{name}: node {node} crosses the edge of a group"
