"""Turns a trained checkpoint into one to ship: float16, with what made it in its metadata.

python -m starcaster_core.training.publish --run DIR --stage 3-views --out starcaster_core/weights/mini.safetensors
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..command import add_debug, run_command
from ..models.checkpoint import build, find_checkpoint, read_checkpoint, save_checkpoint
from ..models.frozen import facts_of
from ..presets import PRESETS
from .curves import last_row


def stage_log(run: Path) -> list[dict]:
    """Return the steps and minutes of every stage, from the logs."""
    return [{"stage": path.stem, **last_row(path)} for path in sorted(run.glob("*.csv"))]


def averaged(weights: dict[str, Tensor], before: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return `share` of the weights and the rest of those before, by name: what fine-tuning forgets comes back
    (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"). Weights that are new stay as they are."""
    return {
        name: torch.lerp(before[name].float(), value.float(), share) if name in before else value
        for name, value in weights.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="folder that training wrote")
    parser.add_argument("--stage", default="3-views", help="the stage to ship")
    parser.add_argument("--speech", type=Path, help="phonetic.safetensors, for its figures")
    parser.add_argument(
        "--begun-from", help="the checkpoint that the run went on from ('mini'): its provenance is kept"
    )
    parser.add_argument(
        "--share", type=float, default=1.0, help="fraction of the run's weights, 0..1; the rest is --begun-from's"
    )
    parser.add_argument(
        "--shared-noise",
        type=float,
        help="share of the noise that all frames have in common when sampling; default: as trained. Weights from "
        "single frames fit any share, and need 1 to keep the face still",
    )
    parser.add_argument("--out", type=Path, required=True)
    add_debug(parser)
    args = parser.parse_args()
    source = args.run / f"{args.stage}.safetensors"
    config, weights, made_with = read_checkpoint(source)
    whole = "last_stage" in made_with  # the stage `decoder` goes on from a whole model and keeps what made it
    trained = made_with["last_stage"] if whole else made_with
    if not trained.get("stage", {}).get("student_steps"):  # a student samples as it has learned to
        preset = PRESETS[config.name]  # how to sample by default is found out after the training
        config = replace(config, **preset.sampling_defaults)
    if args.shared_noise is not None:
        config = replace(config, extensions=replace(config.extensions, shared_noise=args.shared_noise))
    if whole:
        provenance, facts = made_with, made_with.setdefault("reference_decoder", {})
    else:
        provenance = facts = {"last_stage": made_with, "log": stage_log(args.run), "licence": "Apache-2.0"}
    helper = args.run / "autoencoder.safetensors"
    if helper.exists():  # a run that went on from a checkpoint has none of its own
        provenance["autoencoder"] = facts_of(helper)
    if args.begun_from:
        _, before, begun_from = read_checkpoint(find_checkpoint(args.begun_from))
        if not whole:
            provenance["begun_from"] = begun_from
        if args.share != 1:
            weights, facts["share"] = averaged(weights, before, args.share), args.share
    if args.speech:
        provenance["speech_encoder"] = facts_of(args.speech)
    save_checkpoint(args.out, build(config, weights, str(source), untrained=made_with.pop("untrained", ())), provenance)
    print(f"{args.out}: {args.out.stat().st_size / 2**20:.1f} MiB")


if __name__ == "__main__":
    raise SystemExit(run_command("publish a model", main))
