"""Run the shipped workflows as they are and photograph the results: workflows/<name>.jpg, four moments of each video,
and docs/images/demo.jpg for the README: the portrait, then the first workflow's video, moment after moment.

make thumbnails
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import av
from comfy_server import ComfyServer
from PIL import Image
from provision_comfyui import REPO, provision

BANNER = REPO / "docs" / "images" / "demo.jpg"
SIDE = 512
MOMENTS = (0.1, 0.37, 0.63, 0.9)  # of the length


def main() -> None:
    with ComfyServer(provision()) as server:
        for workflow in sorted((REPO / "workflows").glob("*.json")):
            prompt = json.loads((workflow.parent / "api" / workflow.name).read_text())
            outcome = server.run(prompt, timeout=3600)
            if outcome.status != "success":
                sys.exit(f"{workflow.stem} ended with {outcome.status}: {outcome.message}")
            (video,) = [path for path in server.output_files(outcome) if path.suffix == ".mp4"]
            frames = read_frames(video)
            target = workflow.with_suffix(".jpg")
            square(frames).save(target, quality=88)
            print(target)
            if workflow.stem == "talking_portrait":
                BANNER.parent.mkdir(exist_ok=True)
                banner(REPO / "starcaster_core" / "assets" / "photo.webp", frames).save(BANNER, quality=88)
                print(BANNER)


def read_frames(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as file:
        return [frame.to_image() for frame in file.decode(video=0)]


def square(frames: list[Image.Image]) -> Image.Image:
    """Four moments, two by two."""
    half = SIDE // 2
    moments = [frames[int(moment * (len(frames) - 1))] for moment in MOMENTS]
    return tile(moments, half, columns=2)


def banner(portrait: Path, frames: list[Image.Image]) -> Image.Image:
    """The portrait that went in, then seven evenly spaced frames."""
    moments = [frames[index * (len(frames) - 1) // 7] for index in range(1, 8)]
    return tile([Image.open(portrait).convert("RGB"), *moments], SIDE // 3, columns=8)


def tile(pictures: list[Image.Image], side: int, columns: int) -> Image.Image:
    sheet = Image.new("RGB", (columns * side, -(-len(pictures) // columns) * side))
    for index, picture in enumerate(pictures):
        sheet.paste(
            picture.resize((side, side), Image.Resampling.LANCZOS), (index % columns * side, index // columns * side)
        )
    return sheet


if __name__ == "__main__":
    main()
