"""SyncNet: a mouth and its sound as unit vectors in one space, whose distance says whether they belong together.

After Chung & Zisserman 2016, "Out of time: automated lip sync in the wild". Trained on synthetic clips by
`training/syncnet.py`. It shares no weights with the lip reader or a model's speech encoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from ...speech.spectrum import FRAME_SAMPLES, HOP, MELS, MELS_PER_FRAME, WINDOW, levelling_gain, mel_filters
from ..frozen import load_frozen, save_frozen
from ..mouth import SIDE, mouth_crops

MAX_OFFSET = 15  # frames either way in which a delay is looked for
MIN_WINDOWS = 10  # that are compared at the largest offset
FLOOR = 1e-5  # of the power, before the logarithm
# Names in files of earlier versions -> today's.
RENAMED_WEIGHTS = {"seeing.": "video_encoder.", "hearing.": "audio_encoder."}
RENAMED_CONFIG = {"hearing": "audio_width"}


@dataclass(frozen=True)
class SyncNetConfig:
    """window: frames (of 40 ms) in an embedding. widths: channels of the video encoder. audio_width: of the audio
    encoder."""

    window: int = 5
    widths: tuple[int, ...] = (32, 64, 96)
    audio_width: int = 192
    embedding: int = 128


@dataclass(frozen=True)
class Sync:
    """The delay between picture and sound.

    offset: frames by which the picture comes after the sound (negative: before). distance: mean Euclidean distance of
    the unit vectors at that offset, 0..2. confidence: median over all offsets minus `distance`. distances: of all
    offsets, -15..15.
    """

    offset: int
    distance: float
    confidence: float
    distances: tuple[float, ...]


class SyncNet(nn.Module):
    """Windows of mouth crops and of sound -> unit vectors. Window w has frames w to w + window - 1 and exactly their
    sound."""

    hann: Tensor
    mel: Tensor

    def __init__(self, config: SyncNetConfig | None = None):
        super().__init__()
        self.config = config = config or SyncNetConfig()
        self.register_buffer("hann", torch.hann_window(WINDOW), persistent=False)
        self.register_buffer("mel", mel_filters(), persistent=False)
        self.logit_scale = nn.Parameter(torch.tensor(2.5))  # log of the inverse temperature
        widths, audio = config.widths, config.audio_width
        # As in the paper, the frames of a window are the channels of one picture.
        self.video_encoder = nn.Sequential(
            *(downsample(a, b) for a, b in zip((config.window, *widths), widths)),
            nn.Flatten(),
            nn.Linear(widths[-1] * (SIDE // 2 ** len(widths)) ** 2, 256),
            nn.SiLU(),
            nn.Linear(256, config.embedding),
        )
        # No padding anywhere: 5 spectra, then 4 at a time, then as many as makes a window of 4 `window` spectra.
        self.audio_encoder = nn.Sequential(
            nn.Conv1d(MELS, audio, MELS_PER_FRAME + 1),
            nn.SiLU(),
            nn.Conv1d(audio, audio, MELS_PER_FRAME, stride=MELS_PER_FRAME),
            nn.SiLU(),
            nn.Conv1d(audio, 256, config.window - 1),
            nn.SiLU(),
            nn.Conv1d(256, config.embedding, 1),
        )

    def embed_video(self, crops: Tensor) -> Tensor:
        """Embed mouth crops [B, T, 40, 40] in 0..1 -> [B, T - window + 1, E]."""
        windows = crops.unfold(1, self.config.window, 1).movedim(-1, 2)
        # Exposure says nothing of speech.
        mean, deviation = windows.mean((2, 3, 4), keepdim=True), windows.std((2, 3, 4), keepdim=True)
        pictures = ((windows - mean) / (deviation + 0.02)).flatten(0, 1).contiguous(memory_format=torch.channels_last)
        return F.normalize(self.video_encoder(pictures).float(), dim=-1).reshape(*windows.shape[:2], -1)

    def embed_audio(self, spectra: Tensor) -> Tensor:
        """Embed log-mel spectra [B, MELS, 4 T] -> [B, T - window + 1, E]."""
        return F.normalize(self.audio_encoder((spectra + 6) / 4).float(), dim=1).transpose(1, 2)

    def spectra(self, samples: Tensor) -> Tensor:
        """Return log power in each mel band, [B, MELS, 4 T], of 16 kHz mono samples [B, 640 T], brought to one
        level."""
        levelled = torch.stack([row * levelling_gain(row) for row in samples.float()])
        margin = (WINDOW - HOP) // 2  # the four spectra of a frame are centred on it
        waves = torch.stft(
            F.pad(levelled, (margin, margin)), WINDOW, HOP, window=self.hann, center=False, return_complex=True
        )
        return torch.log(self.mel @ waves.abs().square() + FLOOR)

    @torch.no_grad()
    def measure(self, frames: Tensor, boxes: Tensor, samples: Tensor) -> Sync:
        """Find the delay of a clip.

        frames [T, S, S, 3] in 0..1 at 25 fps; boxes [T, 4] round the mouth, fractions of the side; samples [N], 16 kHz
        mono, from the same moment on (cut, or filled with silence, to the frames' length).
        Raises InputError for fewer frames than a delay can be found in.
        """
        crops = mouth_crops(frames.movedim(-1, 1)[None].float(), boxes[None])
        wanted = len(frames) * FRAME_SAMPLES
        sound = F.pad(samples[:wanted], (0, max(0, wanted - len(samples))))
        return synchrony(self.embed_video(crops)[0], self.embed_audio(self.spectra(sound[None]))[0])


def downsample(channels_in: int, channels_out: int) -> nn.Sequential:
    """Return two convolutions, the first of stride 2."""
    return nn.Sequential(
        nn.Conv2d(channels_in, channels_out, 3, stride=2, padding=1),
        nn.SiLU(),
        nn.GroupNorm(1, channels_out),
        nn.Conv2d(channels_out, channels_out, 3, padding=1),
        nn.SiLU(),
    )


def synchrony(video: Tensor, audio: Tensor) -> Sync:
    """Find the delay from embeddings [W, E] of a clip's windows.

    Each offset is compared over the windows that both have. Raises InputError where those are fewer than MIN_WINDOWS.
    """
    windows = len(video)
    if windows < MAX_OFFSET + MIN_WINDOWS:
        raise InputError(
            f"at least {MAX_OFFSET + MIN_WINDOWS} windows to find a delay in",
            f"{windows}",
            "Measure a clip of 30 frames or more.",
        )
    pairwise = torch.cdist(video[None].float(), audio[None].float())[0]
    # Picture k frames late: what window w + k shows is heard in window w, the diagonal k below the main one.
    distances = torch.stack([pairwise.diagonal(-k).mean() for k in range(-MAX_OFFSET, MAX_OFFSET + 1)])
    least = int(distances.argmin())
    confidence = distances.median() - distances[least]
    return Sync(least - MAX_OFFSET, distances[least].item(), confidence.item(), tuple(distances.tolist()))


def save_syncnet(path: Path, net: SyncNet, facts: dict) -> None:
    """Write a SyncNet; facts: how it was trained, and what was measured."""
    save_frozen(path, "syncnet", net, asdict(net.config), facts)


def load_syncnet(path: str | Path) -> SyncNet:
    """Read a SyncNet, frozen. Raises CheckpointError for a file that holds no whole one."""

    def build(config: dict) -> SyncNet:
        config = {RENAMED_CONFIG.get(key, key): value for key, value in config.items()}
        return SyncNet(SyncNetConfig(**{**config, "widths": tuple(config["widths"])}))

    return load_frozen(path, "syncnet", build, renamed=RENAMED_WEIGHTS)


def new_syncnet(seed: int, config: SyncNetConfig | None = None) -> SyncNet:
    """Return a SyncNet with random weights; the global generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return SyncNet(config)
