"""The shipped workflows in the real frontend: they open, run, and survive a reload."""

from __future__ import annotations

import json

import pytest
from provision_comfyui import REPO

pytestmark = pytest.mark.browser

WORKFLOWS = ("Talking portrait", "Free viewpoint", "Identity only")
SLOW = 180_000
QUICK = {
    "LoadImage": {"image": "face.png"},
    "LoadAudio": {"audio": "voice.wav"},
    "STARCaster_ModelLoader": {"checkpoint": "tiny.safetensors"},
    "STARCaster_Sampler": {"steps": 2},
}


@pytest.mark.parametrize("name", WORKFLOWS)
def test_templates_open_and_mean_the_same_as_their_api_twins(studio, name):
    studio.open(name)
    prompt = REPO / "workflows" / "api" / f"{name.lower().replace(' ', '_')}.json"
    assert studio.prompt() == json.loads(prompt.read_text())
    assert not studio.problems


def test_templates_have_names_in_words_and_moving_cards(studio):
    studio.open()
    studio.page.evaluate("() => window.app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    studio.page.get_by_text("STARCaster", exact=True).first.click(timeout=SLOW)
    for name in WORKFLOWS:
        studio.page.get_by_text(name, exact=True).first.wait_for(timeout=SLOW)
    counts = studio.page.evaluate(
        """async names => Promise.all(names.map(async name => {
            const file = `/workflow_templates/STARCaster/${encodeURIComponent(name)}.jpg`;
            const card = await (await window.app.api.fetchApi(file)).blob();
            const decoder = new ImageDecoder({ data: await card.arrayBuffer(), type: "image/webp" });
            await decoder.tracks.ready;
            return decoder.tracks.selectedTrack.frameCount;
        }))""",
        list(WORKFLOWS),
    )
    assert all(frames > 20 for frames in counts)
    cards = "[...document.querySelectorAll('img')].filter(card => card.naturalWidth === 320)"
    studio.page.wait_for_function(f"() => {cards}.length === {len(WORKFLOWS)}", timeout=SLOW)
    assert not studio.problems


def test_our_sockets_have_colours_of_their_own_with_every_palette(studio):
    studio.open("Talking portrait")
    types = [f"STARCASTER_{name}" for name in ("MODEL", "IDENTITY", "SPEECH", "CAMERA")]
    for palette in ("dark", "light", "nord"):
        studio.page.evaluate(
            "palette => window.app.extensionManager.setting.set('Comfy.ColorPalette', palette)", palette
        )
        studio.page.wait_for_timeout(1000)
        drawn = studio.page.evaluate(
            """types => types.map(type => [window.app.canvas.default_connection_color_byType[type],
                window.LGraphCanvas.link_type_colors[type],
                getComputedStyle(document.documentElement).getPropertyValue("--color-datatype-" + type)])""",
            types,
        )
        assert all(len(set(colours)) == 1 and colours[0].startswith("#") for colours in drawn), drawn
        assert len({colours[0] for colours in drawn}) == 4
    studio.page.evaluate("() => window.app.extensionManager.setting.set('Comfy.ColorPalette', 'dark')")
    assert not studio.problems


def run(page) -> None:
    page.evaluate(
        """() => { window.ended = new Promise(resolve => {
            for (const kind of ["execution_success", "execution_error", "execution_interrupted"])
                window.app.api.addEventListener(kind, event => resolve([kind, event.detail]));
        }) }"""
    )
    page.get_by_test_id("queue-button").first.click()
    kind, detail = page.evaluate("() => window.ended")
    assert kind == "execution_success", detail


def test_run_shows_the_video_in_the_node(studio):
    studio.open("Talking portrait")
    studio.set_widgets(QUICK)
    page = studio.page
    run(page)
    plays = "() => [...document.querySelectorAll('video')].some(v => v.videoWidth > 0 && v.duration > 0.5)"
    page.wait_for_function(plays, timeout=SLOW)
    source = page.evaluate("() => { const v = document.querySelector('video'); return v.currentSrc || v.src }")
    assert "talking_portrait" in source
    for format in ("mov", "gif", "png", "webm"):
        before = source
        studio.set_widgets({"STARCaster_VideoCombine": {"format": format}})
        run(page)
        another = """before => [...document.querySelectorAll('video')].map(v => v.videoWidth > 0 && v.duration > 0.5
            && v.currentSrc).find(source => source && source !== before)"""
        source = page.wait_for_function(another, arg=before, timeout=20_000).json_value()
        assert ("talking_portrait" if format == "webm" else "type=temp") in source, format
        assert page.locator("video").count() == 1, format
    assert not studio.problems


def test_reload_keeps_every_widget_value(studio):
    studio.open("Talking portrait")
    studio.set_widgets(
        {
            "STARCaster_ModelLoader": {"checkpoint": "tiny.safetensors", "precision": "float32"},
            "STARCaster_IdentityLoader": {"face": "leftmost", "save_as": "me"},
            "STARCaster_AudioEncoder": {"max_seconds": 2.5},
            "STARCaster_CameraTrajectory": {
                "preset": "keyframes",
                "yaw": -12,
                "pitch": 3,
                "distance": 1.1,
                "period_seconds": 2.5,
                "seconds": 7.2,
                "keyframes": '[{"time": 0, "yaw": 1, "pitch": 2, "distance": 1}]',
            },
            "STARCaster_Sampler": {
                "seed": 123456789,
                "steps": 7,
                "scheduler": "ddim",
                "guidance_scale": 2.5,
                "lambda_audio": 0.5,
                "lambda_camera": 0.25,
                "context_frames": 3,
                "use_reference": False,
                "seconds": 6.0,
            },
            "STARCaster_VideoCombine": {"fps": 24, "format": "webm", "crf": 30, "filename_prefix": "a/b"},
        }
    )
    prompt, widgets, saved = studio.prompt(), studio.widgets(), json.dumps(studio.workflow())
    assert len(widgets) == 6
    studio.forget()
    studio.open()
    studio.load(json.loads(saved))
    assert studio.widgets() == widgets
    assert studio.prompt() == prompt
    assert not studio.problems
