"""The report of an evaluation: one HTML file with all pictures and plots in it, which loads nothing."""

from __future__ import annotations

import base64
import io
import json
from html import escape
from pathlib import Path

import numpy as np

from . import drift
from .frechet import HALVES
from .metrics import METRICS
from .plots import COLOURS, GENERATED, TRUTH, line_plot, range_bar
from .videos import VERSIONS, WRONG

KIND_TITLES = {
    "temporal": "Speech, camera still",
    "spatial": "A frozen instant, camera moving, no speech",
    "joint": "Speech, camera moving",
}
COLUMNS = {
    "generated": "generated",
    "decoded": "truth, decoded",
    "truth": "truth, raw",
    "still": "still portrait",
    "wrong": "wrong input",
}
FRECHET_TITLES = {"frames": "frames", "lips": "lips", "faces": "faces", "fid": "FID", "fvd": "FVD"}
STYLE = """
:root { color-scheme: light; --ink: #1b1e25; --soft: #626977; --line: #e3e5ea; --card: #ffffff; --page: #f5f6f8 }
* { box-sizing: border-box }
body { margin: 0; background: var(--page); color: var(--ink); font: 15px/1.5 system-ui, "Segoe UI", Roboto, sans-serif }
main { max-width: 1180px; margin: 0 auto; padding: 32px 24px 64px }
h1 { font-size: 30px; margin: 0 0 4px; letter-spacing: -.01em } h2 { font-size: 20px; margin: 0 0 4px }
h3 { font-size: 14px; margin: 22px 0 6px; color: var(--soft); font-weight: 600 }
p { margin: 4px 0 10px; max-width: 78ch } .soft { color: var(--soft) }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
          margin: 18px 0 }
code, pre { font: 12.5px/1.5 ui-monospace, "DejaVu Sans Mono", monospace }
pre { background: #f0f2f5; border-radius: 6px; padding: 10px 12px; white-space: pre-wrap; word-break: break-word;
      margin: 8px 0 }
.facts { display: flex; flex-wrap: wrap; gap: 6px 26px; margin: 12px 0 } .facts b { display: block; font-size: 20px }
.facts span { color: var(--soft); font-size: 13px }
.legend { display: grid; grid-template-columns: 1fr 1fr; gap: 4px 28px; font-size: 13px; color: var(--soft);
          margin: 10px 0 14px }
.legend i { display: inline-block; width: 11px; height: 11px; border-radius: 3px; margin-right: 6px;
            vertical-align: -1px }
table { border-collapse: collapse; width: 100%; table-layout: fixed; font-variant-numeric: tabular-nums;
        font-size: 13.5px }
th { text-align: right; font-weight: 500; color: var(--soft); font-size: 12.5px; padding: 4px 10px }
td { text-align: right; padding: 5px 10px; border-top: 1px solid var(--line); white-space: nowrap }
th:first-child, td:first-child { text-align: left; padding-left: 0; white-space: normal; width: 25% }
th { padding: 4px 8px; white-space: nowrap } th.bar { width: 236px } td small { color: var(--soft) }
td.made { font-weight: 650; color: #2457d6 } td:first-child small { display: block; max-width: 44ch; line-height: 1.35 }
.strip { width: 100%; display: block; border-radius: 6px; margin: 8px 0 } .example { margin: 14px 0 20px }
.plots { display: flex; flex-wrap: wrap; gap: 10px 14px }
svg text { font: 11px system-ui, sans-serif; fill: var(--soft) } 
svg .title { font-size: 12.5px; fill: var(--ink); font-weight: 600 } svg .grid { stroke: #e8eaee; fill: none }
svg .line { fill: none; stroke-width: 1.8; stroke-linejoin: round } svg .level { stroke-dasharray: 4 4; fill: none }
li { margin: 3px 0 } details summary { cursor: pointer; color: var(--soft); margin-top: 8px }
"""


