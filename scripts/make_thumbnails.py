"""Run the shipped workflows as they are and keep the results: workflows/<name>.jpg, the beginning of each video, and
docs/images/demo.jpg for the README: the portrait, then the talking portrait's video, moment after moment.

ComfyUI asks for cards by the name .jpg. They are animated WebP all the same: browsers look at what is in a file.

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
CARD_SIDE, CARD_SECONDS, CARD_QUALITY = 320, 3.0, 55
EVERY = 2  # frames of a video that are a card's one
FPS = 25


def main() -> None:
    with ComfyServer(provision()) as server:
        for workflow in sorted((REPO / "workflows").glob("*.json")):
            name = workflow.stem.lower().replace(" ", "_")
            prompt = json.loads((workflow.parent / "api" / f"{name}.json").read_text())
            outcome = server.run(prompt, timeout=3600)
            if outcome.status != "success":
                sys.exit(f"{workflow.stem} ended with {outcome.status}: {outcome.message}")
            (video,) = [path for path in server.output_files(outcome) if path.suffix == ".mp4"]
            frames = read_frames(video)
            target = workflow.with_suffix(".jpg")
            save_card(frames, target)
            print(target)
            if name == "talking_portrait":
                BANNER.parent.mkdir(exist_ok=True)
                banner(REPO / "starcaster_core" / "assets" / "photo.webp", frames).save(BANNER, quality=88)
                print(BANNER)


def read_frames(video: Path) -> list[Image.Image]:
    with av.open(str(video)) as file:
        return [frame.to_image() for frame in file.decode(video=0)]


def save_card(frames: list[Image.Image], target: Path) -> None:
    """Write the beginning of a video as an animated WebP."""
    moving = frames[: round(CARD_SECONDS * FPS) : EVERY]
    small = [frame.resize((CARD_SIDE, CARD_SIDE), Image.Resampling.LANCZOS) for frame in moving]
    options = {"duration": 1000 * EVERY // FPS, "loop": 0, "quality": CARD_QUALITY, "method": 6}
    small[0].save(target, "WEBP", save_all=True, append_images=small[1:], **options)


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
