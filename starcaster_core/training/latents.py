"""Clips as the denoiser sees them: latents, speech features, cameras and embeddings, encoded once and kept.

    python -m starcaster_core.training.latents --data DIR --autoencoder A.safetensors --speech P.safetensors --out DIR

Every shard becomes one safetensors file beside the others; shards that are done are not encoded again, so this can be
called while clips are still being made. Clips that are damaged or show no face are left out; `left_out.json` says why.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..command import add_debug, run_command
from ..conventions import KINDS, SPLITS
from ..data.performance import BROWS_DOWN, RESTING_BROWS
from ..data.shards import Clip, find_shards, readable_clips
from ..errors import FaceError, InputError
from ..files import atomic_write
from ..head_motion import CHANNELS, normalise
from ..models.autoencoder import load_autoencoder
from ..models.checkpoint import load_checkpoint
from ..models.phonetic import load_phonetic
from ..models.starcaster import Starcaster
from ..models.weight_groups import GROUPS
from ..presets import MINI, ModelConfig
from .lazy_concat import LazyConcat
from .loop import autocast, training_device


@dataclass
class ClipSet:
    """N clips of T frames. Latents and speech may stay in their files (`LazyConcat`); the rest is in memory.

    latents: float16 [N, T, C, h, w], unit variance. speech: float16 [N, T, F]. camera: float32 [N, T, 25].
    mouth, eyes: float32 [N, T, 4], box x0, y0, x1, y1 as fractions of the frame. head_motion: float32 [N, T,
    len(CHANNELS)], what the head does besides speaking (`starcaster_core/head_motion.py`), turns from straight ahead;
    zeros where unknown.
    embedding: float32 [N, E].
    kind, split: int [N] into KINDS and SPLITS. identity: int [N].
    """

    latents: Tensor | LazyConcat
    speech: Tensor | LazyConcat
    camera: Tensor
    mouth: Tensor
    eyes: Tensor
    head_motion: Tensor
    embedding: Tensor
    kind: Tensor
    split: Tensor
    identity: Tensor

    def where(self, split: str, kind: str) -> Tensor:
        """Return the indices of the clips of one split and kind."""
        return ((self.split == SPLITS.index(split)) & (self.kind == KINDS.index(kind))).nonzero()[:, 0]


ON_DISK = ("latents", "speech")  # by far the largest
FRAMES_AT_ONCE = 8  # through the autoencoder
EYE_MARGIN = 0.03  # of a picture's side, round the eyes
FACES_A_CLIP = 5  # frames that a recogniser looks at


def encode_shard(
    shard: Path, model: Starcaster, recogniser=None, left_out: dict[str, str] | None = None
) -> dict[str, Tensor]:
    """Encode the clips of one shard -> the fields of ClipSet; {} where none can be used. left_out: takes why others
    cannot, by shard or clip."""
    rows: dict[str, list[Tensor]] = {name: [] for name in ClipSet.__annotations__}
    left_out = {} if left_out is None else left_out
    for clip in readable_clips([shard], left_out):
        try:
            embedding = embedding_of(clip, recogniser)
        except FaceError as error:
            left_out[f"{shard}: {clip.key}"] = str(error)
            continue
        count = len(clip.frames)
        poses = torch.from_numpy(clip.truth["world_from_cam"]).reshape(count, 16)
        lens = torch.from_numpy(clip.truth["intrinsics"]).reshape(count, 9)
        rows["latents"].append(encode_frames(model, clip.frames).half())
        rows["speech"].append(encode_sound(model, clip).half())
        rows["camera"].append(torch.cat([poses, lens], dim=1).float())
        rows["mouth"].append(torch.from_numpy(clip.truth["mouth_box"]).float() / clip.frames.shape[1])
        rows["eyes"].append(torch.from_numpy(eye_boxes(clip)) / clip.frames.shape[1])
        rows["head_motion"].append(torch.from_numpy(head_motion_of(clip)))
        rows["embedding"].append(embedding)
        rows["kind"].append(torch.tensor(KINDS.index(clip.info["kind"])))
        rows["split"].append(torch.tensor(SPLITS.index(clip.info["split"])))
        rows["identity"].append(torch.tensor(clip.info["identity"]))
    return {name: torch.stack(values).contiguous() for name, values in rows.items() if values}


def eye_boxes(clip: Clip) -> np.ndarray:
    """Return one box round both eyes with a margin, float32 [T, 4] in pixels."""
    names, size = clip.info["landmark_names"], clip.info["size"]
    eyes = clip.truth["landmarks"][:, ["eye" in name for name in names]]
    margin = EYE_MARGIN * size
    return np.concatenate([eyes.min(axis=1) - margin, eyes.max(axis=1) + margin], axis=1).astype(np.float32)


def head_motion_of(clip: Clip) -> np.ndarray:
    """Return the head motion of a clip, float32 [T, len(CHANNELS)], see ClipSet."""
    if "expression" not in clip.truth:
        return np.zeros((len(clip.truth["mouth_box"]), len(CHANNELS)), np.float32)
    weights = dict(zip(clip.info["unit_names"], clip.truth["expression"].T))
    right = weights["eyeLookOutLeft"] - weights["eyeLookOutRight"]
    up = weights["eyeLookUpLeft"] - weights["eyeLookDownLeft"]
    brows = weights["browInnerUp"] - RESTING_BROWS - weights["browDownLeft"] / BROWS_DOWN
    gaze = np.stack([right, up], axis=1)
    return normalise(head_degrees(clip.truth["head_rotation"]), weights["eyeBlinkLeft"], gaze, brows[:, None])


def head_degrees(rotation: np.ndarray) -> np.ndarray:
    """Convert rotations [T, 3, 3] to yaw, pitch, roll [T, 3]; undoes `head_motion.rotations`."""
    yaw = np.arctan2(rotation[:, 0, 2], rotation[:, 2, 2])
    pitch = np.arcsin(rotation[:, 1, 2])
    roll = np.arctan2(rotation[:, 1, 0], rotation[:, 1, 1])
    return np.degrees(np.stack([yaw, pitch, roll], axis=1))


def encode_frames(model: Starcaster, frames: np.ndarray) -> Tensor:
    """Encode frames uint8 [T, S, S, 3] to latents [T, C, h, w] on the CPU; resized to the model's size."""
    parts = torch.from_numpy(frames).split(FRAMES_AT_ONCE)
    with autocast():
        latents = [model.encode_frames(part.float() / 255)[0].float().cpu() for part in parts]
    return torch.cat(latents, dim=1).transpose(0, 1)


