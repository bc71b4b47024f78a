"""Draw web/icon.png: a face, its voice as three arcs, and a star for the camera."""

from __future__ import annotations

import math
from pathlib import Path

from PIL import Image, ImageDraw

SIZE, SCALE = 256, 4
NAVY, SKIN, INK, GOLD = (24, 30, 54), (236, 196, 168), (40, 32, 48), (255, 202, 88)


def star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """Corners of a four-pointed star."""
    corners = []
    for index in range(8):
        angle, reach = math.pi * index / 4, radius if index % 2 == 0 else radius * 0.36
        corners.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    return corners


def draw() -> Image.Image:
    side = SIZE * SCALE
    image = Image.new("RGBA", (side, side), (0, 0, 0, 0))
    pen = ImageDraw.Draw(image)

    def box(x0: float, y0: float, x1: float, y1: float) -> list[float]:
        return [value * side for value in (x0, y0, x1, y1)]

    pen.rounded_rectangle(box(0, 0, 1, 1), radius=side * 0.2, fill=NAVY)
    pen.ellipse(box(0.16, 0.20, 0.66, 0.88), fill=SKIN)
    for x in (0.32, 0.50):
        pen.ellipse(box(x - 0.03, 0.46, x + 0.03, 0.54), fill=INK)
    pen.ellipse(box(0.34, 0.66, 0.48, 0.77), fill=INK)
    for step in range(3):
        reach = 0.08 + 0.08 * step
        middle = (0.62, 0.71)
        arc = box(middle[0] - reach, middle[1] - reach, middle[0] + reach, middle[1] + reach)
        pen.arc(arc, -35, 35, fill=GOLD, width=round(side * 0.028))
    pen.polygon([(x * side, y * side) for x, y in star(0.76, 0.26, 0.16)], fill=GOLD)
    return image.resize((SIZE, SIZE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    target = Path(__file__).resolve().parent.parent / "web" / "icon.png"
    draw().save(target, optimize=True)
    print(target)
