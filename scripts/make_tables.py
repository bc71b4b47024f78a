"""Rewrite the generated tables of the documentation from benchmarks/results and from the code.

    python scripts/make_tables.py            # rewrite every block
    python scripts/make_tables.py --check    # exit with 1, naming the blocks that differ, and write nothing

A block begins with `<!-- table: NAME -->` and ends with `<!-- /table -->`, each on a line of its own. TABLES maps each
name to the function that makes its lines. Standard library only.
"""

from __future__ import annotations

import argparse
import ast
import functools
import json
import re
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
RESULTS = REPO / "benchmarks" / "results"
READING_ORDER = (
    "pipeline.py",
    "sampling/rollout.py",
    "sampling/execution.py",
    "models/starcaster.py",
    "models/unet.py",
    "models/attention.py",
)
BLOCK = re.compile(r"^(<!-- table: ([\w-]+) -->\n)(.*?)^(<!-- /table -->)$", re.MULTILINE | re.DOTALL)

# title, path in the results, factor, format, what the project wants
FIGURES = {
    "within": ("sync offset within one frame", "temporal.sync.within_one_frame", 100, "{:.0f} %", "80 %"),
    "confidence": ("sync confidence", "temporal.sync.confidence", 1, "{:.2f}", "60 % of the truth"),
    "visemes": ("visemes recognised *", "temporal.lips.visemes", 100, "{:.0f} %", ""),
    "opening": ("lip opening, correlation *", "temporal.lips.correlation", 1, "{:.2f}", "0.7"),
    "lip_ratio": ("lip opening, std ratio *", "temporal.motion.lip_ratio", 1, "{:.2f}", ""),
    "pose_ratio": ("head pose, std ratio", "temporal.motion.pose_ratio", 1, "{:.2f}", "0.7 to 1.4"),
    "distance": ("dlib distance, talking", "temporal.identity.distance", 1, "{:.2f}", ""),
    "rank_1": ("rank 1, talking", "temporal.identity.rank_1", 100, "{:.0f} %", "80 %"),
    "frozen_distance": ("dlib distance, frozen", "spatial.identity.distance", 1, "{:.2f}", ""),
    "frozen_rank_1": ("rank 1, frozen", "spatial.identity.rank_1", 100, "{:.0f} %", ""),
    "view": ("view error, degrees", "spatial.view.error", 1, "{:.1f}", "6"),
    "psnr": ("PSNR, frozen, dB", "spatial.reconstruction.psnr", 1, "{:.1f}", ""),
}


@functools.cache
def results(name: str) -> dict:
    """Read one JSON file of benchmarks/results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Format a Markdown table."""

    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cells) + " |"

    return [line(header).replace("|  |", "| |"), "|" + "---|" * len(header)] + [line(row) for row in rows]


def find(tree: dict, path: str):
    """Follow a dotted path into nested dictionaries."""
    for key in path.split("."):
        tree = tree[key]
    return tree


def value(stat: dict | None, factor: float, form: str, interval: bool = False) -> str:
    """Format a mean, with its 95 % interval where asked for; empty for a figure that does not exist."""
    if stat is None:
        return ""
    text = form.format(stat["mean"] * factor)
    if interval:
        low, high = (form.replace(" %", "").format(stat[end] * factor) for end in ("low", "high"))
        text += f" [{low}, {high}]"
    return text


def figures(tree: dict) -> list[str]:
    """Tabulate the figures of one evaluation with their ranges."""
    rows = []
    for title, path, factor, form, wanted in FIGURES.values():
        stats = find(tree, path)
        made = value(stats["generated"], factor, form, interval=True)
        others = [value(stats[column], factor, form) for column in ("decoded", "still", "wrong")]
        rows.append([title, made, *others, wanted])
    return table(["", "`mini`", "truth, decoded", "still portrait", "wrong input", "wanted"], rows)


def columns(trees: dict[str, dict], names: list[str]) -> list[str]:
    """Tabulate the generated videos of several models side by side."""
    rows = []
    for name in names:
        title, path, factor, form, _ = FIGURES[name]
        rows.append([title] + [value(find(t, path)["generated"], factor, form, interval=True) for t in trees.values()])
    return table(["", *trees], rows)


