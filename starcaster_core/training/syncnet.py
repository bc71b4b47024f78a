"""Train the SyncNet that measures lips and sound, on synthetic clips.

    python -m starcaster_core.training.syncnet --data DIR --minutes 10 --out syncnet.safetensors

Loss: InfoNCE both ways. The sound of a window of frames is found among those at other moments of the clip and of other
clips, and the other way round. State and log stay beside the file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..command import add_debug, run_command
from ..models.judges.syncnet import MAX_OFFSET, Sync, SyncNet, SyncNetConfig, new_syncnet, save_syncnet, synchrony
from ..speech.spectrum import MELS, MELS_PER_FRAME
from .loop import LoopSettings, autocast, step_generator, train
from .mouths import HELD_OUT, Mouths, centre_crops, checkpoint_autoencoder, draw_crops, load_mouths

CLIPS, FRAMES = 16, 30  # of a step


def contrastive_loss(video: Tensor, audio: Tensor, logit_scale: Tensor) -> Tensor:
    """Return InfoNCE, both ways, of embeddings [B, W, E]: each of the B W windows is classified among all of them."""
    video, audio = video.flatten(0, 1), audio.flatten(0, 1)
    logits = logit_scale.exp().clamp(max=50) * video @ audio.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def augment_spectra(spectra: Tensor, generator: torch.Generator) -> Tensor:
    """Augment [B, MELS, M] with a microphone's response (a smooth curve over the bands), another level and noise."""
    batch = len(spectra)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    knots = torch.randn(batch, 1, 6, generator=generator) * draw(0, 1.0, batch, 1, 1)
    curve = F.interpolate(knots, MELS, mode="linear", align_corners=True).transpose(1, 2)
    changed = spectra + curve + draw(-1, 1, batch, 1, 1)
    noise = draw(-11, -5, batch, 1, 1) + 0.3 * torch.randn(spectra.shape, generator=generator)
    return torch.logaddexp(changed, noise)


def step_loss(net: SyncNet, mouths: Mouths, spectra: Tensor, generator: torch.Generator):
    """Return the loss of one random batch, and numbers to log; spectra [N, MELS, 4 T]: of all clips."""
    clips, total = mouths.crops.shape[:2]
    frames = min(FRAMES, total)
    chosen = torch.randperm(clips, generator=generator)[:CLIPS]
    starts = torch.randint(total - frames + 1, (len(chosen),), generator=generator)
    crops, _ = draw_crops(mouths, chosen, starts, frames, generator)
    at = MELS_PER_FRAME * starts[:, None] + torch.arange(MELS_PER_FRAME * frames)
    sound = augment_spectra(spectra[chosen[:, None], :, at].transpose(1, 2), generator)
    with autocast():
        video, audio = net.embed_video(crops), net.embed_audio(sound)
    return contrastive_loss(video, audio, net.logit_scale), {"scale": net.logit_scale.exp().item()}


@torch.no_grad()
def embeddings(net: SyncNet, crops: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """Embed crops uint8 [N, T, WIDE, WIDE] and samples [N, 640 T] -> of the video and of the sound, [N, W, E] each."""
    video = torch.cat([net.embed_video(centre_crops(part)) for part in crops.split(16)])
    audio = torch.cat([net.embed_audio(net.spectra(part)) for part in sound.split(16)])
    return video, audio


@torch.no_grad()
def figures(net: SyncNet, crops: Tensor, sound: Tensor, shifts: range = range(-8, 9, 2)) -> dict:
    """Measure how well true pairs are told from another clip's sound, and imposed delays found; arguments as
    `embeddings`."""
    video, audio = embeddings(net, crops, sound)
    true = [synchrony(v, a) for v, a in zip(video, audio)]
    wrong = [synchrony(v, a) for k in (1, 2, 3) for v, a in zip(video, audio.roll(k, 0))]
    found = torch.tensor([[synchrony(*delayed(v, a, k)).offset for v, a in zip(video, audio)] for k in shifts])
    misses = (found - torch.tensor(list(shifts))[:, None]).abs().float()
    return {
        "clips": len(crops),
        "auc_confidence": auc([s.confidence for s in true], [s.confidence for s in wrong]),
        "auc_distance": auc([-s.distance for s in true], [-s.distance for s in wrong]),
        "auc_in_place": auc([zero_offset_confidence(s) for s in true], [zero_offset_confidence(s) for s in wrong]),
        "true": averages(true),
        "other_sound": averages(wrong),
        "delay_exact": mean((misses == 0).float().flatten().tolist()),
        "delay_within_one_frame": mean((misses <= 1).float().flatten().tolist()),
    }


def averages(found: list[Sync]) -> dict[str, float]:
    """Return the mean confidence and distance."""
    return {"confidence": mean([s.confidence for s in found]), "distance": mean([s.distance for s in found])}


def delayed(video: Tensor, audio: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Shift embeddings [W, E] as in a clip whose picture comes k frames late -> [W - |k|, E] each."""
    windows = len(video)
    return video[max(0, -k) : windows - max(0, k)], audio[max(0, k) : windows - max(0, -k)]


def zero_offset_confidence(sync: Sync) -> float:
    """Return the median distance minus that at offset 0."""
    return sorted(sync.distances)[MAX_OFFSET] - sync.distances[MAX_OFFSET]


def auc(true: list[float], wrong: list[float]) -> float:
    """Return how often a true pair scores above a wrong one, 0..1; ties count half."""
    a, b = torch.tensor(true)[:, None], torch.tensor(wrong)[None]
    return round(((a > b).float() + 0.5 * (a == b).float()).mean().item(), 4)


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def run(data: list[Path], out: Path, minutes: float, seed: int, model: str | None, window: int) -> dict:
    """Train a SyncNet, write `out`, and return its facts, with the figures on held-out people.

    model: whose autoencoder gives decoded frames beside the rendered ones; None: rendered frames alone.
    """
    vae = checkpoint_autoencoder(model)
    mouths = load_mouths(data, ("train",), vae, seed)
    net = new_syncnet(seed, SyncNetConfig(window=window))
    with torch.no_grad():
        spectra = torch.cat([net.spectra(part) for part in mouths.sound.split(64)])

    def compute_loss(step: int):
        return step_loss(net, mouths, spectra, step_generator(seed, "syncnet", step))

    settings = LoopSettings(minutes, learning_rate=1e-3, weight_decay=0.05, ema=0.995)
    train(net, compute_loss, settings, out.parent, out.stem)
    net.eval()
    held_out = load_mouths(data, HELD_OUT, vae, seed)
    facts = {"minutes": minutes, "seed": seed, "clips": len(mouths), "model": model}
    facts["held_out"] = figures(net, held_out.crops, held_out.sound)
    save_syncnet(out, net, facts)
    print(json.dumps(facts), flush=True)
    return facts


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards made by `synth`")
    parser.add_argument("--model", help="'mini' or a checkpoint, for its autoencoder: decoded frames too")
    parser.add_argument("--minutes", type=float, default=10, help="time budget, all resumed runs together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--window", type=int, default=SyncNetConfig.window, help="frames of an embedding")
    parser.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    add_debug(parser)
    args = parser.parse_args(arguments)
    run(args.data, args.out, args.minutes, args.seed, args.model, args.window)


if __name__ == "__main__":
    raise SystemExit(run_command("train SyncNet", main))
