"""Sound of many channels as two, by where its loudspeakers stand."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

HALF_POWER = 2**-0.5
# How loud a loudspeaker is in the left and in the right channel: ITU-R BS.775-3, table 2; those it does not know as
# libswresample has them. The low-frequency channel is left out, as the standard says.
TO_STEREO = {
    "FL": (1, 0),
    "FR": (0, 1),
    "FC": (HALF_POWER, HALF_POWER),
    "LFE": (0, 0),
    "LFE2": (0, 0),
    "BL": (HALF_POWER, 0),
    "BR": (0, HALF_POWER),
    "SL": (HALF_POWER, 0),
    "SR": (0, HALF_POWER),
    "BC": (0.5, 0.5),
    "FLC": (1, 0),
    "FRC": (0, 1),
    "DL": (1, 0),
    "DR": (0, 1),
    "WL": (1, 0),
    "WR": (0, 1),
    "TFL": (HALF_POWER, 0),
    "TFR": (0, HALF_POWER),
    "TBL": (HALF_POWER, 0),
    "TBR": (0, HALF_POWER),
}
# Where files do not say it: 3.0, quad, 5.0, 5.1, 6.1, 7.1.
USUAL = {
    3: ("FL", "FR", "FC"),
    4: ("FL", "FR", "BL", "BR"),
    5: ("FL", "FR", "FC", "BL", "BR"),
    6: ("FL", "FR", "FC", "LFE", "BL", "BR"),
    7: ("FL", "FR", "FC", "LFE", "BC", "SL", "SR"),
    8: ("FL", "FR", "FC", "LFE", "BL", "BR", "SL", "SR"),
}
SOUNDING = 0.01  # of the loudest channel's level, -40 dB


def downmix(channels: np.ndarray, names: Sequence[str] = ()) -> np.ndarray:
    """Mix float32 [C, N] to float32 [1, N] (C = 1) or [2, N]; one and two channels stay as they are.

    names: a loudspeaker for each channel, as FFmpeg calls them; unknown ones are taken for the usual layout of as many
    channels. More than eight unknown channels become the mean of those that sound. What exceeds full scale by being
    added up is turned down as a whole.
    """
    count = len(channels)
    if count <= 2:
        return channels
    if len(names) != count or not set(names) <= TO_STEREO.keys():
        names = USUAL.get(count, ())
    if not names:
        levels = np.sqrt(np.square(channels, dtype=np.float64).mean(axis=1))
        return channels[levels >= SOUNDING * levels.max()].mean(axis=0, keepdims=True).repeat(2, axis=0)
    mixed = np.array([TO_STEREO[name] for name in names], np.float32).T @ channels
    allowed = max(1.0, float(np.abs(channels).max(initial=0)))
    return mixed * np.float32(min(1.0, allowed / max(float(np.abs(mixed).max(initial=0)), 1e-9)))
