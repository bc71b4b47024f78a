"""Curves and ranges as inline SVG: text in a page, no library, nothing to load."""

from __future__ import annotations

from html import escape

import numpy as np

GENERATED, TRUTH, STILL, WRONG = "#2457d6", "#17803d", "#8b919c", "#cf3b2e"
COLOURS = {"generated": GENERATED, "decoded": TRUTH, "truth": "#7cbf93", "still": STILL, "wrong": WRONG}
LEFT, RIGHT, TOP, BOTTOM = 38, 8, 24, 30  # room for the words around a plot


def ticks(low: float, high: float, about: int = 4) -> list[float]:
    """Round numbers within low..high"""
    raw = (high - low) / about
    power = 10 ** np.floor(np.log10(raw))
    step = power * min((1, 2, 2.5, 5, 10), key=lambda m: abs(m * power - raw))
    return [round(k * step, 10) for k in range(int(np.ceil(low / step - 1e-9)), int(np.floor(high / step + 1e-9)) + 1)]


def line_plot(
    title: str,
    x_title: str,
    x: list[float],
    lines: list[tuple[str, str, list]],
    levels: list[tuple[str, str, float]] = (),
    size: tuple[int, int] = (330, 170),
) -> str:
    """Plot lines over x, as SVG.

    lines: (name, colour, values, None where there is none). levels: (name, colour, value), drawn dashed all across.
    """
    width, height = size
    known = [v for _, _, values in lines for v in values if v is not None] + [v for _, _, v in levels]
    if not known:
        return ""
    low, high = min(known), max(known)
    slack = 0.08 * (high - low) or 0.5 * abs(high) or 1.0
    low, high = low - slack, high + slack
    x_low, x_high = x[0], x[-1] if x[-1] > x[0] else x[0] + 1

    def across(value: float) -> float:
        return LEFT + (value - x_low) / (x_high - x_low) * (width - LEFT - RIGHT)

    def up(value: float) -> float:
        return height - BOTTOM - (value - low) / (high - low) * (height - TOP - BOTTOM)

    parts = [f'<text class="title" x="{LEFT}" y="14">{escape(title)}</text>']
    for tick in ticks(low, high):
        parts.append(f'<path class="grid" d="M{LEFT} {up(tick):.1f}H{width - RIGHT}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(tick) + 3.5:.1f}" text-anchor="end">{tick:g}</text>')
    for tick in ticks(x_low, x_high, 5):
        parts.append(f'<text x="{across(tick):.1f}" y="{height - 16}" text-anchor="middle">{tick:g}</text>')
    parts.append(f'<text x="{width - RIGHT}" y="{height - 3}" text-anchor="end">{escape(x_title)}</text>')
    for name, colour, value in levels:
        parts.append(f'<path d="M{LEFT} {up(value):.1f}H{width - RIGHT}" stroke="{colour}" class="level"/>')
        parts.append(
            f'<text x="{width - RIGHT - 2}" y="{up(value) - 4:.1f}" text-anchor="end" '
            f'style="fill:{colour}">{escape(name)}</text>'
        )
    for name, colour, values in lines:
        points = [(across(a), up(v)) if v is not None else None for a, v in zip(x, values)]
        parts.append(f'<path d="{path_of(points)}" stroke="{colour}" class="line"><title>{escape(name)}</title></path>')
    return svg(width, height, title, parts)


def path_of(points: list[tuple[float, float] | None]) -> str:
    """Return the SVG path through points; None leaves a gap."""
    words, pen = [], "M"
    for point in points:
        if point is None:
            pen = "M"
            continue
        words.append(f"{pen}{point[0]:.1f} {point[1]:.1f}")
        pen = "L"
    return "".join(words)


def range_bar(versions: dict[str, dict | None], best: str, width: int = 220, height: int = 22) -> str:
    """Plot where each version's mean lies, as SVG; the generated one thick, with its 95 % interval.

    best: as in `metric.Figure`; better lies to the right, with "one" more lies to the right.
    """
    means = {name: found["mean"] for name, found in versions.items() if found}
    made = versions.get("generated")
    if not made:
        return ""
    interval = [v for v in (made.get("low"), made.get("high")) if v is not None]
    low, high = min([*means.values(), *interval]), max([*means.values(), *interval])
    room = width - 16

    def across(value: float) -> float:
        share = (value - low) / (high - low) if high > low else 0.5
        return 8 + room * (1 - share if best == "low" else share)

    middle = height / 2
    parts = [f'<path class="grid" d="M8 {middle}H{width - 8}"/>']
    for name in ("wrong", "still", "truth", "decoded"):
        if name in means:
            parts.append(
                f'<path d="M{across(means[name]):.1f} {middle - 6}v12" stroke="{COLOURS[name]}" stroke-width="3">'
                f"<title>{name}: {means[name]:.4g}</title></path>"
            )
    if len(interval) == 2:
        a, b = sorted(across(v) for v in interval)
        parts.append(f'<path d="M{a:.1f} {middle}H{b:.1f}" stroke="{GENERATED}" stroke-width="2"/>')
    parts.append(f'<circle cx="{across(made["mean"]):.1f}" cy="{middle}" r="4.5" fill="{GENERATED}"/>')
    return svg(width, height, "range", parts)


def svg(width: int, height: int, label: str, parts: list[str]) -> str:
    return (
        f'<svg width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{"".join(parts)}</svg>'
    )
