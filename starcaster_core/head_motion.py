"""How a head moves besides speaking: it turns, nods, blinks, glances about and moves its brows.

Neither sound nor portrait decides all of this. A network that learns by squared error draws the mean of what is left open: a
still head with soft eyes. So `mini` is given head motion as a condition (`models/extensions/head_motion.py`): in training the
clip's own, in sampling what `random_head_motion` draws. docs/decisions/0004. Where a voice is heard, stressed syllables nod
and lift the brows, and in pauses the head settles and blinks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .conventions import smoothstep
from .speech.prosody import accents, pauses, smooth

CHANNELS = ("yaw", "pitch", "roll", "blink", "gaze_right", "gaze_up", "brows")
POSE_CHANNELS = 3  # the first of them, relative to the portrait's pose
POSE_STD = np.array([5.5, 2.8, 1.8])  # degrees of yaw, pitch, roll; one unit of CHANNELS
POSE_LIMIT = np.array([15.0, 8.0, 5.0])  # degrees
BLINK, GAZE, BROWS = 2.0, 4.0, 4.0  # units of CHANNELS for an expression weight of one
EYE_DEGREES = 28.0  # gaze angle at full weight of a look unit, about
USUAL_AMOUNT = 0.8  # the training clips have 0.35 to 1.2
NOD, LIFT = 7.5, 0.9  # degrees of pitch and weight of the brows for an accent of one
BESIDE = 0.85  # of the random pitch and brows, where a voice is heard that moves them as well
SETTLED = 0.7  # of the random pose that is left in a long pause
PAUSE_BLINKS = 0.4  # of the pauses begin with a blink
BLINK_CLOSED = 0.12  # seconds from the beginning of a pause to closed eyes
RARER = 2.5  # times the seconds between blinks by chance, where pauses bring their own


def random_head_motion(
    seed: int, start: int, frames: int, fps: float, amount: float = 1.0, loudness: np.ndarray | None = None
) -> Tensor:
    """Draw the head motion of frames start .. start + frames - 1 of a video, float32 [frames, len(CHANNELS)].

    Pose is relative to the portrait's, in units of POSE_STD; the others to a straight look with open eyes. Any stretch of a
    video can be asked for by itself. amount: of pose, gaze and brows, 0..2; at 0 the head keeps still and does not blink.
    loudness: of the whole speech [T] (`types.Speech`), which nods, brows and blinks follow; None: chance alone.
    """
    if not amount:
        return torch.zeros(frames, len(CHANNELS))
    times = (start + np.arange(frames) + 0.5) / fps
    pose_rng, blink_rng, gaze_rng, brow_rng = (np.random.default_rng([seed, key, 0x1D7E]) for key in range(4))
    degrees = USUAL_AMOUNT * POSE_STD * drift(pose_rng, times, 3)
    brows = 0.12 * drift(brow_rng, times, 1)
    later = np.append(times, times[-1] + 0.1)  # a blink about to begin shows in the last frame
    blink = blinks(blink_rng, later, 1.0 if loudness is None else RARER)[:-1]
    if loudness is not None:
        degrees, brows = follow_voice(degrees, brows, loudness, start, fps)
        blink = blink_in_pauses(blink, times, pauses(loudness, fps) / fps, seed)
    degrees = POSE_LIMIT * np.tanh(amount * degrees / POSE_LIMIT)
    gaze = look(min(amount, 1.0) * glances(gaze_rng, times), degrees)
    return torch.from_numpy(normalise(degrees, blink, gaze, amount * brows))


def follow_voice(
    degrees: np.ndarray, brows: np.ndarray, loudness: np.ndarray, start: int, fps: float
) -> tuple[np.ndarray, np.ndarray]:
    """Return pose, degrees [T, 3], and brows [T, 1] of frames from `start` on, with what the voice adds.

    Stressed syllables nod the head and lift the brows; in a pause the head comes nearer to rest.
    """
    frames = len(degrees)
    stress, speaking = (
        np.pad(x, (0, max(0, start + frames - len(x))))[start : start + frames]
        for x in (accents(loudness, fps), smooth(loudness, 1.5 * fps).clip(0, 1))
    )
    settle = SETTLED + (1 - SETTLED) * np.sqrt(speaking)
    degrees = degrees * settle[:, None] * np.array([1, BESIDE, 1])
    degrees[:, 1] -= NOD * stress
    return degrees, BESIDE * brows + LIFT * stress[:, None].clip(min=0)


def blink_in_pauses(blink: np.ndarray, times: np.ndarray, begins: np.ndarray, seed: int) -> np.ndarray:
    """Return blink weights [T] at times [T], seconds, with a blink where most pauses begin.

    begins [K]: when the pauses of the whole speech begin, seconds.
    """
    for number, begin in enumerate(begins):
        shut = begin + BLINK_CLOSED
        if (
            times[0] - 1 < shut < times[-1] + 1
            and np.random.default_rng([seed, number, 0xB117]).random() < PAUSE_BLINKS
        ):
            blink = np.maximum(blink, blink_at(shut, times))
    return blink


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


def blinks(rng: np.random.Generator, times: np.ndarray, rarer: float = 1.0) -> np.ndarray:
    """Draw blink weights [T], 0..1, every few seconds; rarer: times the seconds between them."""
    blink, t = np.zeros(len(times)), rng.uniform(0, 3.5)
    while t < times[-1]:
        blink = np.maximum(blink, blink_at(t, times))
        t += rarer * rng.uniform(1.6, 5.0)
    return blink


def blink_at(shut: float, times: np.ndarray) -> np.ndarray:
    """Return the weights [T], 0..1, at times [T] of a blink shut at `shut` seconds: down in 80 ms, up in 160 ms."""
    since = times - shut
    return smoothstep(np.where(since < 0, np.clip(1 + since / 0.08, 0, 1), np.clip(1 - since / 0.16, 0, 1)))
