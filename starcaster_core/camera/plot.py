"""A picture of a camera path: the angles over time, and the way around the head seen from above."""

from __future__ import annotations

import numpy as np

from ..types import CameraPath
from .path import TRAINED_DISTANCE, TRAINED_YAW
from .poses import RADIUS, angles

BACKGROUND, PANEL, GRID, TEXT = (24, 25, 29), (33, 35, 41), (54, 57, 66), (164, 169, 182)
YAW, PITCH, START, END = (247, 170, 72), (92, 184, 255), (110, 231, 183), (244, 114, 182)
SKIN, BAND = (214, 200, 188), (43, 46, 54)
SUPERSAMPLE = 2


def plot_path(path: CameraPath, width: int = 640, height: int = 320) -> np.ndarray:
    """uint8 [height, width, 3], drawn for dark surroundings.

    Left, yaw and pitch in degrees over the seconds. Right, the path from above, the viewer of a frontal face at the
    bottom, running from green to pink; the lighter wedge is what the model was trained on.
    """
    from PIL import Image

    canvas = _Canvas(width, height)
    split = width - height
    _draw_angles(canvas, path, (8, 8, split - 4, height - 8))
    _draw_top(canvas, path, (split + 4, 8, width - 8, height - 8))
    return np.array(canvas.image.resize((width, height), Image.Resampling.BOX))


class _Canvas:
    """PIL drawing in final pixels on a picture SUPERSAMPLE times as large, so that lines come out smooth."""

    def __init__(self, width: int, height: int):
        from PIL import Image, ImageDraw, ImageFont

        self.image = Image.new("RGB", (width * SUPERSAMPLE, height * SUPERSAMPLE), BACKGROUND)
        self.pen = ImageDraw.Draw(self.image)
        self.font = ImageFont.load_default(size=11 * SUPERSAMPLE)

    def line(self, points, colour, width=1.0):
        pixels = [(float(x) * SUPERSAMPLE, float(y) * SUPERSAMPLE) for x, y in points]
        self.pen.line(pixels, fill=colour, width=max(1, round(width * SUPERSAMPLE)), joint="curve")

    def dot(self, centre, radius, colour, outline=None):
        x, y, r = (float(value) * SUPERSAMPLE for value in (*centre, radius))
        self.pen.ellipse((x - r, y - r, x + r, y + r), fill=colour, outline=outline, width=SUPERSAMPLE)

    def polygon(self, points, colour):
        self.pen.polygon([(float(x) * SUPERSAMPLE, float(y) * SUPERSAMPLE) for x, y in points], fill=colour)

    def panel(self, box):
        self.pen.rounded_rectangle([value * SUPERSAMPLE for value in box], 6 * SUPERSAMPLE, fill=PANEL)

    def text(self, place, words, colour=TEXT, anchor="lm"):
        self.pen.text([float(v) * SUPERSAMPLE for v in place], words, fill=colour, font=self.font, anchor=anchor)


def _draw_angles(canvas: _Canvas, path: CameraPath, box) -> None:
    canvas.panel(box)
    left, top, right, bottom = box[0] + 34, box[1] + 26, box[2] - 18, box[3] - 24
    yaw, pitch, _ = angles(path.world_from_cam)
    seconds = np.arange(path.frames) / float(path.fps)
    total = max(path.frames / float(path.fps), 1e-6)
    step = _tick(2 * max(np.abs(yaw).max(), np.abs(pitch).max(), 5), 6)
    reach = step * np.ceil(max(np.abs(yaw).max(), np.abs(pitch).max(), 5) / step)

    def at(time, degrees):
        return left + (right - left) * time / total, (top + bottom) / 2 - (bottom - top) / 2 * degrees / reach

    for value in np.arange(-reach, reach + step / 2, step):
        canvas.line([at(0, value), at(total, value)], TEXT if abs(value) < step / 2 else GRID, 0.5)
        canvas.text((left - 5, at(0, value)[1]), f"{value:g}\N{DEGREE SIGN}", anchor="rm")
    tick = _tick(total, 6)
    for value in np.arange(0, total + tick / 100, tick):
        canvas.line([at(value, -reach), at(value, reach)], GRID, 0.5)
        canvas.text((at(value, 0)[0], bottom + 11), f"{value:g} s", anchor="mm")
    for values, colour in ((pitch, PITCH), (yaw, YAW)):
        points = [at(time, value) for time, value in zip(seconds, values)]
        canvas.line([*points, at(total, values[-1])], colour, 2)
    for place, name, colour in ((left, "yaw", YAW), (left + 52, "pitch", PITCH)):
        canvas.line([(place, box[1] + 13), (place + 14, box[1] + 13)], colour, 2)
        canvas.text((place + 19, box[1] + 13), name)


