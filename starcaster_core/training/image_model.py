"""Trains the image model, which draws a person from an embedding (`models/image_model.py`).

    python -m starcaster_core.training.image_model --pictures PICTURES --model mini --minutes 100 --out DIR

It begins with the 2D weights of the model's own UNet, or with those of its image model where it has one, and is
resumed where it was stopped. `DIR/image.safetensors` is the model with it; grids show held-out people.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..command import add_debug, run_command
from ..models.checkpoint import build, find_checkpoint, read_checkpoint, save_checkpoint
from ..models.image_model import ImageModel
from ..models.starcaster import Starcaster
from ..presets import ModelConfig, UNetConfig
from ..sampling.portraits import draw_portraits
from ..sampling.schedules import alpha_sigma, alphas_cumprod
from .curves import last_row
from .decoder_stage import revision, without_folders
from .diffusion import box_weights, clean_error_weights
from .identity_pictures import load_pictures
from .loop import LoopSettings, autocast, step_generator, train

BATCH = 48
PHOTOS = 0.6  # fraction of photos in a batch, the others are renders
UNKNOWN = 0.1  # fraction of pictures whose embedding is hidden, for guidance; the same of attributes
BLUR = 0.015  # standard deviation of what is added to an embedding, about as far as another photo of the person lies
FACE, FACE_WEIGHT = (0.25, 0.31, 0.75, 0.85), 2.0  # box x0, y0, x1, y1 in picture sides; weight of an error there
TIMESTEP_POWER = 0.7  # timesteps are drawn as 1000 u^power: it is among noisy ones that it is decided who is seen
SHOWN = 8  # people of a grid


def image_config(config: ModelConfig) -> UNetConfig:
    """Return the configuration of a model's image model: its own, or its UNet with nothing but the 2D weights."""
    bare = replace(config.unet, motion=False, lora_rank=0, audio_and_camera=False)
    return config.image_model or bare


def with_image_model(model: Starcaster) -> Starcaster:
    """Give a model an image model with the weights of its own UNet and identity tokens, unless it has one."""
    if model.image_model is None:
        config = image_config(model.config)
        made = ImageModel(config, model.config.conditioning)
        known = model.unet.state_dict()
        made.unet.load_state_dict({name: known[name] for name in made.unet.state_dict()})
        made.identity_tokens.load_state_dict(model.identity_tokens.state_dict())
        model.image_model, model.config = made, replace(model.config, image_model=config)
    return model