def mini() -> list[str]:
    """Tabulate all figures of the shipped model."""
    return figures(results("mini-figures"))


def mini_short() -> list[str]:
    """Tabulate what matters most to a user of the shipped model: photos, then rendered people at 128x128."""
    tree, on_photos = results("mini-figures"), results("photos")["summary"]["all"]
    view, lips = on_photos["view_30"], results("photo-lips")["mini"]
    rows = [
        [
            "photos: distance to the photo (dlib: the same person up to 0.6)",
            f"{on_photos['photo']['distance']:.2f}",
            f"{on_photos['still']['distance']:.2f}",
        ],
        ["photos: sharpness that is kept", f"{on_photos['photo']['sharpness'] * 100:.0f} %", "100 %"],
        [
            f"photos: recognised among {on_photos['photos']}, 30° to the side",
            f"{view['photo']['rank_1'] * 100:.0f} %",
            "",
        ],
        ["photos: lip opening, correlation with the renderer's", f"{lips['correlation']:.2f}", "1"],
    ]
    titles = {
        "within": "renders: lips in step to within a frame",
        "opening": "renders: lip opening, correlation with the truth",
        "rank_1": f"renders: recognised among {tree['gallery']}, camera in front",
        "frozen_rank_1": "renders: recognised, up to 70° to the side",
        "view": "renders: view error, degrees",
    }
    for name, title in titles.items():
        _, path, factor, form, _ = FIGURES[name]
        stats = find(tree, path)
        rows.append([title, *(value(stats[column], factor, form) for column in ("generated", "decoded"))])
    return table(["", "`mini`", "best possible"], rows)


def photos() -> list[str]:
    """Tabulate photos kept from training: frames out of the photo beside the autoencoder's and the photo itself."""
    tree = results("photos")["summary"]["all"]
    versions = ("photo", "autoencoder", "still")

    def row(title: str, name: str, form: str, factor: float = 1.0) -> list[str]:
        return [title, *(form.format(tree[version][name] * factor) for version in versions)]

    rows = [
        row("a face is found", "found", "{:.0f} %", 100) + ["100 %"],
        row("dlib distance to the photo", "distance", "{:.2f}") + ["0.30"],
        row("sharpness of the face at 512, ratio to the photo's", "sharpness", "{:.3f}") + ["0.8"],
        row("colour of the face off by, grey levels", "colour", "{:.1f}") + [""],
    ]
    for side in (15, 30):
        view = tree[f"view_{side}"]
        for name, form, factor, wanted in (("distance", "{:.2f}", 1, ""), ("rank_1", "{:.0f} %", 100, "90 %")):
            cells = [form.format(view[version][name] * factor) for version in versions[:2]]
            title = "dlib distance" if name == "distance" else f"rank 1 among {tree['photos']}"
            rows.append([f"camera {side}° to the side: {title}", *cells, "", wanted])
    lips = tree["lips"]
    rows.append(["lip opening, correlation with the autoencoder's frames", f"{lips['correlation']:.2f}", "1", "", ""])
    rows.append(["lip opening, std ratio to theirs", f"{lips['motion']:.2f}", "1", "", ""])
    return table(["", "out of the photo", "autoencoder, enlarged", "photo, still", "wanted"], rows)


def identity_only() -> list[str]:
    """Tabulate portraits drawn from embeddings alone."""
    tree = results("identity-only")
    titles = {
        "found": ("a face is found", "{:.0f} %", 100, ""),
        "distance": ("dlib distance to the person", "{:.2f}", 1, "0.55"),
        "others": ("dlib distance to the other people", "{:.2f}", 1, ""),
        "rank_1": ("rank 1 among them", "{:.0f} %", 100, "60 %"),
        "seeds": ("dlib distance between two seeds", "{:.2f}", 1, ""),
        "skin": ("brightness of the cheeks off by, grey levels", "{:.0f}", 1, ""),
    }
    groups = ("photos", "renders")
    rows = [
        [title, *(form.format(factor * tree[group][name]) for group in groups), wanted]
        for name, (title, form, factor, wanted) in titles.items()
    ]
    return table(["", *(f"{tree[group]['people']} {group}" for group in groups), "wanted"], rows)