def _draw_top(canvas: _Canvas, path: CameraPath, box) -> None:
    canvas.panel(box)
    centre = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    places = path.world_from_cam[:, [0, 2], 3].astype(np.float64)  # x to the right, z down: towards the viewer
    reach = max(np.abs(places).max(), RADIUS * TRAINED_DISTANCE[1])
    scale = ((box[2] - box[0]) / 2 - 16) / reach

    def at(place):
        return centre + np.asarray(place) * scale

    wedge = np.radians(np.linspace(-TRAINED_YAW, TRAINED_YAW, 49))
    rim = np.stack([np.sin(wedge), np.cos(wedge)], 1) * RADIUS
    near, far = TRAINED_DISTANCE
    canvas.polygon([*(at(p) for p in rim * far), *(at(p) for p in rim[::-1] * near)], BAND)
    circle = np.radians(np.linspace(0, 360, 97))
    canvas.line([at(p) for p in np.stack([np.sin(circle), np.cos(circle)], 1) * RADIUS], GRID, 0.5)
    _draw_head(canvas, centre, scale)
    for part, (a, b) in zip(np.linspace(0, 1, max(len(places) - 1, 1)), zip(places, places[1:])):
        canvas.line([at(a), at(b)], _between(START, END, part), 2.5)
    for index, colour in ((-1, END), (0, START)):
        _draw_camera(canvas, at(places[index]), centre, colour)
    canvas.text((box[0] + 10, box[1] + 13), "from above")
    canvas.text((box[2] - 10, box[1] + 13), f"{path.frames} frames", anchor="rm")
    canvas.dot((box[0] + 14, box[3] - 13), 3, START)
    canvas.text((box[0] + 21, box[3] - 13), "start")
    canvas.dot((box[2] - 34, box[3] - 13), 3, END)
    canvas.text((box[2] - 27, box[3] - 13), "end")


def _draw_head(canvas: _Canvas, centre: np.ndarray, scale: float) -> None:
    """A head from above, its nose towards the viewer; about as large as FFHQ heads are at the usual distance."""
    size = 0.3 * scale
    turn = np.radians(np.linspace(0, 360, 49))
    canvas.polygon(
        [centre + size * np.array([0, 1.28]) + size * np.array(p) for p in ((-0.2, -0.4), (0, 0), (0.2, -0.4))], SKIN
    )
    for side in (-1, 1):
        canvas.dot(centre + size * np.array([side * 0.86, -0.05]), size * 0.2, SKIN)
    canvas.polygon(centre + size * np.stack([0.84 * np.sin(turn), 1.04 * np.cos(turn)], 1), SKIN)


def _draw_camera(canvas: _Canvas, place: np.ndarray, centre: np.ndarray, colour) -> None:
    """A small camera whose lens, the open side of the wedge, looks at the head."""
    ahead = (centre - place) / max(float(np.linalg.norm(centre - place)), 1e-6)
    aside = np.array([-ahead[1], ahead[0]])
    canvas.polygon(
        [place, place + 11 * ahead + 6 * aside, place + 11 * ahead - 6 * aside], _between(PANEL, colour, 0.55)
    )
    canvas.dot(place, 4.5, colour, BACKGROUND)


def _between(a, b, part: float) -> tuple[int, int, int]:
    return tuple(round((1 - part) * x + part * y) for x, y in zip(a, b))


def _tick(span: float, most: int) -> float:
    """The roundest step that divides a span into at most about `most` parts."""
    rough = span / most
    magnitude = 10 ** np.floor(np.log10(rough))
    return float(min(m * magnitude for m in (1, 2, 2.5, 5, 10) if m * magnitude >= rough * 0.999))
