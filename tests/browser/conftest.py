"""A page of the real frontend in Debian's Chromium, in both of its renderers."""

from __future__ import annotations

import os
import shutil
from importlib.metadata import version

import pytest

ARGUMENTS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
READY = "() => window.app?.extensionManager && window.LiteGraph?.registered_node_types['STARCaster_Sampler']"
GRAPH = "(window.app.rootGraph ?? window.app.graph)"
SLOW = 120_000  # milliseconds; the machine may be busy
FRONTEND = os.environ.get("STARCASTER_FRONTEND") or version("comfyui-frontend-package")


@pytest.fixture(scope="module")
def browser():
    """Not for the whole session: Playwright keeps an event loop running, and the tests after these run their own."""
    sync_api = pytest.importorskip("playwright.sync_api", reason="no Python package playwright")
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        pytest.skip("no Chromium: apt install chromium, or name one with CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def server(comfy_server):
    data = pytest.importorskip("skimage.data")
    from media import murmur, write_picture, write_sound

    write_picture(comfy_server.base / "input" / "face.png", data.astronaut())
    write_sound(comfy_server.base / "input" / "voice.wav", murmur(1.0))
    return comfy_server


class Studio:
    """An open frontend. `problems`: everything that went wrong in the page and names this pack."""

    def __init__(self, browser, url: str):
        self.browser, self.url = browser, url
        self.problems: list[str] = []
        self.page = self._new_page()

    def _new_page(self):
        page = self.browser.new_page(viewport={"width": 1900, "height": 1200})
        page.on("console", lambda message: message.type == "error" and self._note(f"{message.text} {message.location}"))
        page.on("response", lambda reply: reply.status >= 400 and self._note(f"HTTP {reply.status}: {reply.url}"))
        page.on("pageerror", lambda error: self.problems.append(f"page error: {error}"))
        return page

    def _note(self, text: str) -> None:
        if "starcaster" in text.lower():
            self.problems.append(text)

    def forget(self) -> None:
        """Go on in a new page that remembers nothing of this one."""
        self.page.close()
        self.page = self._new_page()

    def open(self, template: str | None = None) -> None:
        """Open the frontend, with a template as the template list opens it."""
        self.page.goto(self.url)
        self.page.wait_for_function(READY, timeout=SLOW)
        assert self.page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__") == FRONTEND
        if template:
            self.page.evaluate(
                """async name => {
                    const file = `/workflow_templates/STARCaster/${encodeURIComponent(name)}.json`;
                    const workflow = await (await window.app.api.fetchApi(file)).json();
                    await window.app.loadGraphData(workflow, true, true, name);
                }""",
                template,
            )
            has_sampler = f"() => {GRAPH}?.nodes?.some(n => n.type === 'STARCaster_Sampler')"
            self.page.wait_for_function(has_sampler, timeout=SLOW)
            self.page.wait_for_timeout(1500)  # widgets of loaders arrive a moment later

    def prompt(self) -> dict:
        """What Run would post."""
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def workflow(self) -> dict:
        return self.page.evaluate(f"() => {GRAPH}.serialize()")

    def load(self, workflow: dict) -> None:
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        self.page.wait_for_timeout(1000)

    def set_widgets(self, values: dict[str, dict]) -> None:
        """values: {node type: {widget name: value}}"""
        self.page.evaluate(
            f"""values => {{
                for (const node of {GRAPH}.nodes)
                    for (const [name, value] of Object.entries(values[node.type] ?? {{}})) {{
                        const widget = node.widgets.find(w => w.name === name);
                        if (!widget) throw new Error(node.type + " has no widget " + name);
                        widget.value = value;
                        widget.callback?.(value);
                    }}
            }}""",
            values,
        )

    def widgets(self) -> dict:
        """{node id: {widget name: value}} of our own nodes."""
        return self.page.evaluate(
            f"""() => Object.fromEntries({GRAPH}.nodes.filter(n => n.type.startsWith("STARCaster_")).map(
                n => [n.id, Object.fromEntries((n.widgets ?? []).map(w => [w.name, w.value]))]))"""
        )


@pytest.fixture(params=["canvas", "nodes2"])
def studio(request, browser, server):
    """A fresh page in one of the two renderers."""
    settings = {
        "Comfy.VueNodes.Enabled": request.param == "nodes2",
        "Comfy.TutorialCompleted": True,
        "Comfy.InstalledVersion": FRONTEND,
    }
    server.post("/settings", settings)
    studio = Studio(browser, server.url)
    yield studio
    studio.page.close()