def photo_frames() -> list[str]:
    """Tabulate how near frames out of the photo come to the truth, and what swims."""
    tree = results("photo-frames")
    versions = ("photo", "enlarged", "still")

    def row(title: str, figures: dict, name: str, form: str, wanted: str) -> list[str]:
        return [title, *(form.format(figures[version][name]) for version in versions), wanted]

    judged = {
        "psnr": ("PSNR, dB", "{:.1f}", "enlarged + 3"),
        "ssim": ("SSIM", "{:.3f}", ""),
        "perceptual": ("perceptual distance", "{:.3f}", ""),
    }
    rows = []
    for title, group in (("renders", "renders"), ("videos of people", "people")):
        for name, (unit, form, wanted) in judged.items():
            rows.append(row(f"mouth of {title}: {unit}", tree[group], name, form, wanted))
    swim = tree["swim"]
    rows.append(["texture that swims, ratio to the truth's", *(f"{swim[v]:.2f}" for v in versions[:2]), "", "1.3"])
    rows.append(["whole picture: step across the border, grey levels", f"{max(tree['seam']):.2f}", "", "", "1"])
    return table(["", "out of the photo", "drawn, enlarged", "photo, still", "wanted"], rows)


def decoder_ablations() -> list[str]:
    """Tabulate what each part of the reference decoder brings."""
    tree = results("decoder-ablations")
    titles = {
        "whole": "whole",
        "no-photos": "renders alone",
        "no-geometry": "no geometry",
        "no-discriminator": "no discriminator",
    }
    figures = (
        ("photos: dlib distance", "photos.photo.distance", "{:.2f}"),
        ("photos: sharpness, ratio to the photo's", "photos.photo.sharpness", "{:.2f}"),
        ("photos, camera 30° aside: dlib distance", "photos.view_30.photo.distance", "{:.2f}"),
        ("photos: lips, correlation with the drawn ones", "photos.lips.correlation", "{:.2f}"),
        ("mouth of renders: PSNR, dB", "renders.photo.psnr", "{:.1f}"),
        ("mouth of videos of people: PSNR, dB", "people.photo.psnr", "{:.1f}"),
        ("texture that swims, ratio to the truth's", "swim.photo", "{:.2f}"),
    )

    rows = [[title, *(form.format(find(tree[name], path)) for name in titles)] for title, path, form in figures]
    return table(["", *titles.values()], rows)


def temporal() -> list[str]:
    """Tabulate what frames have of their neighbours."""
    tree = results("temporal")
    titles = {
        "psnr": ("PSNR, dB", "{:.2f}"),
        "motion_error": ("change of a frame, off by, grey levels", "{:.2f}"),
        "seam": ("the same where a chunk begins, ratio", "{:.2f}"),
        "seam_without_context": ("without looking back", "{:.2f}"),
        "noise": ("spread of one frame's noise to the others", "{:.2f}"),
        "speech": ("spread of one frame's speech to those that do not hear it", "{:.2f}"),
    }
    names = [name for name in tree if name != "clips"]

    def cell(figures: list[float], form: str) -> str:
        mean, low, high = (form.format(x) for x in figures)
        return f"{mean} [{low}, {high}]"

    rows = [[title, *(cell(tree[name][key], form) for name in names)] for key, (title, form) in titles.items()]
    return table(["", *(f"`{name}`" if name == "mini" else name for name in names)], rows)


def photo_lips() -> list[str]:
    """Tabulate how lips of photos follow the renderer's."""
    return openings("photo-lips", "std ratio, as the landmarker sees it")


def recorded_lips() -> list[str]:
    """Tabulate how lips of photos follow those of a real speaker."""
    return openings("recorded-lips", "std ratio")


def openings(file: str, motion: str) -> list[str]:
    """Tabulate openings by today's weights and those before. motion: title of the std ratio."""
    tree = results(file)
    rows = [
        [title, *(f"{tree[name][key]:.2f}" for name in ("mini", "mini-before"))]
        for key, title in (("correlation", "correlation of the opening"), ("motion", motion))
    ]
    return table(["", "`mini`", "before decision 28"], rows)


