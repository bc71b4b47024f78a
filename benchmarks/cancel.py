"""How long does ComfyUI's Cancel take, in each phase of a render?

    python benchmarks/cancel.py --out benchmarks/results/cancel.json

A real server, `mini`, a voice of a minute. Cancel is pressed DELAY seconds after a node has begun, and the time is
taken until the server says that the prompt is interrupted. Every time another seed or sound makes the nodes run again.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

REPO = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(REPO / "scripts"), str(REPO / "tests" / "comfy")]

from comfy_server import ComfyServer  # noqa: E402
from provision_comfyui import locate  # noqa: E402

SECONDS, DELAY = 60, 0.4
PHASES = ("STARCaster_AudioEncoder", "STARCaster_Sampler", "STARCaster_Decode", "STARCaster_VideoCombine")


def graph(seconds: float, seed: int, voice: str) -> dict:
    """Return the talking portrait's prompt with a Decode beside Video Combine."""
    prompt = json.loads((REPO / "workflows" / "api" / "talking_portrait.json").read_text())
    kinds = {node["class_type"]: key for key, node in prompt.items()}
    prompt[kinds["LoadAudio"]]["inputs"]["audio"] = voice
    prompt[kinds["STARCaster_AudioEncoder"]]["inputs"]["max_seconds"] = seconds
    prompt[kinds["STARCaster_Sampler"]]["inputs"] |= {"seed": seed}
    combine = prompt[kinds["STARCaster_VideoCombine"]]["inputs"]
    decode = {name: combine[name] for name in ("samples", "model", "identity")} | {"frame": "face", "size": 0}
    prompt["90"] = {"class_type": "STARCaster_Decode", "inputs": decode}
    prompt["91"] = {"class_type": "PreviewImage", "inputs": {"images": ["90", 0]}}
    return prompt


def only(prompt: dict, phase: str) -> dict:
    """Return the prompt without the output node that would run beside a phase."""
    unwanted = ("STARCaster_VideoCombine",) if phase == "STARCaster_Decode" else ("STARCaster_Decode", "PreviewImage")
    return {key: node for key, node in prompt.items() if node["class_type"] not in unwanted}


def seconds_to_cancel(server: ComfyServer, prompt: dict, phase: str) -> float | None:
    """Run a prompt, press Cancel in a phase, and return how long it took; None where the phase was over before."""
    (node,) = [key for key, one in prompt.items() if one["class_type"] == phase]
    pressed: list[float] = []

    def press() -> None:
        pressed.append(time.monotonic())
        server.interrupt()

    def follow(kind: str, data: dict) -> None:
        if kind == "executing" and data.get("node") == node:
            threading.Timer(DELAY, press).start()

    outcome = server.run(prompt, on_event=follow)
    return time.monotonic() - pressed[0] if outcome.status == "interrupted" and pressed else None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    from media import murmur, write_sound

    results: dict[str, list[float]] = {}
    with ComfyServer(locate()) as server:
        for seed in range(1, args.times + 1):
            sound = murmur(SECONDS) * (1 - 0.01 * seed)
            write_sound(server.base / "input" / f"voice{seed}.wav", sound.astype(np.float32))
            for phase in PHASES:
                seconds = SECONDS if phase in PHASES[:2] else 8.0  # sampled first
                prompt = only(graph(seconds, 10 * seed + PHASES.index(phase), f"voice{seed}.wav"), phase)
                took = seconds_to_cancel(server, prompt, phase)
                if took is not None:
                    results.setdefault(phase.removeprefix("STARCaster_"), []).append(round(took, 2))
                print(json.dumps({"phase": phase, "seconds": took}), flush=True)
    args.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
