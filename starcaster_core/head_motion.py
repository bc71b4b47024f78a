"""How a head moves besides speaking: it turns, blinks, glances about and moves its brows.

Neither sound nor portrait decides this. A network that learns by squared error draws the mean of what is left open: a still
head with soft eyes. So `mini` is given head motion as a condition (`models/extensions/head_motion.py`): in training the
clip's own, in sampling what `random_head_motion` draws. docs/decisions/0004.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .conventions import smoothstep

CHANNELS = ("yaw", "pitch", "roll", "blink", "gaze_right", "gaze_up", "brows")
POSE_CHANNELS = 3  # the first of them, relative to the portrait's pose
POSE_STD = np.array([5.5, 2.8, 1.8])  # degrees of yaw, pitch, roll; one unit of CHANNELS
POSE_LIMIT = np.array([15.0, 8.0, 5.0])  # degrees
BLINK, GAZE, BROWS = 2.0, 4.0, 4.0  # units of CHANNELS for an expression weight of one
EYE_DEGREES = 28.0  # gaze angle at full weight of a look unit, about
USUAL_AMOUNT = 0.8  # the training clips have 0.35 to 1.2


def random_head_motion(seed: int, start: int, frames: int, fps: float, amount: float = 1.0) -> Tensor:
    """Draw the head motion of frames start .. start + frames - 1 of a video, float32 [frames, len(CHANNELS)].

    Pose is relative to the portrait's, in units of POSE_STD; the others to a straight look with open eyes. Any stretch of a
    video can be asked for by itself. amount: of pose, gaze and brows, 0..2; at 0 the head keeps still and does not blink.
    """
    if not amount:
        return torch.zeros(frames, len(CHANNELS))
    times = (start + np.arange(frames) + 0.5) / fps
    pose_rng, blink_rng, gaze_rng, brow_rng = (np.random.default_rng([seed, key, 0x1D7E]) for key in range(4))
    degrees = amount * USUAL_AMOUNT * POSE_STD * drift(pose_rng, times, 3)
    degrees = POSE_LIMIT * np.tanh(degrees / POSE_LIMIT)
    gaze = look(min(amount, 1.0) * glances(gaze_rng, times), degrees)
    blink = blinks(blink_rng, np.append(times, times[-1] + 0.1))[:-1]  # one about to begin shows in the last frame
    brows = amount * 0.12 * drift(brow_rng, times, 1)
    return torch.from_numpy(normalise(degrees, blink, gaze, brows))


def normalise(degrees: np.ndarray, blink: np.ndarray, gaze: np.ndarray, brows: np.ndarray) -> np.ndarray:
    """Scale head motion to about unit variance, float32 [T, len(CHANNELS)].

    degrees [T, 3]: yaw, pitch, roll relative to the portrait's. blink [T], gaze [T, 2], brows [T, 1]: expression weights.
    """
    columns = [degrees / POSE_STD, BLINK * blink[:, None], GAZE * gaze, BROWS * brows]
    return np.concatenate(columns, axis=1).astype(np.float32)


def head_rotations(head_motion: Tensor) -> Tensor:
    """Return the head's rotation from the portrait's pose: [..., len(CHANNELS)] -> float32 [..., 3, 3]."""
    pose = head_motion[..., :POSE_CHANNELS]
    return rotations(pose * torch.tensor(POSE_STD, dtype=torch.float32, device=pose.device))


def rotations(degrees: Tensor) -> Tensor:
    """Return the rotation of yaw (to the subject's left), pitch (up), roll (image-anticlockwise).

    degrees [..., 3] -> float32 [..., 3, 3].
    """
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
    """Draw smooth noise [T, channels] of about unit variance: a few slow sines of `times` [T], seconds."""
    total = np.zeros((len(times), channels))
    for low, high, size in ((0.05, 0.15, 1.0), (0.2, 0.45, 0.75), (0.5, 0.9, 0.32)):
        rate, phase = rng.uniform(low, high, channels), rng.uniform(0, 2 * np.pi, channels)
        total += size * np.sin(2 * np.pi * times[:, None] * rate + phase)
    return total * 1.1


def glances(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Draw gaze, degrees [T, 2] to the image's right and up: small saccades, and straight ahead in between."""
    gaze, now, t = np.zeros((len(times), 2)), np.zeros(2), 0.0
    while t < times[-1]:
        stay = rng.uniform(0.5, 2.0)
        gaze[(times >= t) & (times < t + stay)] = now
        now = rng.normal(0, 1, 2) * [5.0, 3.0] * (rng.random() < 0.6)
        t += stay
    return gaze


def look(glances: np.ndarray, degrees: np.ndarray) -> np.ndarray:
    """Return eye weights [T, 2], right and up, that mostly keep the gaze on the viewer while the head turns.

    glances [T, 2], degrees [T, 3]: gaze and head pose, degrees.
    """
    return np.clip((glances - 0.8 * degrees[:, :2]) / EYE_DEGREES, [-0.8, -0.6], [0.8, 0.6])


def blinks(rng: np.random.Generator, times: np.ndarray) -> np.ndarray:
    """Draw blink weights [T], 0..1: down in 80 ms, up in 160 ms, every few seconds."""
    blink, t = np.zeros(len(times)), rng.uniform(0, 3.5)
    while t < times[-1]:
        since = times - t
        down = np.clip(1 + since / 0.08, 0, 1)
        up = np.clip(1 - since / 0.16, 0, 1)
        blink = np.maximum(blink, np.where(since < 0, down, up))
        t += rng.uniform(1.6, 5.0)
    return smoothstep(blink)