def phonemes() -> list[str]:
    """Tabulate how many sounds the speech encoder names rightly, beside the encoder before."""
    titles = {
        "espeak-ng": "espeak-ng, held-out variants",
        "flite": "flite's awb",
        "kokoro+jf_tebukuro": "jf_tebukuro (Kokoro)",
        "kokoro+jm_kumo": "jm_kumo (Kokoro)",
        "flite, aligned": "awb, pocketsphinx",
        "kokoro+jf_tebukuro, aligned": "jf_tebukuro, pocketsphinx",
        "kokoro+jm_kumo, aligned": "jm_kumo, pocketsphinx",
        "an4, aligned": "AN4, 11 unheard speakers, pocketsphinx",
        "libri, aligned": "LibriSpeech, 33 unheard speakers, pocketsphinx",
        "pico, aligned": "spoken commands, an unheard set, pocketsphinx",
        "grid, aligned": "GRID's speaker 1, an unheard set, pocketsphinx",
        "in noise, aligned": "a quarter of the first three sets in pink noise 10 dB below, pocketsphinx",
        "silence": "digital silence",
        "noise": "noise from white to brown, -70 to -20 dB",
    }
    tree = results("phonemes")
    percent = lambda row, key: f"{row[key] * 100:.1f} %" if key in row else ""  # noqa: E731
    rows = []
    for name, title in titles.items():
        now, before = tree["phonetic"][name], tree["mini"][name]
        cells = [percent(now, "right"), percent(before, "right"), percent(now, "chance"), percent(now, "wrong_input")]
        cells += [percent(now, "pauses_right"), percent(before, "pauses_right"), percent(now, "agreement")]
        rows.append([title, f"{now['frames']:,}" if now["frames"] else "", *cells])
    head = [
        "voice, labels",
        "frames",
        "right",
        "before",
        "chance",
        "wrong input",
        "pauses found",
        "before",
        "agreement",
    ]
    return table(head, rows)


def synth() -> list[str]:
    """Tabulate speed and memory of rendering clips."""
    rows = []
    for title, run in results("synth").items():
        memory = run["megabytes_over_time"]
        seconds = f"{run['cpu_seconds_a_frame']:.3f}" if "cpu_seconds_a_frame" in run else ""
        speed = f"{run['frames_per_second']:.1f}"
        rows.append([title, speed, seconds, f"{memory[0]}, then {min(memory[1:])} to {max(memory[1:])}"])
    return table(["two workers", "frames a second", "core seconds a frame", "memory in eighths of the run, MB"], rows)


def drift() -> list[str]:
    """Tabulate the minute-long clip: change a minute and standard error."""
    series = results("mini-figures")["drift"]["series"]
    titles = {"identity": "dlib distance", "red": "red, grey levels", "green": "green", "blue": "blue"}
    titles["sharpness"] = "sharpness"
    rows = []
    for name, title in titles.items():
        values = series[name]["values"]
        first, last = sum(values[:10]) / 10, sum(values[-10:]) / 10
        change = f"{series[name]['slope']:.2f} ± {series[name]['error']:.2f}"
        rows.append([title, f"{first:.2f}", f"{last:.2f}", change, f"{series[name]['truth']:.2f}"])
    return table(["", "first 10 s", "last 10 s", "change a minute", "truth"], rows)


