"""A training log as a picture: the loss over the steps, both on a logarithmic scale."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

WIDTH, HEIGHT, MARGIN = 640, 320, 40


def draw_curve(log: Path, picture: Path, column: str = "loss") -> None:
    """Draws `column` of a CSV from `loop.train` as a PNG; nothing for a log too short for a line, or without Pillow."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:  # it comes with ComfyUI, but training does without
        return
    steps, values = read_column(log, column)
    if len(steps) < 2:
        return
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    x, y = (_scaled(np.log(np.maximum(series, 1e-9))) for series in (steps, values))
    points = np.column_stack([MARGIN + x * (WIDTH - 2 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)])
    pen.rectangle([MARGIN, MARGIN, WIDTH - MARGIN, HEIGHT - MARGIN], outline="#bbbbbb")
    pen.line([tuple(point) for point in points], fill="#2b6cb0", width=2)
    for place, text in (
        ((MARGIN, HEIGHT - MARGIN + 4), f"step {steps[0]:.0f}"),
        ((WIDTH - MARGIN - 60, HEIGHT - MARGIN + 4), f"step {steps[-1]:.0f}"),
        (
            (MARGIN, MARGIN - 14),
            f"{column}: {values[0]:.4g} at first, {values[-1]:.4g} at last, {values.min():.4g} at best",
        ),
    ):
        pen.text(place, text, fill="black")
    unfinished = picture.with_suffix(".part.png")
    image.save(unfinished)
    unfinished.replace(picture)


def read_column(log: Path, column: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values [N] of a log; empty where there is no log yet."""
    if not log.exists():
        return np.empty(0), np.empty(0)
    with log.open(newline="") as file:
        rows = [(float(row["step"]), float(row[column])) for row in csv.DictReader(file)]
    return tuple(np.array(rows).reshape(-1, 2).T)


def _scaled(series: np.ndarray) -> np.ndarray:
    """To 0 .. 1."""
    return (series - series.min()) / max(np.ptp(series), 1e-9)
