"""Run the shipped workflows as they are and photograph the results: workflows/<name>.jpg, four moments of each video.

make thumbnails
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from comfy_server import ComfyServer
from provision_comfyui import REPO, provision

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
            target = workflow.with_suffix(".jpg")
            photograph(video).save(target, quality=88)
            print(target)


def photograph(video: Path):
    """Four frames of a video in a square."""
    import av
    from PIL import Image

    with av.open(str(video)) as file:
        frames = [frame.to_image() for frame in file.decode(video=0)]
    sheet = Image.new("RGB", (SIDE, SIDE))
    half = SIDE // 2
    for index, moment in enumerate(MOMENTS):
        frame = frames[int(moment * (len(frames) - 1))].resize((half, half), Image.Resampling.LANCZOS)
        sheet.paste(frame, (index % 2 * half, index // 2 * half))
    return sheet


if __name__ == "__main__":
    main()