def instruments() -> list[str]:
    """Tabulate how well the instruments read held-out clips."""
    facts = {name: entry["facts"]["held_out"] for name, entry in results("mini-figures")["instruments"].items()}
    lips, sync, probe = facts["lipreader"], facts["syncnet"], facts["probe"]["mean_error"]
    seen, decoded = lips["rendered"], lips["decoded"]
    rows = [
        ["lip reader: viseme of a frame, rendered / decoded",
         f"{seen['all'] * 100:.1f} % / {decoded['all'] * 100:.1f} %",
         f"{seen['all_chance'] * 100:.1f} %", f"{seen['all_of_another_mouth'] * 100:.1f} %"],
        ["lip reader: opening, correlation", f"{seen['opening']:.2f} / {decoded['opening']:.2f}",
         "0", f"{seen['opening_of_another_mouth']:.2f}"],
        ["SyncNet: own against foreign sound, AUC", f"{sync['auc_confidence']:.3f}", "0.5", ""],
        ["SyncNet: confidence", f"{sync['true']['confidence']:.2f}", "", f"{sync['other_sound']['confidence']:.2f}"],
        ["SyncNet: delays found within one frame", f"{sync['delay_within_one_frame'] * 100:.1f} %", "10 %", ""],
        ["probe: mean error of opening, yaw, pitch",
         f"{probe['opening']:.3f}, {probe['yaw']:.1f}°, {probe['pitch']:.1f}°", "", ""],
    ]  # fmt: skip
    return table(["instrument", "held out", "chance", "wrong input"], rows)


def ablations() -> list[str]:
    """Tabulate the ablations on held-out people."""
    tree = results("ablations")
    trees = {"full recipe": "abl-full", "no lip loss": "abl-no-lips", "teacher forcing": "abl-teacher-forcing"}
    trees |= {"one stage": "abl-single"}
    names = ["confidence", "visemes", "lip_ratio", "pose_ratio", "rank_1", "distance", "view"]
    return columns({title: tree[key] for title, key in trees.items()}, names)


def overfit() -> list[str]:
    """Tabulate the models trained on 16 clips of each kind, measured on those clips."""
    tree = results("overfit")
    trees = {"stage 2": tree["all-forcing"], "stage 3": tree["all-views"]}
    return columns(trees, ["opening", "rank_1", "view", "psnr"])


def overfit_lips() -> list[str]:
    """Tabulate stage 1 with and without the lip-reading loss, on the clips it was trained on."""
    tree = results("overfit")
    trees = {"lip-reading loss": tree["all-motion"], "without": tree["no-lips-motion"]}
    return columns(trees, ["visemes", "opening", "lip_ratio"])


def self_forcing() -> list[str]:
    """Tabulate the comparison of self-forcing with teacher forcing without a portrait."""
    tree = results("self-forcing")
    rows = []
    for key, title, form in (
        ("picture", "picture error, grey levels", "{:.1f}"),
        ("sharpness", "sharpness, ratio", "{:.2f}"),
        ("pose", "head pose, std ratio", "{:.2f}"),
    ):
        for when in ("first", "last"):
            stats = (tree[model][when][key] for model in ("self", "teacher", "self_minus_teacher"))
            rows.append([f"{title}, {when} 2 s", *(value(stat, 1, form, interval=True) for stat in stats)])
    return table(["", "self-forcing", "teacher forcing", "difference by clip"], rows)


BENCH_ROWS = {
    "plain_diffusers": "`mini` as shipped: 4 steps, no guidance",
    "plain_diffusers_guided": "`mini`, 8 guided steps",
    "all_motion_modules_run": "every motion module run by both",
    "unmerged_adapters_and_idle_motion": "plain as it is usually put together",
}


def bench() -> list[str]:
    """Tabulate the ratios of `make bench`, whatever rows the file has."""
    rows = []

    def walk(tree: dict, names: tuple[str, ...]) -> None:
        if "ratio" in tree:
            title = "; ".join(BENCH_ROWS.get(name, f"`{name}`") for name in names)
            keys = ("ratio_of_cpu_seconds", "ratio_of_cpu_seconds_lowest", "ratio")
            rows.append([title, *(f"{tree[key]:.2f}" for key in keys)])
        for name, entry in tree.items():
            if isinstance(entry, dict):
                walk(entry, (*names, name))

    walk(results("cpu"), ())
    return table(["plain against ours", "processor time, median", "lowest", "by the clock, median"], rows)


def bench_command() -> list[str]:
    """Tabulate the time from typing the command to the file."""
    rows = [
        [f"{run['seconds_of_video']:g} s of video", f"{run['cpu_seconds']:.1f}", f"{run['seconds']:.1f}"]
        for run in results("cpu")["generate_command"]
    ]
    return table(["`generate`, from the start of Python to the file", "processor seconds", "by the clock"], rows)


