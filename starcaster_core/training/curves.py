"""What a training says of itself: a CSV, TensorBoard's events where it is installed, a picture of the curves, and a
line on the terminal."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import numpy as np

from ..files import atomic_write

WIDTH, HEIGHT, MARGIN = 640, 200, 40  # of one curve
NO_CURVES = ("step", "minutes", "rate", "is_temporal")


def last_row(log: Path) -> dict:
    """Return how many steps and minutes a training took, from its CSV."""
    with log.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    return {"steps": int(float(last["step"])), "minutes": float(last["minutes"])}


class Log:
    """`folder/name.csv` and what is made of it. step: where the run stands; rows from beyond, of a run that was cut off
    before it could save, are dropped."""

    def __init__(self, folder: Path, name: str, step: int = 0):
        self.path, self.name = folder / f"{name}.csv", name
        self.board = open_board(folder / "tensorboard" / name)
        self.terminal = sys.stderr.isatty()
        self.drop_rows_after(step)

    def write(self, row: dict[str, float], done: float) -> None:
        """Write a row: step, minutes, rate, then what was measured. done: fraction of the budget."""
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(row)
            writer.writerow([f"{value:.6g}" for value in row.values()])
        if self.board:
            for key, value in row.items():
                if key != "step":
                    self.board.add_scalar(key, value, int(row["step"]))
        if not self.terminal:
            left = row["minutes"] * (1 / max(done, 1e-6) - 1)
            told = {key: round(value, 5) for key, value in row.items()} | {"minutes_left": round(left, 1)}
            print(self.name, json.dumps(told), flush=True)

    def show_progress(self, step: int, loss: float, done: float, seconds: float) -> None:
        """Rewrite one line on a terminal; elsewhere the rows of `write` have to do."""
        if self.terminal:
            end = "\n" if done >= 1 else ""
            print(f"\r{progress_line(self.name, step, loss, done, seconds)}", end=end, file=sys.stderr, flush=True)

    def draw(self) -> None:
        if self.board:
            self.board.flush()
        if self.terminal:
            print(file=sys.stderr)
        draw_curves(self.path, self.path.with_suffix(".png"))

    def drop_rows_after(self, step: int) -> None:
        if self.path.exists():
            with self.path.open(newline="", encoding="utf-8") as file:
                head, *rows = csv.reader(file)
            kept = [row for row in rows if float(row[0]) <= step]
            if len(kept) < len(rows):
                with self.path.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerows([head, *kept])


def progress_line(name: str, step: int, loss: float, done: float, seconds: float, width: int = 24) -> str:
    """Format progress: "1-motion [######..................]  25%  step 120  loss 0.3412  2:10 left"."""
    filled = round(width * min(done, 1.0))
    minutes, rest = divmod(round(seconds * (1 / max(done, 1e-6) - 1)), 60)
    bar = "#" * filled + "." * (width - filled)
    return f"{name} [{bar}] {done:4.0%}  step {step}  loss {loss:.4g}  {minutes}:{rest:02} left "


def open_board(folder: Path):
    """Return a writer of TensorBoard's events; None without TensorBoard."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(folder)


def draw_curves(log: Path, picture: Path) -> None:
    """Draw the columns of a CSV as a PNG, one below the other, over the steps; steps and positive values on logarithmic
    scales. Nothing for a log too short for a line, or without Pillow."""
    try:
        from PIL import Image, ImageDraw
    except ImportError:  # it comes with ComfyUI, but training does without
        return
    columns = read_log(log)
    steps = columns.get("step", np.empty(0))
    if len(steps) < 2:
        return
    curves = {name: values for name, values in columns.items() if name not in NO_CURVES}
    image = Image.new("RGB", (WIDTH, HEIGHT * len(curves)), "white")
    pen = ImageDraw.Draw(image)
    for number, (name, values) in enumerate(curves.items()):
        draw_curve(pen, HEIGHT * number, name, steps, values)
    with atomic_write(picture) as part:
        image.save(part, format="PNG")


def draw_curve(pen, top: int, name: str, steps: np.ndarray, values: np.ndarray) -> None:
    bottom = top + HEIGHT
    y = np.log(np.maximum(values, 1e-9)) if values.min() > 0 else values
    x, y = _scaled(np.log(np.maximum(steps, 1e-9))), _scaled(y)
    points = np.column_stack([MARGIN + x * (WIDTH - 2 * MARGIN), bottom - MARGIN - y * (HEIGHT - 2 * MARGIN)])
    pen.rectangle([MARGIN, top + MARGIN, WIDTH - MARGIN, bottom - MARGIN], outline="#bbbbbb")
    pen.line([tuple(point) for point in points], fill="#2b6cb0", width=2)
    facts = f"{name}: {values[0]:.4g} at first, {values[-1]:.4g} at last, {values.min():.4g} to {values.max():.4g}"
    pen.text((MARGIN, top + MARGIN - 14), facts, fill="black")
    pen.text((MARGIN, bottom - MARGIN + 4), f"step {steps[0]:.0f}", fill="black")
    pen.text((WIDTH - MARGIN - 60, bottom - MARGIN + 4), f"step {steps[-1]:.0f}", fill="black")


def read_log(log: Path) -> dict[str, np.ndarray]:
    """Return every column of a log, [N]; nothing where there is no log yet."""
    if not log.exists():
        return {}
    with log.open(newline="", encoding="utf-8") as file:
        head, *rows = csv.reader(file)
    return dict(zip(head, np.array(rows, dtype=float).reshape(-1, len(head)).T))


def _scaled(series: np.ndarray) -> np.ndarray:
    """To 0 .. 1."""
    return (series - series.min()) / max(np.ptp(series), 1e-9)
