"""A talking portrait from nothing: start ComfyUI with this pack, run a shipped workflow, keep the video.

make demo
make demo DEMO_ARGS="--portrait me.png --speech hello.wav --out output/me.mp4"
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import sys
import time
from pathlib import Path

from comfy_server import ComfyServer, Outcome
from provision_comfyui import REPO, provision


def main() -> None:
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("[demo] stopped"))  # leave through the server's `with` block
    prompt = json.loads((REPO / "workflows" / "api" / f"{options.workflow}.json").read_text())
    install = provision()
    say(f"starting ComfyUI in {install.comfyui}")
    with ComfyServer(install) as server:
        if options.portrait:
            set_input(prompt, "LoadImage", "image", server.upload(options.portrait))
        if options.speech:
            set_input(prompt, "LoadAudio", "audio", server.upload(options.speech))
        if options.seconds:
            set_input(prompt, "STARCaster_AudioEncoder", "max_seconds", options.seconds)
        if options.seed is not None:
            set_input(prompt, "STARCaster_Sampler", "seed", options.seed)
        started = time.monotonic()
        outcome = server.run(prompt, on_event=Reporter(prompt), timeout=3600)
        print(file=sys.stderr)
        if outcome.status != "success":
            sys.exit(f"The workflow ended with {outcome.status}: {outcome.message or server.log_tail()}")
        video = finished_video(server, outcome)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(video, options.out)
    say(f"{options.out} after {time.monotonic() - started:.0f} s of rendering")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Render a talking portrait inside a real ComfyUI.")
    parser.add_argument("--workflow", default="talking_portrait", help="name of a file in workflows/api")
    parser.add_argument("--portrait", type=Path, help="a photo, instead of the shipped portrait")
    parser.add_argument("--speech", type=Path, help="a recording, instead of the shipped voice")
    parser.add_argument("--seconds", type=float, help="use only so much of the recording")
    parser.add_argument("--seed", type=int, help="another seed than the workflow's")
    parser.add_argument("--out", type=Path, default=REPO / "output" / "demo.mp4", help="where the video goes")
    return parser.parse_args()


def set_input(prompt: dict, class_type: str, name: str, value: object) -> None:
    """Change one input of every node of a type."""
    for node in prompt.values():
        if node["class_type"] == class_type:
            node["inputs"][name] = value


def finished_video(server: ComfyServer, outcome: Outcome) -> Path:
    videos = [path for path in server.output_files(outcome) if path.suffix == ".mp4"]
    if len(videos) != 1:
        sys.exit(f"Wanted one .mp4 from the workflow, got {[path.name for path in videos]}")
    return videos[0]


class Reporter:
    """Prints which node works and how far it is, on one line."""

    def __init__(self, prompt: dict):
        self.names = {key: node["class_type"].removeprefix("STARCaster_") for key, node in prompt.items()}

    def __call__(self, kind: str, data: dict) -> None:
        if kind == "executing" and data.get("node") in self.names:
            print(f"\r{self.names[data['node']]:<24}", end="", file=sys.stderr, flush=True)
        elif kind == "progress" and data.get("node") in self.names:
            name = self.names[data["node"]]
            print(f"\r{name:<18} {data['value']:>4}/{data['max']:<4} ", end="", file=sys.stderr, flush=True)


def say(message: str) -> None:
    print(f"[demo] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
