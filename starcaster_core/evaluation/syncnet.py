"""Test a SyncNet on held-out people: are true pairs told from wrong ones, delays found, still mouths seen as still?

python -m starcaster_core.evaluation.syncnet --data DIR --syncnet syncnet.safetensors
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

import torch

from ..command import add_debug, run_command
from ..data.shards import Clip, read_clips
from ..models.judges.syncnet import SyncNet, load_syncnet
from ..training.mouths import HELD_OUT, SPEAKING, checkpoint_autoencoder, load_mouths
from ..training.syncnet import averages, figures


def still_figures(net: SyncNet, clips: Iterable[Clip]) -> dict[str, float]:
    """Measure clips whose first frame stands still while the box round the mouth moves on: confidence should be low."""
    found = []
    for clip in clips:
        still = torch.from_numpy(clip.frames[:1]).expand(clip.frames.shape) / 255
        boxes = torch.from_numpy(clip.truth["mouth_box"]) / clip.frames.shape[1]
        found.append(net.measure(still, boxes, torch.from_numpy(clip.audio.copy())))
    return averages(found)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards made by `synth`")
    parser.add_argument("--syncnet", type=Path, required=True, help="file that `training.syncnet` wrote")
    parser.add_argument("--model", help="'mini' or a checkpoint, for its autoencoder: decoded frames too")
    parser.add_argument("--out", type=Path, help="JSON to write")
    add_debug(parser)
    args = parser.parse_args(arguments)
    net, vae = load_syncnet(args.syncnet), checkpoint_autoencoder(args.model)
    mouths = load_mouths(args.data, HELD_OUT, vae)
    measured = {"rendered": figures(net, mouths.crops, mouths.sound)}
    if vae:
        measured["decoded"] = figures(net, mouths.decoded, mouths.sound)
    clips = (c for folder in args.data for split in HELD_OUT for c in read_clips(folder, split, kinds=SPEAKING))
    measured["still_mouth"] = still_figures(net, clips)
    print(json.dumps(measured, indent=2), flush=True)
    if args.out:
        args.out.write_text(json.dumps(measured, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(run_command("measure SyncNet", main))
