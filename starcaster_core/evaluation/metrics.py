"""All metrics, in the order of the report."""

from __future__ import annotations

from . import csim, identity, lip_landmarks, lips, lse, motion, reconstruction, sync, view

METRICS = (sync, lips, lip_landmarks, identity, view, reconstruction, motion, csim, lse)