@torch.no_grad()
def through_autoencoder(model: Starcaster, frames: Tensor) -> Tensor:
    """Encode and decode frames uint8 [T, H, W, 3] -> [T, S, S, 3] in 0..1."""
    parts = (model.encode_frames(part.float() / 255) for part in frames.split(model.config.chunk_frames))
    return torch.cat([model.decode_frames(latents) for latents in parts])


def encode_sound(model: Starcaster, clip: Clip) -> Tensor:
    """Return features [T, F] of the model's own speech encoder, zeros for a silent clip."""
    count = len(clip.frames)
    if clip.audio is None:
        return torch.zeros(count, model.config.conditioning.speech_dim)
    return model.encode_speech(torch.from_numpy(clip.audio.copy())).features[:count].float().cpu()


def embedding_of(clip: Clip, recogniser=None) -> Tensor:
    """Return the embedding of a clip's person, float32 [E]: what came with the clip (dlib), or the mean of what a
    recogniser (`detect`, `embed`) sees in some of its frames. Raises FaceError where it finds no face."""
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


def new_model(config: ModelConfig, vae_file: Path, speech_file: Path, seed: int) -> Starcaster:
    """Return a model with random weights, but for the frozen autoencoder and speech encoder."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Starcaster(config)
    model.vae = load_autoencoder(vae_file, config.autoencoder)
    model.speech_encoder = load_phonetic(speech_file)
    model.untrained = tuple(GROUPS)
    return model.to(memory_format=torch.channels_last)


@torch.no_grad()
def encode_shards(data: Path, out: Path, model: Starcaster, recogniser=None) -> int:
    """Encode the shards that are new; return how many there were. recogniser: None for the embeddings that come with
    the clips, dlib's."""
    from safetensors.torch import save_file

    out.mkdir(parents=True, exist_ok=True)
    new = [shard for shard in find_shards(data) if not (out / f"{shard.stem}.safetensors").exists()]
    left_out: dict[str, str] = {}
    for shard in new:
        if clips := encode_shard(shard, model, recogniser, left_out):
            with atomic_write(out / f"{shard.stem}.safetensors") as part:
                save_file(clips, part)
    if left_out:
        with atomic_write(out / "left_out.json") as part:
            part.write_text(json.dumps(left_out, indent=1), encoding="utf-8")
        print(json.dumps({"left_out": left_out}), flush=True)
    return len(new)


def recogniser_for(config: ModelConfig, folders: list[Path]):
    """Load the recogniser of a model; None where the clips' own embeddings (dlib) are what it understands."""
    if config.identity_backend == "dlib":
        return None
    from ..identity import load_recogniser

    return load_recogniser(config.identity_backend, folders)


def load_clips(folder: Path) -> ClipSet:
    """Load all encoded shards of a folder. Raises InputError for none, and for those of an earlier version."""
    from safetensors.torch import load_file

    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise InputError("encoded clips", f"none in {folder}", "Run `python -m starcaster_core.training.latents`.")
    parts = [load_file(file) for file in files]
    for file, part in zip(files, parts):
        if missing := ClipSet.__annotations__.keys() - part.keys():
            got = f"{file} without {', '.join(sorted(missing))}"
            raise InputError("clips encoded by this version", got, "Encode them again into an empty folder.")
    columns = {name: [part[name] for part in parts] for name in ClipSet.__annotations__}
    return ClipSet(**{name: LazyConcat(rows) if name in ON_DISK else torch.cat(rows) for name, rows in columns.items()})


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
    add_debug(parser)
    args = parser.parse_args()
    if args.model:
        model = load_checkpoint(args.model, torch.float32)
    else:
        model = new_model(MINI, args.autoencoder, args.speech, 0)
    recogniser = recogniser_for(model.config, args.recognisers)
    shards = encode_shards(args.data, args.out, model.to(training_device()), recogniser)
    print(json.dumps({"shards": shards}))


if __name__ == "__main__":
    raise SystemExit(run_command("encode clips", main))
