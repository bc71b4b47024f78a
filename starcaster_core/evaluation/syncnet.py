"""Does the mouth move with the sound, and with what delay? Two small networks meet in one space of embeddings.

    python -m starcaster_core.evaluation.syncnet train --data DIR --minutes 10 --out syncnet.safetensors
    python -m starcaster_core.evaluation.syncnet test --data DIR --syncnet syncnet.safetensors

After SyncNet (Chung & Zisserman 2016), trained by this project on its synthetic people with InfoNCE: the sound of a
window of frames among those at other moments of the clip and of other clips, and the other way round. It measures and
is never trained against, so it shares no weights with the lip reader and none with the model's own speech encoder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..data.shards import Clip, read_clips
from ..errors import InputError
from ..models.frozen import load_frozen, save_frozen
from ..models.mouth import SIDE, mouth_crops
from ..speech.spectrum import FRAME_SAMPLES, HOP, MELS, MELS_PER_FRAME, WINDOW, levelling_gain, mel_filters
from ..training.loop import LoopSettings, autocast, step_generator, train
from ..training.mouths import HELD_OUT, SPEAKING, Mouths, checkpoint_autoencoder, draw_crops, load_mouths, plain

REACH = 15  # frames either way in which a delay is looked for
FEWEST = 10  # windows that are compared at the furthest of them
CLIPS, FRAMES = 16, 30  # of a training step
FLOOR = 1e-5


@dataclass(frozen=True)
class SyncNetConfig:
    """window: frames (of 40 ms) that an embedding sees and hears. widths: channels of the seeing part."""

    window: int = 5
    widths: tuple[int, ...] = (32, 64, 96)
    hearing: int = 192
    embedding: int = 128


@dataclass(frozen=True)
class Sync:
    """offset: frames by which the picture comes after the sound (negative: before). distance: mean Euclidean distance
    of unit vectors there, 0..2. confidence: median over all offsets minus that. distances: all, offsets -15..15."""

    offset: int
    distance: float
    confidence: float
    distances: tuple[float, ...]


class SyncNet(nn.Module):
    """Windows of mouths and of sound -> unit vectors. Window w has frames w to w + window - 1 and just their sound."""

    def __init__(self, config: SyncNetConfig | None = None):
        super().__init__()
        self.config = config = config or SyncNetConfig()
        self.register_buffer("hann", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("mel", mel_filters(), persistent=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.5))  # log of the inverse temperature
        widths, hearing = config.widths, config.hearing
        # As in SyncNet, the frames of a window are the channels of one picture.
        self.seeing = nn.Sequential(
            *(halve(a, b) for a, b in zip((config.window, *widths), widths)),
            nn.Flatten(),
            nn.Linear(widths[-1] * (SIDE // 2 ** len(widths)) ** 2, 256),
            nn.SiLU(),
            nn.Linear(256, config.embedding),
        )
        # No padding anywhere: 5 spectra, then 4 at a time, then as many as makes a window of 4 `window` spectra.
        self.hearing = nn.Sequential(
            nn.Conv1d(MELS, hearing, MELS_PER_FRAME + 1),
            nn.SiLU(),
            nn.Conv1d(hearing, hearing, MELS_PER_FRAME, stride=MELS_PER_FRAME),
            nn.SiLU(),
            nn.Conv1d(hearing, 256, config.window - 1),
            nn.SiLU(),
            nn.Conv1d(256, config.embedding, 1),
        )

    def see(self, crops: Tensor) -> Tensor:
        """mouth crops [B, T, 40, 40] in 0..1 -> [B, T - window + 1, E]"""
        windows = crops.unfold(1, self.config.window, 1).movedim(-1, 2)
        # Exposure says nothing of speech.
        mean, deviation = windows.mean((2, 3, 4), keepdim=True), windows.std((2, 3, 4), keepdim=True)
        pictures = ((windows - mean) / (deviation + 0.02)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.seeing(pictures).float(), dim=-1).reshape(*windows.shape[:2], -1)

    def hear(self, spectra: Tensor) -> Tensor:
        """log-mel spectra [B, MELS, 4 T] -> [B, T - window + 1, E]"""
        return F.normalize(self.hearing((spectra + 6) / 4).float(), dim=1).transpose(1, 2)

    def spectra(self, samples: Tensor) -> Tensor:
        """16 kHz mono [B, 640 T] -> log power in each mel band [B, MELS, 4 T], loud parts of every row at one level."""
        levelled = torch.stack([row * levelling_gain(row) for row in samples.float()])
        margin = (WINDOW - HOP) // 2  # the four spectra of a frame are centred on it
        waves = torch.stft(
            F.pad(levelled, (margin, margin)), WINDOW, HOP, window=self.hann, center=False, return_complex=True
        )
        return torch.log(self.mel @ waves.abs().square() + FLOOR)

    @torch.no_grad()
    def measure(self, frames: Tensor, boxes: Tensor, samples: Tensor) -> Sync:
        """frames [T, S, S, 3] in 0..1 at 25 fps; boxes [T, 4] round the mouth, as shares of the side; samples [N],
        16 kHz mono, from the same moment on (cut, or filled with silence, to the frames' length).

        Raises InputError for fewer frames than a delay can be found in.
        """
        crops = mouth_crops(frames.movedim(-1, 1)[None].float(), boxes[None])
        wanted = len(frames) * FRAME_SAMPLES
        sound = F.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return synchrony(self.see(crops)[0], self.hear(self.spectra(sound[None]))[0])


def halve(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.GroupNorm(1, channels_out),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.SiLU(),
    )


def synchrony(seen: Tensor, heard: Tensor) -> Sync:
    """Embeddings [W, E] of the windows of a clip -> what they say of its delay; offsets beyond the clip's ends are
    compared over the windows that both have. Raises InputError where those are fewer than FEWEST."""
    windows = len(seen)
    if windows < REACH + FEWEST:
        raise InputError(
            f"at least {REACH + FEWEST} windows to find a delay in",
            f"{windows}",
            "Measure a clip of 30 frames or more.",
        )
    apart = torch.cdist(seen[None].float(), heard[None].float())[0]
    # Picture k frames late: what window w + k shows is heard in window w, the diagonal k below the main one.
    distances = torch.stack([apart.diagonal(-k).mean() for k in range(-REACH, REACH + 1)])
    least = int(distances.argmin())
    confidence = distances.median() - distances[least]
    return Sync(least - REACH, distances[least].item(), confidence.item(), tuple(distances.tolist()))


def contrast(seen: Tensor, heard: Tensor, logit_scale: Tensor) -> Tensor:
    """InfoNCE both ways over all windows of all clips, embeddings [B, W, E]: each finds its own among B W."""
    seen, heard = seen.flatten(0, 1), heard.flatten(0, 1)
    logits = logit_scale.exp().clamp(max=50) * seen @ heard.T
    own = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def spoil_spectra(spectra: Tensor, generator: torch.Generator) -> Tensor:
    """[B, MELS, M]: another microphone (a smooth curve over the bands), another level, and a floor of noise."""
    batch = len(spectra)

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=generator) * (high - low) + low

    knots = torch.randn(batch, 1, 6, generator=generator) * draw(0, 1.0, batch, 1, 1)
    curve = F.interpolate(knots, MELS, mode="linear", align_corners=True).transpose(1, 2)
    heard = spectra + curve + draw(-1, 1, batch, 1, 1)
    noise = draw(-11, -5, batch, 1, 1) + 0.3 * torch.randn(spectra.shape, generator=generator)
    return torch.logaddexp(heard, noise)


def step_loss(net: SyncNet, mouths: Mouths, spectra: Tensor, generator: torch.Generator):
    """The loss of one random batch; spectra [N, MELS, 4 T] of all clips. -> loss, numbers to log"""
    clips, total = mouths.crops.shape[:2]
    frames = min(FRAMES, total)
    chosen = torch.randperm(clips, generator=generator)[:CLIPS]
    starts = torch.randint(total - frames + 1, (len(chosen),), generator=generator)
    crops, _ = draw_crops(mouths, chosen, starts, frames, generator)
    at = MELS_PER_FRAME * starts[:, None] + torch.arange(MELS_PER_FRAME * frames)
    sound = spoil_spectra(spectra[chosen[:, None], :, at].transpose(1, 2), generator)
    with autocast():
        seen, heard = net.see(crops), net.hear(sound)
    return contrast(seen, heard, net.logit_scale), {"scale": net.logit_scale.exp().item()}


@torch.no_grad()
def embeddings(net: SyncNet, crops: Tensor, sound: Tensor) -> tuple[Tensor, Tensor]:
    """crops uint8 [N, T, WIDE, WIDE] and samples [N, 640 T] -> seen, heard [N, W, E]"""
    seen = torch.cat([net.see(plain(part)) for part in crops.split(16)])
    heard = torch.cat([net.hear(net.spectra(part)) for part in sound.split(16)])
    return seen, heard


@torch.no_grad()
def figures(net: SyncNet, crops: Tensor, sound: Tensor, shifts: range = range(-8, 9, 2)) -> dict:
    """How well true pairs are told from another clip's sound, and imposed delays found; arguments as `embeddings`."""
    seen, heard = embeddings(net, crops, sound)
    true = [synchrony(s, h) for s, h in zip(seen, heard)]
    wrong = [synchrony(s, h) for k in (1, 2, 3) for s, h in zip(seen, heard.roll(k, 0))]
    found = torch.tensor([[synchrony(*delay(s, h, k)).offset for s, h in zip(seen, heard)] for k in shifts])
    misses = (found - torch.tensor(list(shifts))[:, None]).abs().float()
    return {
        "clips": len(crops),
        "auc_confidence": auc([s.confidence for s in true], [s.confidence for s in wrong]),
        "auc_distance": auc([-s.distance for s in true], [-s.distance for s in wrong]),
        "auc_in_place": auc([in_place(s) for s in true], [in_place(s) for s in wrong]),
        "true": averages(true),
        "other_sound": averages(wrong),
        "delay_exact": mean((misses == 0).float().flatten().tolist()),
        "delay_within_one_frame": mean((misses <= 1).float().flatten().tolist()),
    }


def still_figures(net: SyncNet, clips: Iterable[Clip]) -> dict[str, float]:
    """Of clips whose first picture stands still while the box round the mouth moves on: nothing must be seen."""
    found = []
    for clip in clips:
        still = torch.from_numpy(clip.frames[:1]).expand(clip.frames.shape) / 255
        boxes = torch.from_numpy(clip.truth["mouth_box"]) / clip.frames.shape[1]
        found.append(net.measure(still, boxes, torch.from_numpy(clip.audio.copy())))
    return averages(found)


def averages(found: list[Sync]) -> dict[str, float]:
    return {"confidence": mean([s.confidence for s in found]), "distance": mean([s.distance for s in found])}


def delay(seen: Tensor, heard: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Windows [W, E] -> [W - |k|, E] each, of a clip whose picture comes k frames late."""
    windows = len(seen)
    return seen[max(0, -k) : windows - max(0, k)], heard[max(0, k) : windows - max(0, -k)]


def in_place(sync: Sync) -> float:
    """Confidence that there is no delay: median distance minus that at offset 0."""
    return sorted(sync.distances)[REACH] - sync.distances[REACH]


def auc(true: list[float], wrong: list[float]) -> float:
    """How often a true pair scores above a wrong one; ties count half."""
    a, b = torch.tensor(true)[:, None], torch.tensor(wrong)[None]
    return round(((a > b).float() + 0.5 * (a == b).float()).mean().item(), 4)


def mean(values: list[float]) -> float:
    return round(sum(values) / len(values), 4)


def save_syncnet(path: Path, net: SyncNet, facts: dict) -> None:
    save_frozen(path, "syncnet", net, asdict(net.config), facts)


def load_syncnet(path: str | Path) -> SyncNet:
    """Ready for use. Raises CheckpointError for a file that is not a whole SyncNet."""
    return load_frozen(path, "syncnet", lambda c: SyncNet(SyncNetConfig(**{**c, "widths": tuple(c["widths"])})))


def new_syncnet(seed: int, config: SyncNetConfig | None = None) -> SyncNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SyncNet(config)


def run_training(args: argparse.Namespace) -> None:
    vae = checkpoint_autoencoder(args.model)
    mouths = load_mouths(args.data, ("train",), vae, args.seed)
    net = new_syncnet(args.seed, SyncNetConfig(window=args.window))
    with torch.no_grad():
        spectra = torch.cat([net.spectra(part) for part in mouths.sound.split(64)])

    def loss_of_step(step: int):
        return step_loss(net, mouths, spectra, step_generator(args.seed, "syncnet", step))

    settings = LoopSettings(args.minutes, learning_rate=1e-3, weight_decay=0.05, ema=0.995)
    train(net, loss_of_step, settings, args.out.parent, args.out.stem)
    net.eval()
    held_out = load_mouths(args.data, HELD_OUT, vae, args.seed)
    facts = {"minutes": args.minutes, "seed": args.seed, "clips": len(mouths), "model": args.model}
    facts["held_out"] = figures(net, held_out.crops, held_out.sound)
    save_syncnet(args.out, net, facts)
    print(json.dumps(facts), flush=True)


def run_test(args: argparse.Namespace) -> None:
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


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    training = commands.add_parser("train", help="on the training people")
    training.set_defaults(run=run_training)
    training.add_argument("--minutes", type=float, default=10, help="time budget, all resumed runs together")
    training.add_argument("--seed", type=int, default=0)
    training.add_argument("--window", type=int, default=SyncNetConfig.window, help="frames an embedding sees")
    training.add_argument("--out", type=Path, required=True, help="file to write, .safetensors")
    test = commands.add_parser("test", help="on the held-out people")
    test.set_defaults(run=run_test)
    test.add_argument("--syncnet", type=Path, required=True, help="file that `train` wrote")
    test.add_argument("--out", type=Path, help="JSON to write")
    for command in (training, test):
        command.add_argument("--data", type=Path, required=True, nargs="+", help="folders of shards made by `synth`")
        command.add_argument("--model", help="'mini' or a checkpoint, for its autoencoder: decoded frames too")
    args = parser.parse_args(arguments)
    args.run(args)


if __name__ == "__main__":
    main()