def write_report(path: Path, results: dict, strips: dict[str, list[np.ndarray]]) -> None:
    """Write the report.

    results: of `evaluate.evaluate`, with "model", "command", "instruments" and "minutes" where known. strips: kind ->
    pictures uint8 [2 S, W, 3], one for each example.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page(results, strips), encoding="utf-8")


def page(results: dict, strips: dict[str, list[np.ndarray]]) -> str:
    name = results.get("model", {}).get("name", "model")
    body = [
        heading(results, name),
        *(kind_section(kind, results, strips.get(kind, [])) for kind in KIND_TITLES if kind in results),
        frechet_section(results),
        drift_section(results.get("drift")),
        missing_section(results["missing"]),
        provenance_section(results),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)}, evaluated</title><style>{STYLE}</style></head>\n"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def heading(results: dict, name: str) -> str:
    settings, clips = results["settings"], sum(results["clips"].values())
    facts = {
        "clips": clips,
        "people shown": results["people"],
        "people to tell apart": results["gallery"],
        "steps": settings["steps"],
        "guidance": f"{settings['guidance_scale']:g}",
        "seed": settings["seed"],
        "minutes": results.get("minutes", ""),
    }
    whose = {"train": "clips it was trained on", "held-out": "people, voices and sentences it never met"}
    cells = "".join(f"<div><b>{value}</b><span>{label}</span></div>" for label, value in facts.items() if value != "")
    command = f"<pre>{escape(results['command'])}</pre>" if "command" in results else ""
    return (
        f'<h1>{escape(name)}</h1><p class="soft">Measured on {whose.get(results.get("split"), "the given clips")}.</p>'
        f'<div class="facts">{cells}</div>{command}<section><h2>How to read this</h2>{legend()}'
        "<p>In every row the bar runs from the worst to the best of these; better lies to the right, except where as "
        "much as the truth is best: there more lies to the right. Means over clips; ± is the standard error, the line "
        "through the dot the 95 % interval, both by bootstrap over clips. A difference within the intervals says "
        "nothing. In the curves blue is what the generated video shows, green what it was to show.</p></section>"
    )


def legend() -> str:
    meanings = VERSIONS | {
        WRONG: "the generated video scored against another's speech, another person, or the mirrored camera"
    }
    entries = (
        f'<span><i style="background:{COLOURS[version]}"></i><b>{COLUMNS[version]}</b>: {meaning}</span>'
        for version, meaning in meanings.items()
    )
    return f'<div class="legend">{"".join(entries)}</div>'


def kind_section(kind: str, results: dict, strips: list[np.ndarray]) -> str:
    tables = [
        f"<h3>{metric.TITLE}</h3>{figure_table(metric.FIGURES, results[kind][metric.NAME])}"
        for metric in METRICS
        if results[kind].get(metric.NAME)
    ]
    examples = [example(found, picture) for found, picture in zip(results["examples"].get(kind, []), strips)]
    count = results["clips"][kind]
    return (
        f'<section><h2>{KIND_TITLES[kind]}</h2><p class="soft">{count} clips of kind {kind}</p>'
        f"{''.join(tables)}<h3>Examples: ground truth above, generated below</h3>{''.join(examples)}</section>"
    )


def figure_table(figures: dict, table: dict) -> str:
    rows = []
    for name, versions in table.items():
        figure = figures[name]
        label = f"{figure.title}{', ' + figure.unit if figure.unit else ''}<small>{escape(figure.meaning)}</small>"
        cells = "".join(cell(versions.get(version), version, figure.scale) for version in COLUMNS)
        rows.append(f"<tr><td>{label}</td><td>{range_bar(versions, figure.best)}</td>{cells}</tr>")
    return f"<table><tr><th></th><th class=bar></th>{header()}</tr>{''.join(rows)}</table>"


def header() -> str:
    return "".join(f"<th>{title}</th>" for title in COLUMNS.values())


def cell(found: dict | None, version: str, scale: float = 1.0) -> str:
    if not found:
        return "<td>–</td>"
    error = f" <small>± {number(found['error'] * scale)}</small>" if found.get("error") is not None else ""
    kind = ' class="made"' if version == "generated" else ""
    return f"<td{kind}>{number(found['mean'] * scale)}{error}</td>"


def number(value: float) -> str:
    """Format a value with three significant digits."""
    size = abs(value)
    if size < 5e-4:
        return "0"
    return (
        f"{value:.0f}"
        if size >= 100
        else f"{value:.1f}"
        if size >= 10
        else f"{value:.2f}"
        if size >= 1
        else f"{value:.3f}"
    )


def example(found: dict, picture: np.ndarray) -> str:
    plots = []
    for curve in found["curves"].values():
        lines = [("generated", GENERATED, curve["measured"])]
        if curve["target"] is not None:
            lines.insert(0, ("target", TRUTH, curve["target"]))
        plots.append(line_plot(curve["title"], curve["x_title"], curve["x"], lines))
    return (
        f'<div class="example"><img class="strip" alt="clip {escape(found["clip"])}" src="{data_url(picture)}">'
        f'<div class="plots">{"".join(plots)}</div></div>'
    )


def data_url(picture: np.ndarray) -> str:
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"


def frechet_section(results: dict) -> str:
    found = results["frechet"] | results["public"]
    if not found:
        return ""
    titles = {version: title for version, title in COLUMNS.items() if version != WRONG} | {HALVES: "half to half"}
    rows = []
    for name, versions in found.items():
        made = versions["generated"]
        note = f"{versions['features']}; {made['samples']} samples of {made['clips']} clips"
        cells = "".join(cell(versions.get(version), version) for version in titles)
        measured = {version: versions.get(version) for version in COLUMNS if version != HALVES}
        rows.append(
            f"<tr><td>{FRECHET_TITLES[name]}<small>{escape(note)}</small></td>"
            f"<td>{range_bar(measured, 'low')}</td>{cells}</tr>"
        )
    return (
        "<section><h2>Fréchet distances</h2><p>Between all generated and all true frames, as clouds of features. With "
        "few samples such a distance is always too large; for scale, under “half to half”, that of every other true "
        "clip to the rest, which are other people: a model's can be below it because its clips show the same ones. ± "
        "by jackknife. Comparable between models on the same clips and instruments, and with nothing else.</p>"
        f"<table><tr><th></th><th class=bar></th>{''.join(f'<th>{title}</th>' for title in titles.values())}</tr>"
        f"{''.join(rows)}</table></section>"
    )


def drift_section(found: dict | None) -> str:
    if not found:
        return ""
    plots, rows = [], []
    for name, series in found["series"].items():
        figure = drift.FIGURES[name]
        levels = [("truth", TRUTH, series["truth"])] if series["truth"] is not None else []
        if name == "identity" and "stranger" in found:
            levels.append(("a stranger", COLOURS["wrong"], found["stranger"]))
        title = f"{figure.title}{', ' + figure.unit if figure.unit else ''}"
        lines = [("generated", GENERATED, series["values"])]
        plots.append(line_plot(title, "seconds", found["times"], lines, levels))
        usual = (
            "–"
            if series["truth"] is None
            else f"{number(series['truth'])} <small>± {number(series['truth_deviation'])}</small>"
        )
        change = cell(series["slope"] is not None and {"mean": series["slope"], "error": series["error"]}, "generated")
        rows.append(f"<tr><td>{title}<small>{escape(figure.meaning)}</small></td>{change}<td>{usual}</td></tr>")
    return (
        f"<section><h2>Drift over {found['seconds']:g} seconds</h2><p>One long clip, looked at once a second; the line "
        f'through it, as change a minute.</p><div class="plots">{"".join(plots)}</div>'
        "<table><tr><th></th><th>change a minute</th><th>true clip, ± from frame to frame</th></tr>"
        f"{''.join(rows)}</table></section>"
    )


def missing_section(missing: dict[str, str]) -> str:
    if not missing:
        return ""
    entries = "".join(f"<li><b>{escape(what)}</b>: {advice_html(how)}</li>" for what, how in missing.items())
    return f"<section><h2>Not measured</h2><p>What each of these would need:</p><ul>{entries}</ul></section>"


def advice_html(text: str) -> str:
    """Convert text to HTML, with code where it has backticks."""
    pieces = escape(text).split("`")
    return "".join(f"<code>{piece}</code>" if odd % 2 else piece for odd, piece in enumerate(pieces))


def provenance_section(results: dict) -> str:
    parts = []
    for name, tool in results.get("instruments", {}).items():
        parts.append(folded(f"{name}: {tool['file']}", tool["facts"]))
    if results.get("model", {}).get("provenance"):
        parts.append(folded("the model's provenance", results["model"]["provenance"]))
    parts.append(folded("sampler settings", results["settings"]))
    return f"<section><h2>Where it comes from</h2>{''.join(parts)}</section>"


def folded(title: str, facts: dict) -> str:
    return f"<details><summary>{escape(title)}</summary><pre>{escape(json.dumps(facts, indent=1))}</pre></details>"
