"""Measure a checkpoint on held-out clips: lips and sound, view control, identity, reconstruction, drift.

    python -m starcaster_core evaluate --model mini --data DIR --probe P.safetensors --lipreader L.safetensors \\
        --syncnet S.safetensors --out figures.json --report figures.html

Every figure stands beside the same figure for the ground truth (raw, and through the autoencoder: the best the model
could do), for a portrait that stands still, and for a negative control (another clip's speech, the mirrored camera,
another person).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np

from ..conventions import KINDS
from ..data.shards import Clip, read_clips
from ..models.checkpoint import RANDOM, load_checkpoint
from ..models.starcaster import Starcaster
from ..sampling.settings import SamplerSettings
from . import drift, frechet, identity, public
from .instruments import ADVICE, Instruments, load_instruments
from .metrics import METRICS
from .report import write_report
from .statistics import summary
from .videos import HELD_OUT, VERSIONS, WRONG, EvaluatedClip, choose_clips, frame_strip, generate_videos

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
    """results: see `evaluate_model`. evaluated_clips: the videos that were measured."""

    results: dict
    evaluated_clips: list[EvaluatedClip] = field(repr=False)


def evaluate_model(
    model: Starcaster,
    clips: list[Clip],
    instruments: Instruments,
    settings: EvaluationSettings = EvaluationSettings(),
    report=lambda line: None,
) -> dict:
    """Generate a video for each clip and measure all that the instruments can; the result can be written as JSON.

    Returns kind ("temporal", "spatial", "joint") -> metric -> figure -> version -> {mean, error, low, high, clips} or
    None, where version is one of `videos.VERSIONS` or "wrong" (the negative control); besides "settings", "clips",
    "people", "gallery", "frechet", "public", "drift", "examples" and "missing" (metric -> what it needs).
    """
    return evaluate(model, clips, instruments, settings, report).results


def evaluate(model, clips, instruments, settings, report=lambda line: None) -> Evaluation:
    """As `evaluate_model`, but return the videos too."""
    sampler = settings.sampler or SamplerSettings.of(model.config)
    instruments = instruments.for_clips(clips)
    evaluated_clips = generate_videos(model, clips, sampler, report)
    results = {
        "settings": asdict(sampler),
        "clips": {kind: sum(clip.info["kind"] == kind for clip in clips) for kind in KINDS},
        "people": len({clip.info["identity"] for clip in clips}),
        "gallery": len(instruments.gallery),
    }
    examples = {}
    for kind in KINDS:
        chosen = [evaluated for evaluated in evaluated_clips if evaluated.clip.info["kind"] == kind]
        if chosen:
            results[kind], examples[kind] = measure(chosen, instruments, settings.seed)
            report(f"{kind} measured")
    results["frechet"] = frechet.measure(evaluated_clips, instruments)
    results["public"] = public.measure(evaluated_clips, instruments.public)
    if settings.drift_seconds:
        report(f"generating {settings.drift_seconds:g} s in one go")
        long = drift.generate_long_video(model, clips, settings.drift_seconds, sampler)
        results["drift"] = drift.measure(long, instruments)
    results["examples"] = examples
    results["missing"] = missing(instruments, settings)
    return Evaluation(results, evaluated_clips)


def measure(evaluated_clips: list[EvaluatedClip], instruments: Instruments, seed: int) -> tuple[dict, list[dict]]:
    """Measure clips of one kind: metric -> figure -> version -> summary, and the curves of the first EXAMPLES clips."""
    figures, examples = {}, [{"clip": evaluated.clip.key, "curves": {}} for evaluated in evaluated_clips[:EXAMPLES]]
    for metric in METRICS:
        if not metric.is_available(instruments) or not metric.applies(evaluated_clips[0].clip):
            continue
        features = {v: [metric.extract(instruments, e.videos[v], e.clip) for e in evaluated_clips] for v in VERSIONS}
        targets = {version: [evaluated.clip for evaluated in evaluated_clips] for version in VERSIONS}
        features[WRONG], targets[WRONG] = features["generated"], negatives(metric, evaluated_clips)
        values = {
            version: [
                metric.score(instruments, f, target) for f, target in zip(features[version], targets[version]) if target
            ]
            for version in features
        }
        figures[metric.NAME] = summaries(metric, values, seed)
        if hasattr(metric, "curve"):
            for example, extracted, evaluated in zip(examples, features["generated"], evaluated_clips):
                example["curves"][metric.NAME] = metric.curve(instruments, extracted, evaluated.clip)._asdict()
    return figures, examples


def negatives(metric, evaluated_clips: list[EvaluatedClip]) -> list[Clip | None]:
    """Return the target of each clip's negative control, made from the next clip; None where there is none."""
    clips = [evaluated.clip for evaluated in evaluated_clips]
    if len(clips) < 2:
        return [None]
    return [metric.negative(clip, other) for clip, other in zip(clips, clips[1:] + clips[:1])]


def summaries(metric, values: dict[str, list[dict]], seed: int) -> dict:
    """Summarise the figures that any clip has: figure -> version -> summary."""
    table = {
        name: {v: summary([clip[name] for clip in clips if name in clip], seed) for v, clips in values.items()}
        for name in metric.FIGURES
    }
    return {name: row for name, row in table.items() if row["generated"] or row["truth"]}


def missing(instruments: Instruments, settings: EvaluationSettings) -> dict[str, str]:
    """Return what was left out, and what it needs."""
    absent = {metric.NAME for metric in METRICS if metric.NAME in ADVICE and not metric.is_available(instruments)}
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
    write_results(args, results, evaluation.evaluated_clips)


def everybody(folders: list[Path], splits: tuple[str, ...]) -> dict[int, np.ndarray]:
    """Return the embeddings of all people of some splits, by identity."""
    return identity.gallery_of(c for f in folders for s in splits for c in read_clips(f, s, video=False))


def provenance(args: argparse.Namespace) -> dict:
    """Return the command, and how the model and the instruments were trained."""
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


def write_results(args: argparse.Namespace, results: dict, evaluated_clips: list[EvaluatedClip]) -> None:
    """Write the JSON, the sheet of frames and the report."""
    args.out.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    strips = {
        kind: [frame_strip(evaluated) for evaluated in evaluated_clips if evaluated.clip.info["kind"] == kind][
            :EXAMPLES
        ]
        for kind in KINDS
    }
    if args.sheet:
        from PIL import Image

        Image.fromarray(np.concatenate([picture for group in strips.values() for picture in group])).save(args.sheet)
    if args.report:
        write_report(args.report, results, strips)
