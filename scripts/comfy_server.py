"""A real ComfyUI server with this pack linked into it, for the demo and the tests.

    with ComfyServer(locate()) as server:
        done = server.run(prompt, on_event=print)     # API-format prompt; returns when it finished
        path = server.output_files(done)[0]

The server lives on a free loopback port with a temporary base folder, and ends with the block.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from provision_comfyui import REPO, Install

PACK = "STARCaster"
START_SECONDS = 600  # generous: the first start on a busy machine compiles and reads gigabytes
PREVIEW_KINDS = (1, 2, 4)  # of the binary messages; 3 is text
NODE_TEXT = 3  # protocol.BinaryEventTypes.TEXT


class PromptRefused(Exception):
    """The server did not accept a prompt. `errors` is its `node_errors`, by node id."""

    def __init__(self, body: dict):
        self.errors = body.get("node_errors") or {}
        super().__init__(json.dumps(body)[:2000])


@dataclass
class Outcome:
    """How a prompt ended: `status` is "success", "error" or "interrupted"."""

    prompt_id: str
    status: str
    detail: dict
    history: dict = field(default_factory=dict)
    previews: int = 0
    texts: list[tuple[str, str]] = field(default_factory=list)  # node and sentence, as shown below the node

    @property
    def message(self) -> str:
        """The sentence ComfyUI shows to the user."""
        return self.detail.get("exception_message", "").strip()


class ComfyServer:
    """Starts on entering the block, stops on leaving it. `base` holds models, input, output, user."""

    def __init__(self, install: Install, arguments: tuple[str, ...] = (), environment: dict[str, str] | None = None):
        self.install, self.arguments, self.environment = install, arguments, environment or {}
        self.base = Path(tempfile.mkdtemp(prefix="starcaster-comfy-"))
        self.log_path = self.base / "server.log"
        self.port = free_port()
        self.process: subprocess.Popen | None = None
        self._log: IO | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> ComfyServer:
        nodes = self.base / "custom_nodes"
        for folder in (nodes, self.base / "input", self.base / "models" / "starcaster"):
            folder.mkdir(parents=True, exist_ok=True)
        if not (nodes / PACK).exists():
            (nodes / PACK).symlink_to(REPO, target_is_directory=True)
        command = [self.install.python, "main.py", "--listen", "127.0.0.1", "--port", self.port,
                   "--base-directory", self.base, "--disable-api-nodes", "--disable-auto-launch",
                   "--database-url", f"sqlite:///{self.base / 'comfyui.db'}",
                   *([] if has_gpu(self.install.python) else ["--cpu"]), *self.arguments]  # fmt: skip
        self._log = open(self.log_path, "wb")
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "HF_HUB_OFFLINE": "1", **self.environment}
        self.process = subprocess.Popen(
            [str(part) for part in command],
            cwd=self.install.comfyui,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env=environment,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.__exit__(RuntimeError, None, None)
            raise
        return self

    def __exit__(self, kind, error, trace) -> None:
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        if self._log:
            self._log.close()
        if kind is not None and self.log_path.exists():
            kept = Path(tempfile.gettempdir()) / f"starcaster-server-{self.port}.log"
            shutil.copy(self.log_path, kept)
            print(f"The server's log is kept in {kept}")
        shutil.rmtree(self.base, ignore_errors=True)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended while starting:\n{self.log_tail()}")
            try:
                self.get("/system_stats")
                return
            except OSError:
                time.sleep(0.3)
        raise TimeoutError(f"ComfyUI did not answer within {START_SECONDS} s:\n{self.log_tail()}")

    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def log_tail(self, lines: int = 40) -> str:
        return "\n".join(self.log().splitlines()[-lines:])

    # HTTP

    def get(self, path: str) -> dict:
        with urllib.request.urlopen(self.url + path, timeout=30) as reply:
            return json.load(reply)

    def post(self, path: str, body: dict) -> dict:
        data = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as reply:
            text = reply.read()
        return json.loads(text) if text else {}

    def interrupt(self) -> None:
        self.post("/interrupt", {})

    def upload(self, source: Path, name: str | None = None) -> str:
        """Put a file where the loaders find it; returns the name to use in a workflow."""
        name = name or Path(source).name
        shutil.copyfile(source, self.base / "input" / name)
        return name

    # Prompts

    def run(self, prompt: dict, on_event: Callable[[str, dict], None] | None = None, timeout: float = 900) -> Outcome:
        """Queue an API-format prompt and follow it over the WebSocket until it ends.

        on_event: called with each message's type and data; previews come as type "preview". It may raise to stop
            following, or call `interrupt`.
        """
        return asyncio.run(asyncio.wait_for(self._run(prompt, on_event or (lambda kind, data: None)), timeout))

    async def _run(self, prompt: dict, on_event: Callable[[str, dict], None]) -> Outcome:
        import aiohttp  # one of ComfyUI's own requirements

        client = uuid.uuid4().hex
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(f"{self.url}/ws?clientId={client}", max_msg_size=0) as socket_,
        ):
            async with session.post(f"{self.url}/prompt", json={"prompt": prompt, "client_id": client}) as reply:
                body = await reply.json()
                if reply.status != 200:
                    raise PromptRefused(body)
            outcome = Outcome(body["prompt_id"], "lost", {})
            async for message in socket_:
                if message.type == aiohttp.WSMsgType.BINARY:
                    if int.from_bytes(message.data[:4], "big") in PREVIEW_KINDS:
                        outcome.previews += 1
                        on_event("preview", {"bytes": len(message.data)})
                    elif int.from_bytes(message.data[:4], "big") == NODE_TEXT:
                        node_end = 8 + int.from_bytes(message.data[4:8], "big")
                        outcome.texts.append((message.data[8:node_end].decode(), message.data[node_end:].decode()))
                    continue
                if message.type != aiohttp.WSMsgType.TEXT:
                    break
                event = json.loads(message.data)
                kind, data = event["type"], event.get("data") or {}
                on_event(kind, data)
                if data.get("prompt_id") == outcome.prompt_id and kind in ENDINGS:
                    outcome.status, outcome.detail = ENDINGS[kind], data
                    break
            else:
                raise ConnectionError(f"The server closed the connection:\n{self.log_tail()}")
        outcome.history = self._history(outcome.prompt_id)
        return outcome

    def _history(self, prompt_id: str) -> dict:
        """The prompt's record, which the server writes just after its last message."""
        for _ in range(50):
            record = self.get(f"/history/{prompt_id}").get(prompt_id)
            if record:
                return record
            time.sleep(0.1)
        return {}

    def output_files(self, outcome: Outcome) -> list[Path]:
        """All files that the prompt's output nodes reported."""
        folders = {"output": self.base / "output", "temp": self.base / "temp", "input": self.base / "input"}
        files = []
        for node in outcome.history.get("outputs", {}).values():
            for items in node.values():
                for item in items:
                    if isinstance(item, dict) and "filename" in item:
                        files.append(folders[item["type"]] / item["subfolder"] / item["filename"])
        return files


ENDINGS = {"execution_success": "success", "execution_error": "error", "execution_interrupted": "interrupted"}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def has_gpu(python: Path) -> bool:
    """Whether the server should use CUDA. STARCASTER_CPU=1 says no."""
    if os.environ.get("STARCASTER_CPU") or not shutil.which("nvidia-smi"):
        return False
    probe = "import torch; raise SystemExit(not torch.cuda.is_available())"
    return subprocess.run([str(python), "-c", probe], capture_output=True).returncode == 0
