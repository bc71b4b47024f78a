"""All metrics, in the order of the report."""

from __future__ import annotations

from . import csim, identity, lips, lse, motion, reconstruction, sync, view

METRICS = (sync, lips, identity, view, reconstruction, motion, csim, lse)
