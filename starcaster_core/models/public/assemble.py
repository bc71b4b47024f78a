"""One STARCaster checkpoint out of public files, written tensor by tensor.

python -m starcaster_core assemble --unet arc2face --identity-encoder encoder --vae vae --motion mm_sd_v15_v2.ckpt \
    --audio-encoder wav2vec2-base --out sd15.safetensors

What no file brings gets initial values that change nothing (`fresh.py`); the metadata lists it under `untrained`, and
whoever asks such a model for speech or a camera path is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...errors import InputError
from ...presets import PRESETS, ModelConfig
from ..starcaster import Starcaster
from ..weight_groups import GROUPS, group_of
from .clip import read_identity_encoder
from .delta import PRECISIONS, Delta, open_delta, read_delta
from .fresh import fresh_weights
from .layouts import Part, Shapes, below
from .lora import read_lora
from .motion import read_motion
from .parts import PUBLIC_FILES
from .unet import read_unet
from .vae import read_vae
from .wav2vec2 import read_wav2vec2
from .weights import Lazy, sha256
from .writer import write_streaming

LCM_DEFAULTS = {"steps": 4, "guidance_scale": 1.0}  # LCM oversaturates with guidance
# What those modules were trained with; Stable Diffusion's own betas make them flicker.
MOTION_BETAS = "linear"


@dataclass(frozen=True)
class Ingredients:
    """Files or folders to assemble from; `PUBLIC_FILES` says what each is. None leaves a part untrained or out."""

    unet: Path
    identity_encoder: Path
    vae: Path
    motion: Path | None = None
    audio_encoder: Path | None = None
    lcm_lora: Path | None = None
    delta: Path | None = None

    def __post_init__(self):
        for file in PUBLIC_FILES:
            if file.needed and getattr(self, file.name) is None:
                raise InputError(f"a file for {file.name} ({file.gives})", "none", f"Name {file.where}.")


@dataclass(frozen=True)
class Assembly:
    """Everything that is to be written, still on the disk."""

    config: ModelConfig
    weights: dict[str, Lazy]
    provenance: dict


def assemble(
    ingredients: Ingredients,
    out: str | Path,
    precision: str = "float16",
    config: ModelConfig = PRESETS["sd15"],
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Assembly:
    """Writes the checkpoint `out`, a STARCaster .safetensors file; nothing is left behind when it fails.

    precision: how weights are stored, a key of PRECISIONS. config: what to build unless a delta brings its own.
    progress: called with (tensors done, of how many).
    Raises CheckpointError for files that do not hold exactly what they should.
    """
    assembly = gather(ingredients, config)
    metadata = {"starcaster": json.dumps(assembly.config.to_dict()), "provenance": json.dumps(assembly.provenance)}
    write_streaming(Path(out), assembly.weights, metadata, PRECISIONS[precision], progress)
    return assembly


def gather(ingredients: Ingredients, config: ModelConfig) -> Assembly:
    """Reads names and shapes, settles the configuration, and finds a source for every weight."""
    delta_file, delta_facts = open_delta(ingredients.delta) if ingredients.delta else (None, {})
    config = delta_facts.get("config", config)
    inside = ingredients.audio_encoder is not None
    config = replace(config, conditioning=replace(config.conditioning, wav2vec2_inside=inside))
    shapes = shapes_of(config)
    delta = read_delta(delta_file, delta_facts, shapes) if delta_file else None

    parts = read_parts(ingredients, shapes, delta)
    weights = {f"{prefix}{name}": lazy for prefix, part in parts.values() for name, lazy in part.weights.items()}
    if delta:
        weights |= delta.weights
    config = settle(config, parts, delta, ingredients)
    model = meta_model(config)

    missing = [name for name in model.state_dict() if name not in weights]
    weights |= fresh_weights(model, missing)
    provenance = {"made by": "assemble", "untrained": untrained(missing), "parts": described(parts, delta)}
    if ingredients.lcm_lora:
        file, changes = read_lora(ingredients.lcm_lora, image_unet(shapes))
        for name, change in changes.items():
            weights[f"unet.{name}"] = weights[f"unet.{name}"].plus(change)
        provenance["parts"]["lcm_lora"] = {"file": file.name, "sha256": sha256(file), "merged into": len(changes)}
    return Assembly(config, {name: weights[name] for name in model.state_dict()}, provenance)


def read_parts(ingredients: Ingredients, shapes: Shapes, delta: Delta | None) -> dict[str, tuple[str, Part]]:
    """-> {ingredient: (prefix of its weights in the model, part)}"""
    parts = {
        "unet": ("unet.", read_unet(ingredients.unet, image_unet(shapes))),
        "identity_encoder": (
            "identity_tokens.text.",
            read_identity_encoder(ingredients.identity_encoder, below("identity_tokens.text.", shapes)),
        ),
        "vae": ("vae.kl.", read_vae(ingredients.vae, below("vae.kl.", shapes))),
    }
    if ingredients.motion and not (delta and "motion" in delta.groups):
        parts["motion"] = ("unet.", read_motion(ingredients.motion, motion_modules(shapes)))
    if ingredients.audio_encoder:
        prefix = "speech_encoder.network."
        parts["audio_encoder"] = (prefix, read_wav2vec2(ingredients.audio_encoder, below(prefix, shapes)))
    return parts


def settle(config: ModelConfig, parts: dict, delta: Delta | None, ingredients: Ingredients) -> ModelConfig:
    """The configuration that goes with these files: a delta's as it is, else what the public ones were made for."""
    if "motion" in parts:
        frames = min(parts["motion"][1].facts["frames"], config.unet.motion_max_seq_length)
        config = replace(config, unet=replace(config.unet, motion_max_seq_length=frames))
        if delta is None:
            config = replace(config, noise=replace(config.noise, beta_schedule=MOTION_BETAS))
    if ingredients.lcm_lora:
        config = replace(config, **LCM_DEFAULTS)
    return config


