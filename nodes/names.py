"""Output names as ComfyUI's users write them. The frontend fills in `%date:...%` and `%Node.widget%` for core's own
nodes alone, so it is done here for ours, and works for prompts sent by programs too."""

from __future__ import annotations

import re
from datetime import datetime

DATE_PARTS = {"d": "day", "M": "month", "h": "hour", "m": "minute", "s": "second"}


def fill_in(prefix: str, prompt: dict | None, workflow: dict | None, now: datetime | None = None) -> str:
    """Replace `%date:yyyy-MM-dd hh-mm-ss%` and `%Node name.widget%` in a file name prefix.

    A node is called by its "Node name for S&R", its title or its class, as in the frontend; what cannot be a file name
    in its value becomes `_`. Patterns that name nothing stay as they are.
    """
    now = now or datetime.now()

    def one(match: re.Match) -> str:
        inside = match.group(1)
        if inside.startswith("date:"):
            return written(now, inside.removeprefix("date:"))
        name, dot, widget = inside.partition(".")
        value = _value(name, widget, prompt or {}, workflow or {}) if dot else None
        return match.group() if value is None else re.sub(r'[/?<>\\:*|"\x00-\x1f\x7f]', "_", str(value))

    return re.sub(r"%([^%]+)%", one, prefix)


def written(moment: datetime, pattern: str) -> str:
    """Write a moment as the frontend's `formatDate` does: d, M, h, m, s, each doubled for two digits, yy and yyyy."""

    def one(match: re.Match) -> str:
        part = match.group()
        if part[0] == "y":
            return str(moment.year)[2:] if part == "yy" else str(moment.year)
        return str(getattr(moment, DATE_PARTS[part[0]])).zfill(len(part))

    return re.sub(r"d{1,2}|M{1,2}|h{1,2}|m{1,2}|s{1,2}|yyy?y?", one, pattern)


def _value(name: str, widget: str, prompt: dict, workflow: dict):
    """The value of a node's widget, None where there is no such node or widget."""
    nodes = [node for node in workflow.get("nodes") or [] if isinstance(node, dict)]
    called = [
        [str(node.get("id")) for node in nodes if (node.get("properties") or {}).get("Node name for S&R") == name],
        [str(node.get("id")) for node in nodes if node.get("title") == name],
        [number for number, node in prompt.items() if (node.get("_meta") or {}).get("title") == name],
        [number for number, node in prompt.items() if node.get("class_type") == name],
    ]
    for number in next(filter(None, called), []):
        value = (prompt.get(number) or {}).get("inputs", {}).get(widget)
        if value is not None and not isinstance(value, (list, dict)):  # a list is a link to another node
            return value
    return None
