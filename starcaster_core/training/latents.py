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

import torch
from torch import Tensor

from ..data.shards import find_shards, read_shard
from ..errors import InputError
from ..models.autoencoder import PatchAutoencoder
from ..models.checkpoint import cpu_precision, load_checkpoint
from ..presets import MINI, ModelConfig
from ..speech.phonetic import PhoneticEncoder

KINDS = ("temporal", "spatial", "joint")
SPLITS = ("train", "val", "test")


@dataclass
class ClipSet:
    """N clips of T frames in memory.

    latents: float16 [N, T, C, h, w], unit variance. speech: float16 [N, T, F]. camera: float32 [N, T, 25].
    mouth: float32 [N, T, 4], box x0, y0, x1, y1 as fractions of the frame. embedding: float32 [N, 128].
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


def encode_shard(shard: Path, vae: PatchAutoencoder, speech: PhoneticEncoder, config: ModelConfig) -> dict[str, Tensor]:
    rows: dict[str, list[Tensor]] = {name: [] for name in ClipSet.__annotations__}
    for clip in read_shard(shard):
        frames = torch.from_numpy(clip.frames).permute(0, 3, 1, 2).float() / 127.5 - 1
        latents = vae.encode(frames.to(vae.patch_in.weight.dtype)).float() * config.autoencoder.scaling_factor
        count = len(frames)
        if clip.audio is None:
            features = torch.zeros(count, config.conditioning.speech_dim)
        else:
            features = speech.encode(torch.from_numpy(clip.audio.copy()), config.fps).features[:count]
        poses = torch.from_numpy(clip.truth["world_from_cam"]).reshape(count, 16)
        lens = torch.from_numpy(clip.truth["intrinsics"]).reshape(count, 9)
        rows["latents"].append(latents.half())
        rows["speech"].append(features.half())
        rows["camera"].append(torch.cat([poses, lens], dim=1).float())
        rows["mouth"].append(torch.from_numpy(clip.truth["mouth_box"]).float() / clip.frames.shape[1])
        rows["embedding"].append(torch.from_numpy(clip.truth["embedding"]).float())
        rows["kind"].append(torch.tensor(KINDS.index(clip.info["kind"])))
        rows["split"].append(torch.tensor(SPLITS.index(clip.info["split"])))
        rows["identity"].append(torch.tensor(clip.info["identity"]))
    return {name: torch.stack(values).contiguous() for name, values in rows.items()}


def load_helpers(vae_file: Path, speech_file: Path, config: ModelConfig) -> tuple[PatchAutoencoder, PhoneticEncoder]:
    """The frozen autoencoder and speech encoder, from the files their trainings wrote."""
    from safetensors.torch import load_file

    vae, speech = PatchAutoencoder(config.autoencoder), PhoneticEncoder()
    vae.load_state_dict(load_file(vae_file))
    speech.load_state_dict(load_file(speech_file))
    return vae.to(memory_format=torch.channels_last), speech.eval()


@torch.no_grad()
def encode_shards(data: Path, out: Path, vae: PatchAutoencoder, speech: PhoneticEncoder, config: ModelConfig) -> int:
    """Encodes the shards that are new; returns how many there were."""
    from safetensors.torch import save_file

    vae.to(cpu_precision())
    out.mkdir(parents=True, exist_ok=True)
    new = [shard for shard in find_shards(data) if not (out / f"{shard.stem}.safetensors").exists()]
    for shard in new:
        unfinished = out / f"{shard.stem}.part"
        save_file(encode_shard(shard, vae, speech, config), unfinished)
        unfinished.replace(out / f"{shard.stem}.safetensors")
    return len(new)


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
    parser.add_argument("--data", type=Path, required=True, help="folder of shards made by `synth`")
    parser.add_argument(
        "--model", help="'mini' or a checkpoint: take the autoencoder and the speech encoder from there"
    )
    parser.add_argument("--autoencoder", type=Path, help="autoencoder.safetensors, without --model")
    parser.add_argument("--speech", type=Path, help="phonetic.safetensors, without --model")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    if args.model:
        model = load_checkpoint(args.model)
        config, vae, speech = model.config, model.vae, model.speech_encoder
    else:
        config = MINI
        vae, speech = load_helpers(args.autoencoder, args.speech, config)
    print(json.dumps({"shards": encode_shards(args.data, args.out, vae, speech, config)}))


if __name__ == "__main__":
    main()
