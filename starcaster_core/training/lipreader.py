"""Trains the lip reader on synthetic clips: python -m starcaster_core.training.lipreader --data DIR --out F.safetensors

Cross-entropy on the mouth shape of the sound at every frame, and the distance between the lips. `--model` lends its
autoencoder, so that decoded frames are read as well as rendered ones. State and log stay beside the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..command import add_debug, run_command
from ..models.lipreader import OPENING_SCALE, LipReader, LipReaderConfig, save_lipreader
from .loop import LoopSettings, autocast, step_generator, train
from .mouths import HELD_OUT, REST, VISEMES, Mouths, centre_crops, checkpoint_autoencoder, draw_crops, load_mouths

CLIPS, FRAMES = 16, 16  # of a step
SMOOTHING = 0.1  # neighbouring sounds pull at every mouth: no shape is certain
OPENING_WEIGHT = 1.0


def new_reader(seed: int) -> LipReader:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LipReader(LipReaderConfig(VISEMES))


def step_loss(reader: LipReader, mouths: Mouths, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
    """Return the loss of one random batch, and its parts."""
    chosen = torch.randint(len(mouths), (CLIPS,), generator=generator)
    frames = min(FRAMES, mouths.crops.shape[1])
    starts = torch.randint(mouths.crops.shape[1] - frames + 1, (CLIPS,), generator=generator)
    crops, scales = draw_crops(mouths, chosen, starts, frames, generator)
    at = starts[:, None] + torch.arange(frames)
    visemes = mouths.visemes[chosen[:, None], at]
    opening = mouths.opening[chosen[:, None], at] / scales[:, None]
    with autocast():
        reading = reader(crops)
    named = F.cross_entropy(reading.logits.float().flatten(0, 1), visemes.flatten(), label_smoothing=SMOOTHING)
    apart = F.l1_loss(reading.opening.float(), opening) / OPENING_SCALE
    return named + OPENING_WEIGHT * apart, {"visemes": named.item(), "opening": apart.item()}


@torch.no_grad()
def figures(reader: nn.Module, mouths: Mouths, crops: Tensor) -> dict[str, float]:
    """Measure how well crops uint8 [N, T, WIDE, WIDE] are read.

    Fraction of frames with the right viseme, of all and of those not at rest, beside that of always predicting the
    commonest one and of another clip's mouth; correlation of the opening.
    """
    readings = [reader(centre_crops(part)) for part in crops.split(16)]
    said = torch.cat([reading.logits.argmax(dim=-1) for reading in readings])
    opening = torch.cat([reading.opening for reading in readings])
    truth, speech = mouths.visemes, mouths.visemes != REST

    def right(said: Tensor, of: Tensor) -> float:
        return round((said == truth)[of].float().mean().item(), 4)

    def chance(of: Tensor) -> float:
        return round((truth[of].bincount().max() / of.sum()).item(), 4)

    def follows(opening: Tensor) -> float:
        """Mean over clips"""
        pairs = zip(opening, mouths.opening)
        return round(sum(torch.corrcoef(torch.stack(pair))[0, 1].item() for pair in pairs) / len(mouths), 4)

    everything = torch.ones_like(speech)
    return {
        "clips": len(mouths),
        "all": right(said, everything),
        "all_chance": chance(everything),
        "all_of_another_mouth": right(said.roll(1, 0), everything),
        "speech": right(said, speech),
        "speech_chance": chance(speech),
        "speech_of_another_mouth": right(said.roll(1, 0), speech),
        "opening": follows(opening),
        "opening_of_another_mouth": follows(opening.roll(1, 0)),
    }


def run(
    data: list[Path], out: Path, minutes: float, seed: int, model: str | None = None, vae: nn.Module | None = None
) -> dict:
    """Trains, writes `out`, returns the figures on held-out people, voices and sentences. The autoencoder for decoded
    frames: that of `model`, or `vae`."""
    vae = vae or checkpoint_autoencoder(model)
    left_out: dict[str, str] = {}
    mouths = load_mouths(data, ("train",), vae, seed, left_out)
    held_out = load_mouths(data, HELD_OUT, vae, seed, left_out)
    reader = new_reader(seed)

    def compute_loss(step: int):
        return step_loss(reader, mouths, step_generator(seed, "lip reader", step))

    settings = LoopSettings(minutes, learning_rate=1e-3, weight_decay=0.05, ema=0.995)
    train(reader, compute_loss, settings, out.parent, out.stem)
    reader.eval()
    measured = {"rendered": figures(reader, held_out, held_out.crops)}
    if vae:
        measured["decoded"] = figures(reader, held_out, held_out.decoded)
    facts = {"minutes": minutes, "seed": seed, "clips": len(mouths), "model": model, "held_out": measured}
    save_lipreader(out, reader, facts)
    print(json.dumps(facts | {"left_out": left_out}), flush=True)
    return measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards made by `synth`")
    parser.add_argument("--model", help="'mini' or a checkpoint, for its autoencoder: read decoded frames too")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    parser.add_argument("--minutes", type=float, default=10, help="time budget, all resumed runs together")
    parser.add_argument("--seed", type=int, default=0)
    add_debug(parser)
    args = parser.parse_args()
    run(args.data, args.out, args.minutes, args.seed, args.model)


if __name__ == "__main__":
    raise SystemExit(run_command("train the lip reader", main))