def draw_rows(pictures: dict[str, dict[str, Tensor]], generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw a batch: latents [B, C, 1, h, w], embeddings [B, E] and attributes [B, len(ATTRIBUTES)]."""
    parts = []
    for kind, part in (("photos", round(BATCH * PHOTOS)), ("renders", BATCH - round(BATCH * PHOTOS))):
        known = pictures[kind]
        rows = torch.randint(len(known["latents"]), (part,), generator=generator)
        which = torch.randint(known["latents"].shape[1], (part,), generator=generator)
        parts.append(
            (known["latents"][rows, which].float(), known["embedding"][rows], known["attributes"][rows, which])
        )
    latents, embedding, attributes = (torch.cat(column) for column in zip(*parts))
    embedding = embedding + BLUR * torch.randn(embedding.shape, generator=generator)
    hidden = torch.rand(len(attributes), 1, generator=generator) < UNKNOWN
    return latents[:, :, None], embedding, attributes.masked_fill(hidden, torch.nan)


class ImageLoss:
    """Call with a generator -> the weighted squared error of predicted clean latents, scalar; noise counts as in
    `diffusion.DenoisingLoss`."""

    def __init__(self, model: Starcaster, pictures: dict[str, dict[str, Tensor]]):
        self.model, self.pictures = model, pictures
        self.alphas_cumprod = alphas_cumprod(model.config.noise)
        self.weights = box_weights(torch.tensor(FACE)[None, None], model.config.latent_size, FACE_WEIGHT)

    def __call__(self, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        latents, embedding, attributes = draw_rows(self.pictures, generator)
        count = len(latents)
        timesteps = (1000 * torch.rand(count, generator=generator) ** TIMESTEP_POWER).long().clamp(max=999)
        alpha, sigma = alpha_sigma(self.alphas_cumprod, timesteps, latents)
        noise = torch.randn(latents.shape, generator=generator)
        unknown = torch.rand(count, generator=generator) < UNKNOWN
        network = self.model.image_model
        predicted = network(alpha * latents + sigma * noise, timesteps, embedding, attributes, unknown).float()
        snr = 1 / sigma.square().clamp(min=1e-6) - 1
        error = (predicted - latents).square() * clean_error_weights(snr) * self.weights
        photos = round(BATCH * PHOTOS)
        return error.mean(), {"photos": error[:photos].mean().item(), "renders": error[photos:].mean().item()}


@torch.no_grad()
def show_people(model: Starcaster, people: dict[str, Tensor], path: Path, seeds: int = 2) -> None:
    """Write a PNG: the truth of some people, and below them pictures drawn from their embeddings."""
    from PIL import Image

    rows = [people["latents"][:SHOWN, 0].float()]
    rows += [draw_portraits(model, people["embedding"][:SHOWN], seed)[:, :, 0].float() for seed in range(seeds)]
    pictures = [model.decode_frames(row.transpose(0, 1)[None]).numpy() for row in rows]
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.concatenate([np.concatenate(list(row), axis=1) for row in pictures])
    Image.fromarray((255 * pixels).round().astype(np.uint8)).save(path)


def run(args: argparse.Namespace) -> None:
    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(args.seed)
    config, weights, provenance = read_checkpoint(find_checkpoint(args.model))
    model = with_image_model(build(config, weights, args.model, untrained=provenance.get("untrained", ())))
    pictures = {kind: load_pictures(args.pictures, kind) for kind in ("photos", "renders")}
    shown = load_pictures(args.held_out) if args.held_out else pictures["photos"]
    model.requires_grad_(False)
    model.image_model.requires_grad_(True)
    loss = ImageLoss(model, pictures)

    def loss_of_draw(number: int):
        with autocast(args.precision):
            return loss(step_generator(args.seed, "image", number))

    def show(step: int) -> None:
        show_people(model, shown, args.out / "grids" / f"image-{step:06}.png")

    settings = LoopSettings(
        args.minutes, learning_rate=args.learning_rate, steps=args.steps, show_minutes=args.grid_minutes, ema=0.999
    )
    train(model.image_model, loss_of_draw, settings, args.out, "image", show=show)
    provenance["image_model"] = {
        "command": "python -m starcaster_core.training.image_model " + " ".join(without_folders(sys.argv[1:])),
        "seed": args.seed,
        "log": last_row(args.out / "image.csv"),
        "people": {kind: len(known["latents"]) for kind, known in pictures.items()},
        "begun_from": provenance.get("image_model"),
        "revision": revision(),
    }
    save_checkpoint(args.out / "image.safetensors", model, provenance)
    print(json.dumps({"finished": "image"}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=Path, required=True, help="folder made by training.identity_pictures")
    parser.add_argument("--held-out", type=Path, help="such a folder of other people, for the grids")
    parser.add_argument("--model", default="mini", help="built-in name or checkpoint that the image model goes into")
    parser.add_argument("--minutes", type=float, default=100, help="all resumed runs together")
    parser.add_argument("--steps", type=int, default=0, help="instead of minutes")
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--grid-minutes", type=float, default=10)
    parser.add_argument("--precision", default="auto", help="auto, float32 or bfloat16")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads, 0 = as PyTorch chooses")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    add_debug(parser)
    run(parser.parse_args())


if __name__ == "__main__":
    raise SystemExit(run_command("train the image model", main))
