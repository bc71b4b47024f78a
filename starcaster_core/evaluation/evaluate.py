"""Measures a checkpoint on held-out clips: does the mouth follow, does the view obey, is it still the same person.

    python -m starcaster_core evaluate --model mini --data DIR --probe P.safetensors --lipreader L.safetensors \\
        --syncnet S.safetensors --out figures.json --report figures.html

Every figure stands beside the same figure for the ground truth (raw, and through the autoencoder: the best the model
could do), for a portrait that stands still, and for a deliberately wrong input (another clip's speech, the mirrored
camera, another person), so its range is known.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..data.shards import Clip, read_clips
from ..models.checkpoint import RANDOM, load_checkpoint
from ..models.starcaster import Starcaster
from ..sampling.settings import SamplerSettings
from . import csim, drift, frechet, identity, lips, lse, motion, public, reconstruction, sync, view
from .footage import HELD_OUT, KINDS, VERSIONS, WRONG, Take, choose_clips, film, strip
from .instruments import ADVICE, Instruments, load_instruments
from .statistics import summary

FAMILIES = (sync, lips, identity, view, reconstruction, motion, csim, lse)
EXAMPLES = 3  # clips of each kind whose strips and curves are shown


@dataclass(frozen=True)
class EvaluationSettings:
    """sampler: None takes the model's own. drift_seconds: length of the long clip, 0 for none. seed: of the
    bootstrap."""

    sampler: SamplerSettings | None = None
    drift_seconds: float = 0.0
    seed: int = 0


@dataclass
class Evaluation:
    """results: plain data, see `evaluate_model`. takes: the videos it was measured on."""

    results: dict
    takes: list[Take] = field(repr=False)


def evaluate_model(
    model: Starcaster,
    clips: list[Clip],
    instruments: Instruments,
    settings: EvaluationSettings = EvaluationSettings(),
    report=lambda line: None,
) -> dict:
    """Generates every clip once and measures all that the instruments can read; JSON-able.

    kind ("temporal", "spatial", "joint") -> family -> figure -> version -> {mean, error, low, high, clips} or None,
    where version is one of `footage.VERSIONS` or "wrong"; besides "settings", "clips", "people", "frechet", "public",
    "drift", "examples" and "missing" (family -> what would make it).
    """
    return evaluate(model, clips, instruments, settings, report).results


def evaluate(model, clips, instruments, settings, report=lambda line: None) -> Evaluation:
    """As `evaluate_model`, but the videos are kept for pictures of them."""
    sampler = settings.sampler or SamplerSettings.of(model.config)
    instruments = instruments.for_clips(clips)
    takes = film(model, clips, sampler, report)
    results = {
        "settings": asdict(sampler),
        "clips": {kind: sum(clip.info["kind"] == kind for clip in clips) for kind in KINDS},
        "people": len({clip.info["identity"] for clip in clips}),
        "gallery": len(instruments.gallery),
    }
    examples = {}
    for kind in KINDS:
        chosen = [take for take in takes if take.clip.info["kind"] == kind]
        if chosen:
            results[kind], examples[kind] = measure(chosen, instruments, settings.seed)
            report(f"{kind} measured")
    results["frechet"] = frechet.measure(takes, instruments)
    results["public"] = public.measure(takes, instruments.public)
    if settings.drift_seconds:
        report(f"filming {settings.drift_seconds:g} s in one go")
        long = drift.film_long(model, clips, settings.drift_seconds, sampler)
        results["drift"] = drift.measure(long, instruments)
    results["examples"] = examples
    results["missing"] = missing(instruments, settings)
    return Evaluation(results, takes)


def measure(takes: list[Take], instruments: Instruments, seed: int) -> tuple[dict, list[dict]]:
    """Clips of one kind -> family -> figure -> version -> summary; and the curves of the first ones."""
    figures, examples = {}, [{"clip": take.clip.key, "curves": {}} for take in takes[:EXAMPLES]]
    for family in FAMILIES:
        if not family.ready(instruments) or not family.applies(takes[0].clip):
            continue
        readings = {v: [family.read(instruments, t.videos[v], t.clip) for t in takes] for v in VERSIONS}
        asked = {version: [take.clip for take in takes] for version in VERSIONS}
        readings[WRONG], asked[WRONG] = readings["generated"], wrong_inputs(family, takes)
        values = {
            version: [family.judge(instruments, r, c) for r, c in zip(readings[version], asked[version]) if c]
            for version in readings
        }
        figures[family.NAME] = summaries(family, values, seed)
        if hasattr(family, "curves"):
            for example, reading, take in zip(examples, readings["generated"], takes):
                example["curves"][family.NAME] = family.curves(instruments, reading, take.clip)._asdict()
    return figures, examples


def wrong_inputs(family, takes: list[Take]) -> list[Clip | None]:
    """What each clip is deliberately held against, made from the next clip; None where nothing wrong can be made."""
    clips = [take.clip for take in takes]
    if len(clips) < 2:
        return [None]
    return [family.wrong(clip, other) for clip, other in zip(clips, clips[1:] + clips[:1])]


def summaries(family, values: dict[str, list[dict]], seed: int) -> dict:
    """figure -> version -> summary, of the figures that any clip has"""
    table = {
        name: {v: summary([clip[name] for clip in clips if name in clip], seed) for v, clips in values.items()}
        for name in family.FIGURES
    }
    return {name: row for name, row in table.items() if row["generated"] or row["truth"]}


def missing(instruments: Instruments, settings: EvaluationSettings) -> dict[str, str]:
    """What was left out -> what would make it"""
    absent = {family.NAME for family in FAMILIES if family.NAME in ADVICE and not family.ready(instruments)}
    if instruments.lipreader is None:
        absent.add("visemes")
    if not settings.drift_seconds:
        absent.add("drift")
    return {name: advice for name, advice in ADVICE.items() if name in absent} | instruments.public.missing()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is measured")
    what.add_argument("--model", default="mini", help="'mini' or a checkpoint file")
    what.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards made by `synth`")
    what.add_argument("--split", choices=("held-out", "train"), default="held-out", help="whose clips")
    what.add_argument("--clips", type=int, default=12, help="clips of each kind")
    what.add_argument("--steps", type=int, default=None, help="default: the model's own")
    what.add_argument("--guidance-scale", type=float, default=None, help="default: the model's own")
    what.add_argument("--head-motion", type=float, default=None, help="0 keeps heads still, 1 is usual")
    what.add_argument("--identity-only", action="store_true", help="the portrait is not shown, only who it is")
    what.add_argument("--seed", type=int, default=0)
    what.add_argument("--drift-seconds", type=float, default=0, help="length of one long clip; 0 leaves it out")
    what.add_argument("--device", default="cpu", help="where the model computes: cpu, cuda, mps")
    by = parser.add_argument_group("measured by (what is missing is left out)")
    by.add_argument("--probe", type=Path, help="probe.safetensors: view, motion")
    by.add_argument("--lipreader", type=Path, help="lipreader.safetensors: visemes and lip opening")
    by.add_argument("--syncnet", type=Path, help="syncnet.safetensors: lips and sound")
    by.add_argument("--public-weights", type=Path, help=f"folder with any of {', '.join(public.FILES)}")
    parser.add_argument("--sheet", type=Path, help="picture to write: ground truth above, generated below")
    parser.add_argument("--report", type=Path, help="HTML page to write, with pictures and plots in it")
    parser.add_argument("--out", type=Path, required=True, help="JSON to write")


def run(args: argparse.Namespace) -> None:
    model, started = load_checkpoint(args.model).to(args.device), time.monotonic()
    splits = HELD_OUT if args.split == "held-out" else (args.split,)
    clips = choose_clips(args.data, args.clips, splits)
    instruments = load_instruments(
        args.probe, args.lipreader, args.syncnet, args.public_weights, everybody(args.data, splits)
    )
    sampler = SamplerSettings.of(
        model.config,
        seed=args.seed,
        steps=args.steps,
        guidance_scale=args.guidance_scale,
        head_motion=args.head_motion,
        use_reference=not args.identity_only,
    )
    settings = EvaluationSettings(sampler, args.drift_seconds, args.seed)
    evaluation = evaluate(model, clips, instruments, settings, lambda line: print(line, file=sys.stderr, flush=True))
    results = evaluation.results | provenance(args)
    results["minutes"] = round((time.monotonic() - started) / 60, 1)
    write_results(args, results, evaluation.takes)


def everybody(folders: list[Path], splits: tuple[str, ...]) -> dict[int, np.ndarray]:
    """The people of some splits, all of them and not just those measured: identity -> embedding"""
    return identity.gallery_of(c for f in folders for s in splits for c in read_clips(f, s, video=False))


def provenance(args: argparse.Namespace) -> dict:
    """How the page came about: the command, the model's own story, the instruments'."""
    from ..models.checkpoint import BUILT_IN, WEIGHTS, read_checkpoint
    from ..models.frozen import facts_of

    facts = {}
    if args.model not in RANDOM:
        _, _, facts = read_checkpoint(WEIGHTS / f"{args.model}.safetensors" if args.model in BUILT_IN else args.model)
    tools = {name: getattr(args, name) for name in ("probe", "lipreader", "syncnet")}
    return {
        "model": {"name": Path(args.model).name, "provenance": facts},
        "split": args.split,
        "command": " ".join(["python -m starcaster_core", *sys.argv[1:]]),
        "instruments": {name: {"file": path.name, "facts": facts_of(path)} for name, path in tools.items() if path},
    }


def write_results(args: argparse.Namespace, results: dict, takes: list[Take]) -> None:
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    strips = {kind: [strip(take) for take in takes if take.clip.info["kind"] == kind][:EXAMPLES] for kind in KINDS}
    if args.sheet:
        from PIL import Image

        Image.fromarray(np.concatenate([picture for group in strips.values() for picture in group])).save(args.sheet)
    if args.report:
        from .report import write_report

        write_report(args.report, results, strips)