def bench_parts() -> list[str]:
    """Tabulate the seconds of computing a second of video takes."""
    parts = results("cpu")["path"]["per_video_second"]
    return table(list(parts), [[f"{seconds:.2f}" for seconds in parts.values()]])


def startup() -> list[str]:
    """Tabulate how long the command line takes from the start of Python to the file, before and after."""
    tree = results("startup")
    rows = []
    for command, by_checkout in tree["seconds"].items():
        times = [by_checkout[which][kind]["lowest"] for kind in ("wall", "cpu") for which in ("before", "after")]
        rows.append([f"`{command}`", *(f"{seconds:.1f}" for seconds in times), ""])
    begins = [tree["before_work_begins"][which] for which in ("before", "after")]
    rows.append(["before work begins", *(f"{seconds:.1f}" for seconds in begins), "", "", "half"])
    return table(["seconds, lowest", "clock, 0.1", "clock, now", "processor, 0.1", "now", "wanted"], rows)


def sd15_flops() -> list[str]:
    """Tabulate the counted TFLOP of the paper's scale."""
    call = results("sd15-counted")["tflop_a_call"]
    null, full = call["null"], call["full"]
    # The guidance of a step asks for the null condition and for all conditions; a chunk has 16 frames.
    rows = [["a network call, null condition", f"{null:.1f}"], ["a network call, all conditions", f"{full:.1f}"]]
    rows += [["a frame, 25 guided steps", f"{25 * (null + full) / 16:.1f}"]]
    rows += [["a frame, 4 unguided steps", f"{4 * full / 16:.1f}"]]
    return table(["", "TFLOP"], rows)


def sd15_memory() -> list[str]:
    """Tabulate the counted memory of the paper's scale."""
    rows = []
    for name, parts in results("sd15-counted")["gib"].items():
        others = parts["merged_adapters"] + parts["vae"] + parts["conditions"]
        numbers = (parts["unet"], others, parts["activations"], parts["total"])
        rows.append([name, *(f"{number:.2f}" for number in numbers)])
    return table(["GiB, bfloat16", "UNet", "adapters, VAE, conditions", "activations", "total"], rows)


def lip_memory() -> list[str]:
    """Tabulate what the lip-reading loss keeps in memory."""
    tree = results("lip-memory")
    counted, measured = (
        next(rows for title, rows in tree.items() if title.startswith(model)) for model in ("sd15", "mini")
    )
    rows = [
        [name, f"{measured[name]['kept_mb']:.0f}", f"{measured[name]['peak_mb']:.0f}", f"{row['kept_mb'] / 1024:.1f}"]
        for name, row in counted.items()
    ]
    return table(["decoded", "`mini`: kept, MB", "`mini`: process growth, MB", "`sd15`: kept, GiB"], rows)


def soak() -> list[str]:
    """Tabulate what a long render took, and its memory from the first minute to the end."""
    run = results("soak")
    memory = run["memory"]
    eighths = memory["mib_at_each_eighth"]
    rows = [
        ["video, minutes", f"{run['video_minutes']:g}"],
        ["frames", f"{run['frames']}"],
        ["by the clock, minutes", f"{run['wall_minutes']:.1f}"],
        ["processor, minutes", f"{run['processor_minutes']:.1f}"],
        ["memory after the first minute, MiB", f"{memory['mib_after_first_minute']:.0f}"],
        ["at a quarter, half, three quarters, the end", ", ".join(f"{eighths[part]:.0f}" for part in (1, 3, 5, 7))],
        ["largest growth, %", f"{memory['growth_percent']:.1f} (wanted: at most {memory['wanted_percent']:g})"],
    ]
    return table(["", f"`{run['command'].split('/')[-1]}`"], rows)


