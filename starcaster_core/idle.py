"""What a head does besides speaking: it turns, blinks, glances about and moves its brows.

Neither sound nor portrait decides this, and a network that learns by squared error draws the mean of what is left open: a
head that keeps still, with soft eyes. So a small one is told (`UNetConfig.idle_dim`): in training how the clip's head moves,
in sampling what `idle_motion` draws, smooth random numbers of the same kind. docs/decisions/0011.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

IDLE = ("yaw", "pitch", "roll", "blink", "gaze_right", "gaze_up", "brows")
TURNS = 3  # the first of them, meant from the portrait's pose
USUAL_TURN = np.array([5.5, 2.8, 1.8])  # degrees of yaw, pitch, roll; one of IDLE's units
MOST_TURN = np.array([15.0, 8.0, 5.0])
BLINK, GAZE, BROWS = 2.0, 4.0, 4.0  # IDLE's units for an expression weight of one
EYE_DEGREES = 28.0  # gaze angle at full weight of a look unit, about
USUAL_LIVELINESS = 0.8  # the training clips have 0.35 to 1.2


def idle_motion(seed: int, start: int, frames: int, fps: float, liveliness: float = 1.0) -> Tensor:
    """What the head does in frames start .. start + frames - 1 of the video of this seed, float32 [frames, len(IDLE)].

    Turns are meant from the portrait's pose, in units of USUAL_TURN; the others from a straight look with open eyes. Any
    stretch of a video can be asked for by itself. liveliness: of turns, glances and brows; at 0 heads do not blink either.
    """
    if not liveliness:
        return torch.zeros(frames, len(IDLE))
    times = (start + np.arange(frames) + 0.5) / fps
    turning, blinking, glancing, browsing = (np.random.default_rng([seed, key, 0x1D7E]) for key in range(4))
    degrees = liveliness * USUAL_LIVELINESS * USUAL_TURN * drift(turning, times, 3)
    degrees = MOST_TURN * np.tanh(degrees / MOST_TURN)
    gaze = look(min(liveliness, 1.0) * glances(glancing, times), degrees)
    blink = blinks(blinking, np.append(times, times[-1] + 0.1))[:-1]  # one about to begin shows in the last frame
    brows = liveliness * 0.12 * drift(browsing, times, 1)
    return torch.from_numpy(in_units(degrees, blink, gaze, brows))


def in_units(degrees: np.ndarray, blink: np.ndarray, gaze: np.ndarray, brows: np.ndarray) -> np.ndarray:
    """degrees [T, 3] of yaw, pitch, roll from the portrait's; blink [T], gaze [T, 2] and brows [T, 1] as expression
    weights -> float32 [T, len(IDLE)], each of about unit variance"""
    columns = [degrees / USUAL_TURN, BLINK * blink[:, None], GAZE * gaze, BROWS * brows]
    return np.concatenate(columns, axis=1).astype(np.float32)


def turns(idle: Tensor) -> Tensor:
    """How the head has turned from the portrait's pose: idle [..., len(IDLE)] -> rotations float32 [..., 3, 3]"""
    return rotations(idle[..., :3] * torch.tensor(USUAL_TURN, dtype=torch.float32, device=idle.device))


def rotations(degrees: Tensor) -> Tensor:
    """Head turns [..., 3] of yaw (to the subject's left), pitch (up), roll (image-anticlockwise) -> float32 [..., 3, 3]."""
    yaw, pitch, roll = torch.deg2rad(degrees.double()).unbind(dim=-1)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrices(*rows):
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    turn = matrices((cy, zero, sy), (zero, one, zero), (-sy, zero, cy))
    nod = matrices((one, zero, zero), (zero, cp, sp), (zero, -sp, cp))
    tilt = matrices((cr, -sr, zero), (sr, cr, zero), (zero, zero, one))
    return (turn @ nod @ tilt).float()


def drift(rng: np.random.Generator, times: np.ndarray, channels: int) -> np.ndarray:
    """Smooth noise [T, channels] of about unit variance: a few slow sines of `times` [T], seconds."""
    total = np.zeros((len(times), channels))
    for low, high, size in ((0.05, 0.15, 1.0), (0.2, 0.45, 0.75), (0.5, 0.9, 0.32)):
        rate, phase = rng.uniform(low, high, channels), rng.uniform(0, 2 * np.pi, channels)
        total += size * np.sin(2 * np.pi * times[:, None] * rate + phase)
    return total * 1.1


def glances(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Degrees [T, 2] to the image's right and up: small sudden saccades, and straight ahead in between."""
    gaze, now, t = np.zeros((len(times), 2)), np.zeros(2), 0.0
    while t < times[-1]:
        stay = rng.uniform(0.5, 2.0)
        gaze[(times >= t) & (times < t + stay)] = now
        now = rng.normal(0, 1, 2) * [5.0, 3.0] * (rng.random() < 0.6)
        t += stay
    return gaze


def look(glances: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Eye weights [T, 2], right and up: gaze is mostly kept on the viewer against the head's turn, degrees [T, 3]."""
    return np.clip((glances - 0.8 * degrees[:, :2]) / EYE_DEGREES, [-0.8, -0.6], [0.8, 0.6])


def blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Blink weight [T]: down in 80 ms, up in 160 ms, every few seconds."""
    blink, t = np.zeros(len(times)), rng.uniform(0, 3.5)
    while t < times[-1]:
        since = times - t
        down = np.clip(1 + since / 0.08, 0, 1)
        up = np.clip(1 - since / 0.16, 0, 1)
        blink = np.maximum(blink, np.where(since < 0, down, up))
        t += rng.uniform(1.6, 5.0)
    return blink * blink * (3 - 2 * blink)