def untrained(fresh: list[str]) -> list[str]:
    """The groups of a delta that have initial values. Motion counts when the middle block is not all that lacks it."""
    trainable = [name for name in fresh if not name.endswith(".pe")]
    groups = {
        group_of(name) for name in trainable if group_of(name) != "motion" or not name.startswith("unet.mid_block.")
    }
    return [group for group in GROUPS if group in groups]


def described(parts: dict[str, tuple[str, Part]], delta: Delta | None) -> dict:
    facts = {
        name: {"file": part.file.name, "sha256": sha256(part.file), "layout": part.layout, **part.facts}
        for name, (_, part) in parts.items()
    }
    if delta:
        facts["delta"] = {
            "file": delta.file.name,
            "sha256": sha256(delta.file),
            "groups": list(delta.groups),
            "provenance": delta.provenance,
        }
    return facts


def meta_model(config: ModelConfig) -> Starcaster:
    """The model's names and shapes, without its memory."""
    with torch.device("meta"):
        return Starcaster(config)


def shapes_of(config: ModelConfig) -> Shapes:
    return {name: tuple(value.shape) for name, value in meta_model(config).state_dict().items()}


def image_unet(shapes: Shapes) -> Shapes:
    """Of the UNet what diffusers' image UNet has as well."""
    return {name: shape for name, shape in below("unet.", shapes).items() if group_of(name) is None}


def motion_modules(shapes: Shapes) -> Shapes:
    return {name: shape for name, shape in below("unet.", shapes).items() if group_of(name) == "motion"}


# The command line


def add_arguments(parser: argparse.ArgumentParser) -> None:
    for file in PUBLIC_FILES:
        option = "--" + file.name.replace("_", "-")
        parser.add_argument(
            option, type=Path, required=file.needed, metavar="PATH", help=f"{file.gives}: {file.file} of {file.source}"
        )
    parser.add_argument("--precision", choices=PRECISIONS, default="float16", help="how the weights are stored")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="the .safetensors file to write")


def run(args: argparse.Namespace) -> None:
    if args.out.suffix != ".safetensors":
        raise InputError("an output file ending in .safetensors", str(args.out), "Change --out.")
    ingredients = Ingredients(**{file.name: getattr(args, file.name) for file in PUBLIC_FILES})
    assembly = assemble(ingredients, args.out, args.precision, progress=show_progress)
    print(f"\n{args.out}: {report(assembly)}")


def report(assembly: Assembly) -> str:
    """What was written, in a sentence or two."""
    count = sum(torch.Size(lazy.shape).numel() for lazy in assembly.weights.values())
    parts = ", ".join(f"{name} ({facts['file']})" for name, facts in assembly.provenance["parts"].items())
    untrained = assembly.provenance["untrained"]
    warning = f" Untrained, and without effect: {', '.join(untrained)}." if untrained else ""
    return f"{count / 1e9:.2f} billion weights from {parts}.{warning}"


def show_progress(done: int, total: int) -> None:
    if sys.stderr.isatty():
        print(f"\r{done}/{total} tensors", end="", file=sys.stderr, flush=True)