def tree() -> list[str]:
    """Draw the packages: each folder, and each file right under the core, with the first line of its docstring."""
    core = REPO / "starcaster_core"
    folders = package_folders()
    files = sorted(path for path in core.glob("*.py") if not path.stem.startswith("__"))
    ours, nodes = (
        [folder for folder in folders if (folder == top or top in folder.parents)] for top in (core, REPO / "nodes")
    )
    lines = ["```text"]
    for path in [*ours, *files, *nodes]:
        indent = "    " * (len(path.relative_to(REPO).parts) - 1)
        name, source = (path.name, path) if path in files else (f"{path.name}/", path / "__init__.py")
        lines.append(f"{indent + name:26} {first_clause(summary(source))}")
    return lines + ["```"]


def reading_order() -> list[str]:
    """List the files from the pipeline to the network, in the order to read them."""
    lines = (f"`{name}`: {first_clause(summary(REPO / 'starcaster_core' / name))}" for name in READING_ORDER)
    return [f"{number}. {line}" for number, line in enumerate(lines, 1)]


def package_folders() -> list[Path]:
    """Return the folders of the core, then the nodes, that hold Python files; a parent before its children."""
    found = {path.parent for top in ("starcaster_core", "nodes") for path in (REPO / top).rglob("*.py")}
    return sorted(found, key=lambda path: (path.relative_to(REPO).parts[0] == "nodes", path))


def first_clause(sentence: str) -> str:
    """Return what comes before the first colon, semicolon or full stop."""
    return re.split(r"[;:.](?: |$)", sentence)[0]


def summary(path: Path) -> str:
    """Return the first line of a module's docstring, or nothing."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    return docstring.splitlines()[0] if docstring else ""


TABLES = {
    "mini": mini,
    "mini-short": mini_short,
    "photos": photos,
    "photo-lips": photo_lips,
    "identity-only": identity_only,
    "photo-frames": photo_frames,
    "phonemes": phonemes,
    "recorded-lips": recorded_lips,
    "synth": synth,
    "drift": drift,
    "instruments": instruments,
    "ablations": ablations,
    "overfit": overfit,
    "overfit-lips": overfit_lips,
    "self-forcing": self_forcing,
    "decoder-ablations": decoder_ablations,
    "temporal": temporal,
    "bench": bench,
    "bench-command": bench_command,
    "bench-parts": bench_parts,
    "startup": startup,
    "sd15-flops": sd15_flops,
    "sd15-memory": sd15_memory,
    "lip-memory": lip_memory,
    "soak": soak,
    "tree": tree,
    "reading-order": reading_order,
}


def pages() -> list[Path]:
    """List the pages that may hold blocks."""
    found = [*REPO.glob("*.md"), *(REPO / "docs").rglob("*.md"), *(REPO / "web" / "docs").glob("*.md")]
    found += [*(REPO / "benchmarks").glob("*.md"), *(REPO / "starcaster_core").rglob("*.md")]
    return sorted(found)


def rewrite(text: str) -> tuple[str, list[str]]:
    """Return a page with all of its blocks made anew, and the names of those that differed.

    Raises ValueError for a block that is none of TABLES or has no end.
    """
    stale = []

    def remake(block: re.Match) -> str:
        start, name, lines, end = block.groups()
        if name not in TABLES:
            raise ValueError(f"unknown table {name!r}; known are {', '.join(TABLES)}")
        made = "".join(f"{line}\n" for line in TABLES[name]())
        if made != lines:
            stale.append(name)
        return start + made + end

    after, blocks = BLOCK.subn(remake, text)
    if blocks != len(re.findall("^<!-- table: ", text, re.MULTILINE)):
        raise ValueError("a block is not closed by <!-- /table --> on a line of its own")
    return after, stale


def main(arguments: list[str] | None = None) -> int:
    """Rewrite or check every page. Return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a table is out of date")
    check = parser.parse_args(arguments).check
    differ = 0
    for path in pages():
        name = path.relative_to(REPO).as_posix()
        try:
            after, stale = rewrite(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise SystemExit(f"{name}: {error}") from None
        for block in stale:
            print(f"{name}: table {block} {'is out of date' if check else 'rewritten'}")
        if stale and not check:
            path.write_text(after, encoding="utf-8")
        differ += len(stale)
    if differ and check:
        print("Run `python scripts/make_tables.py` and commit the pages.")
    return int(check and differ > 0)


if __name__ == "__main__":
    raise SystemExit(main())
