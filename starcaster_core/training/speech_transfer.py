"""Give a trained model another speech encoder, and refit its speech tokens to it.

    python -m starcaster_core.training.speech_transfer --model mini --speech run/phonetic.safetensors --data clips \\
        --minutes 1 --out run/mini-hearing-anew.safetensors

The speech tokens are distilled on the sound of the training clips: from the new encoder's features they predict what
they were with the old one's. What remains different is for the denoiser's own training: `train --init
run/mini-hearing-anew.safetensors`. With `--ship` the model is finished by this, and written as one to ship: in float16,
with the provenance it had.
"""

from __future__ import annotations

import argparse
import copy
import json
from pathlib import Path

import torch
from torch import Tensor

from ..command import add_debug, run_command
from ..data.shards import read_clips
from ..models.checkpoint import find_checkpoint, load_checkpoint, read_checkpoint, save_checkpoint
from ..models.frozen import facts_of
from ..models.phonetic import PhoneticEncoder
from ..models.starcaster import Starcaster
from .loop import LoopSettings, step_generator, train
from .phonetic import load_encoder

CLIPS_A_STEP = 16
Pair = tuple[Tensor, Tensor]  # features of one clip by the old and by the new encoder, each [T, F]


@torch.no_grad()
def encode_by_both(model: Starcaster, encoder: PhoneticEncoder, folders: list[Path], split: str) -> list[Pair]:
    """Encode every sounding clip of a split by the model's own encoder and by the new one."""
    clips = (clip for folder in folders for clip in read_clips(folder, split) if clip.audio is not None)
    sounds = (torch.from_numpy(clip.audio.copy()) for clip in clips)
    fps = model.config.fps
    return [(model.encode_speech(sound).features, encoder.encode(sound, fps).features) for sound in sounds]


def transfer(
    model: Starcaster, encoder: PhoneticEncoder, pairs: list[Pair], budget: LoopSettings, out: Path, seed: int
):
    """Put `encoder` into `model`, in place, and refit its speech tokens on `pairs`; state and curve go to `out`."""
    teacher, student = copy.deepcopy(model.speech_tokens).requires_grad_(False), model.speech_tokens
    student.requires_grad_(True)
    shortest = min(len(old) for old, _ in pairs)

    def compute_loss(number: int):
        generator = step_generator(seed, "speech transfer", number)
        chosen = torch.randint(len(pairs), (CLIPS_A_STEP,), generator=generator).tolist()
        old, new = (torch.stack([pairs[index][which][:shortest] for index in chosen]) for which in range(2))
        return (student(new) - teacher(old)).square().mean(), {}

    train(student, compute_loss, budget, out, "speech-transfer")
    model.speech_encoder = encoder


@torch.no_grad()
def explained_variance(before, after, pairs: list[Pair]) -> float:
    """Return the explained variance of the old tokens by the new ones: 1 - residual / variance."""
    meant, said = (
        torch.cat([tokens(pair[which][None])[0] for pair in pairs]) for which, tokens in enumerate((before, after))
    )
    return float(1 - (said - meant).square().mean() / (meant - meant.mean(dim=0)).square().mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="mini", help="'mini' or a checkpoint")
    parser.add_argument("--speech", required=True, help="phonetic.safetensors, the new encoder")
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards with sound")
    parser.add_argument("--minutes", type=float, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--ship", action="store_true", help="write float16 and keep the model's provenance")
    parser.add_argument("--out", type=Path, required=True, help="checkpoint to write")
    add_debug(parser)
    args = parser.parse_args()
    model, encoder = load_checkpoint(args.model, torch.float32), load_encoder(args.speech).eval()
    before = copy.deepcopy(model.speech_tokens)
    pairs, held_out = (encode_by_both(model, encoder, args.data, split) for split in ("train", "val"))
    transfer(model, encoder, pairs, LoopSettings(args.minutes, learning_rate=1e-3), args.out.parent, args.seed)
    figures = {
        "clips": len(pairs),
        "explained_held_out": round(explained_variance(before, model.speech_tokens, held_out), 3),
    }
    made_with = figures | {"minutes": args.minutes, "seed": args.seed}
    provenance = {"begun_from": Path(args.model).stem, "speech_transfer": made_with}
    if args.ship:
        known = read_checkpoint(find_checkpoint(args.model))[2]
        provenance = known | {"speech_encoder": facts_of(args.speech), "speech_transfer": made_with}
    save_checkpoint(args.out, model, provenance, dtype=torch.float16 if args.ship else torch.float32)
    print(json.dumps(figures))


if __name__ == "__main__":
    raise SystemExit(run_command("transfer the speech encoder", main))
