"""Clips as the denoiser sees them: latents, speech features, cameras and embeddings, encoded once and kept.

    python -m starcaster_core.training.latents --data DIR --autoencoder A.safetensors --speech P.safetensors --out DIR

Every shard becomes one safetensors file beside the others; shards that are done are not encoded again, so this can be
called while clips are still being made.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..data.shards import Clip, find_shards, read_shard
from ..errors import FaceError, InputError
from ..models.autoencoder import PatchAutoencoder
from ..models.checkpoint import load_checkpoint
from ..models.starcaster import Starcaster
from ..presets import MINI, ModelConfig
from ..speech.phonetic import PhoneticEncoder
from .loop import autocast, training_device

KINDS = ("temporal", "spatial", "joint")
SPLITS = ("train", "val", "test")


@dataclass
class ClipSet:
    """N clips of T frames in memory.

    latents: float16 [N, T, C, h, w], unit variance. speech: float16 [N, T, F]. camera: float32 [N, T, 25].
    mouth: float32 [N, T, 4], box x0, y0, x1, y1 as fractions of the frame. embedding: float32 [N, E].
    kind, split: int [N] into KINDS and SPLITS. identity: int [N].
    """

    latents: Tensor
    speech: Tensor
    camera: Tensor
    mouth: Tensor
    embedding: Tensor
    kind: Tensor
    split: Tensor
    identity: Tensor

    def where(self, split: str, kind: str) -> Tensor:
        """Indices of the clips of one split and kind"""
        return ((self.split == SPLITS.index(split)) & (self.kind == KINDS.index(kind))).nonzero()[:, 0]


FRAMES_AT_ONCE = 8  # through the autoencoder
FACES_A_CLIP = 5  # frames that a recogniser looks at


def encode_shard(shard: Path, model: Starcaster, recogniser=None) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {name: [] for name in ClipSet.__annotations__}
    for clip in read_shard(shard):
        count = len(clip.frames)
        poses = torch.from_numpy(clip.truth["world_from_cam"]).reshape(count, 16)
        lens = torch.from_numpy(clip.truth["intrinsics"]).reshape(count, 9)
        rows["latents"].append(encode_frames(model, clip.frames).half())
        rows["speech"].append(encode_sound(model, clip).half())
        rows["camera"].append(torch.cat([poses, lens], dim=1).float())
        rows["mouth"].append(torch.from_numpy(clip.truth["mouth_box"]).float() / clip.frames.shape[1])
        rows["embedding"].append(embedding_of(clip, recogniser))
        rows["kind"].append(torch.tensor(KINDS.index(clip.info["kind"])))
        rows["split"].append(torch.tensor(SPLITS.index(clip.info["split"])))
        rows["identity"].append(torch.tensor(clip.info["identity"]))
    return {name: torch.stack(values).contiguous() for name, values in rows.items()}


def encode_frames(model: Starcaster, frames: np.ndarray) -> Tensor:
    """uint8 [T, S, S, 3] -> latents [T, C, h, w] on the CPU; resized to the model's size"""
    parts = torch.from_numpy(frames).split(FRAMES_AT_ONCE)
    with autocast():
        latents = [model.encode_frames(part.float() / 255)[0].float().cpu() for part in parts]
    return torch.cat(latents, dim=1).transpose(0, 1)


def encode_sound(model: Starcaster, clip: Clip) -> Tensor:
    """Features [T, F] of the model's own speech encoder, zeros for a silent clip"""
    count = len(clip.frames)
    if clip.audio is None:
        return torch.zeros(count, model.config.conditioning.speech_dim)
    return model.encode_speech(torch.from_numpy(clip.audio.copy())).features[:count].float().cpu()


def embedding_of(clip: Clip, recogniser=None) -> Tensor:
    """Who is shown, float32 [E]: what came with the clip (dlib), or the mean of what a recogniser (`detect`, `embed`) sees
    in some of its frames. Raises FaceError where it finds no face."""
    if recogniser is None:
        return torch.from_numpy(clip.truth["embedding"]).float()
    seen = []
    for number in np.linspace(0, len(clip.frames) - 1, FACES_A_CLIP).round().astype(int):
        faces = recogniser.detect(clip.frames[number])
        if faces:
            seen.append(recogniser.embed(clip.frames[number], faces[0]))
    if not seen:
        raise FaceError(f"a face that {recogniser.name} finds", f"none in clip {clip.key}", "Leave the clip out.")
    return torch.from_numpy(np.mean(seen, axis=0)).float()


def load_helpers(vae_file: Path, speech_file: Path, config: ModelConfig) -> tuple[PatchAutoencoder, PhoneticEncoder]:
    """The frozen autoencoder and speech encoder, from the files their trainings wrote."""
    from safetensors.torch import load_file

    vae, speech = PatchAutoencoder(config.autoencoder), PhoneticEncoder()
    vae.load_state_dict(load_file(vae_file))
    speech.load_state_dict(load_file(speech_file))
    return vae.to(memory_format=torch.channels_last), speech.eval()


def new_model(config: ModelConfig, vae_file: Path, speech_file: Path, seed: int) -> Starcaster:
    """Untrained, but for the frozen autoencoder and speech encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Starcaster(config)
    model.vae, model.speech_encoder = load_helpers(vae_file, speech_file, model.config)
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def encode_shards(data: Path, out: Path, model: Starcaster, recogniser=None) -> int:
    """Encodes the shards that are new; returns how many there were. recogniser: None for the embeddings that come with
    the clips, dlib's."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    new = [shard for shard in find_shards(data) if not (out / f"{shard.stem}.safetensors").exists()]
    for shard in new:
        unfinished = out / f"{shard.stem}.part"
        save_file(encode_shard(shard, model, recogniser), unfinished)
        unfinished.replace(out / f"{shard.stem}.safetensors")
    return len(new)


def recogniser_for(config: ModelConfig, folders: list[Path]):
    """None where the clips' own embeddings (dlib) are what the model understands"""
    if config.identity_backend == "dlib":
        return None
    from ..identity import load_recogniser

    return load_recogniser(config.identity_backend, folders)


def load_clips(folder: Path) -> ClipSet:
    """All encoded shards of a folder, in memory."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError("encoded clips", f"none in {folder}", "Run `python -m starcaster_core.training.latents`.")
    parts = [load_file(file) for file in files]
    return ClipSet(**{name: torch.cat([part[name] for part in parts]) for name in ClipSet.__annotations__})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth` or `clips`")
    parser.add_argument("--model", help="'mini' or a checkpoint: take autoencoder and speech encoder from there")
    parser.add_argument("--autoencoder", type=Path, help="autoencoder.safetensors, without --model")
    parser.add_argument("--speech", type=Path, help="phonetic.safetensors, without --model")
    parser.add_argument(
        "--recognisers", type=Path, nargs="+", default=[], help="folders with ArcFace's files, for sd15"
    )
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.model:
        model = load_checkpoint(args.model, torch.float32)
    else:
        model = new_model(MINI, args.autoencoder, args.speech, 0)
    recogniser = recogniser_for(model.config, args.recognisers)
    shards = encode_shards(args.data, args.out, model.to(training_device()), recogniser)
    print(json.dumps({"shards": shards}))


if __name__ == "__main__":
    main()
