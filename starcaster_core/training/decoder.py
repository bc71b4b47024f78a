"""Train the reference decoder on pairs of a portrait and a frame (`decoder_pairs.py`).

    python -m starcaster_core train --stage decoder --photos DIR --out DIR --minutes 90

The frame is compared with the truth by its colours and its edges, mouth and eyes once more in their crops. Where the
renderer knows the flow it is told, and where the portrait shows what the frame shows, the mask is drawn towards the
portrait: a mean of two pictures that nearly agree is what makes faces soft. How far the drawn lips are apart is told,
too; what reads it is trained first (`gap_reader.py`). Mouths are compared by features of a network that names pictures
as well, which a soft mouth differs in more than one that lies a pixel aside. Late and small, a discriminator of patches
asks for detail (Isola et al. 2017), in pairs (Jolicoeur-Martineau 2019).
"""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from ..models.checkpoint import build
from ..models.judges.perceptual import PerceptualDistance
from ..models.patch_discriminator import PatchDiscriminator
from ..models.reference_decoder import (
    ReferenceDecoder,
    crop_size,
    take_crops,
)
from ..models.starcaster import Starcaster
from ..presets import ReferenceDecoderConfig
from .autoencoder import edges
from .decoder_batches import PairBatch, PairFiles, collate, lips_of
from .decoder_pairs import Pair, count_pairs, read_pair
from .gap_reader import fit_gap_reader
from .interior import begin_interior
from .loop import LoopSettings, autocast, step_generator, train

REGION_WEIGHTS = {"mouth": 1.5, "right_eye": 0.5, "left_eye": 0.5}
EDGE_WEIGHT = 0.7
FLOW_WEIGHT = 20.0  # of an error in image sides, beside colours in -1..1
WARP_WEIGHT = 0.25  # of the moved photo alone
MASK_WEIGHT = 0.06
PERCEPTUAL_WEIGHT = 0.1  # of the mouth's distance: half as large a gradient again as its colours and edges have
GAP_NOISE = 0.004  # image sides: how wrong the opening is that the lips' flow follows from
ADVERSARIAL_WEIGHT, ADVERSARIAL_START, ADVERSARIAL_RAMP = 0.02, 0.35, 0.1  # the latter two in fractions of the budget
PENALTY_NOISE, PENALTY_WEIGHT = 0.1, 0.3
PATCH = 96  # pixels: side of the patches of the face for the discriminator


class DecoderLoss:
    """The loss of a batch of pairs; `progress` (0..1 of the budget) says when the discriminator joins.

    without: "discriminator" and "perceptual" of `recipe.DECODER_ABLATIONS` leave these parts out. start: when the
    discriminator joins. Raises InputError where the perceptual distance is not installed.
    """

    def __init__(self, decoder: ReferenceDecoder, without: Collection[str] = (), start: float = ADVERSARIAL_START):
        self.decoder, self.progress, self.start = decoder, 0.0, start
        self.adversarial = "discriminator" not in without
        self.perceptual = None if "perceptual" in without else PerceptualDistance()
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(0)
            self.discriminator = PatchDiscriminator().to(memory_format=torch.channels_last)

    def __call__(self, batch: PairBatch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        """Return the loss, whose gradients are those of the decoder and of the discriminator, and metrics."""
        with autocast():
            photo = self.decoder.open_photo(batch.source, batch.source_regions, lips_of(batch))
            gap = self.gaps(batch, generator)
            decoded = self.decoder(batch.drawn, photo, batch.geometry, batch.regions, gap=gap)
        target, visible = batch.target, batch.visible
        known = F.interpolate(batch.known, target.shape[-2:], mode="bilinear", align_corners=False)
        picture = compare(decoded.frame, target, known)
        metrics = {"picture": picture.item(), "discriminator": 0.0}
        loss = picture
        seen = F.interpolate(visible, target.shape[-2:], mode="nearest")
        crops = []
        for name, weight in REGION_WEIGHTS.items():
            made, mask, corner = decoded.crops[name]
            width, height = crop_size(name)
            truth, sure = take_crops(target, corner, width, height), take_crops(known, corner, width, height)
            error = compare(made, truth, sure)
            metrics[name] = error.item()
            shown = take_crops(seen, corner, width, height)
            loss = loss + weight * (error + MASK_WEIGHT * ((1 - mask) * shown).mean())
            crops.append((torch.lerp(truth, made, sure), truth))
            if name == "mouth" and self.perceptual is not None:
                with autocast():
                    unlike = self.perceptual(*crops[-1]).mean()
                metrics["perceptual"] = unlike.item()
                loss = loss + PERCEPTUAL_WEIGHT * unlike
        for flow in decoded.flows:
            error = flow_error(flow, batch.flow, visible)
            loss = loss + FLOW_WEIGHT * error * (1.0 if flow is decoded.flow else 0.3)
        metrics["flow"] = error.item()
        loss = loss + WARP_WEIGHT * ((decoded.warped - target).abs() * seen).mean()
        seen = F.interpolate(visible, decoded.mask.shape[-2:], mode="nearest")
        kept = ((1 - decoded.mask) * seen).mean()
        loss = loss + MASK_WEIGHT * kept
        metrics |= {"mask": decoded.mask.mean().item(), "painted_though_visible": kept.item()}
        strength = min(1.0, max(0.0, (self.progress - self.start) / ADVERSARIAL_RAMP))
        if self.progress >= self.start and self.adversarial:
            patches = [*crops, self.face_patch(torch.lerp(target, decoded.frame, known), target, generator)]
            for made, truth in patches:
                with autocast():
                    fooling, judging = patch_losses(self.discriminator, made, truth, generator)
                loss = loss + (strength * ADVERSARIAL_WEIGHT * fooling + judging) / len(patches)
                metrics["discriminator"] += judging.item() / len(patches)
        return loss, metrics

    @torch.no_grad()
    def gaps(self, batch: PairBatch, generator: torch.Generator) -> Tensor | None:
        """Return how far the lips are to be apart [B]: as it was told, a little wrong, or as the decoder reads it."""
        if self.decoder.gap_reader is None:
            return None
        read, truth = self.decoder.read_gap(batch.drawn, batch.regions), batch.gaps[:, 1]
        wrong = GAP_NOISE * torch.randn(read.shape, generator=generator)
        return torch.where(batch.told, (truth + wrong).clamp(min=0), read)

    @staticmethod
    def face_patch(frame: Tensor, target: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Cut one patch of each face out of the frame and out of the truth."""
        corner = (128 + torch.randint(0, 256 - PATCH, (len(target), 2), generator=generator)).long()
        return take_crops(frame, corner, PATCH, PATCH), take_crops(target, corner, PATCH, PATCH)


def compare(made: Tensor, truth: Tensor, known: Tensor) -> Tensor:
    """Return the mean absolute error of colours and of edges of pictures [B, 3, h, w], where the truth is known, [B, 1,
    h, w]."""
    made = torch.lerp(truth, made, known)
    error = (made - truth).abs().mean()
    for one, other in zip(edges(made), edges(truth)):
        error = error + EDGE_WEIGHT * (one - other).abs().mean()
    return error


def flow_error(flow: Tensor, truth: Tensor, visible: Tensor) -> Tensor:
    """Return the mean absolute error of a flow [B, 2, h, w], image sides, where the truth [B, 2, F, F] is known and
    visible."""
    factor = truth.shape[-1] // flow.shape[-1]
    known = F.avg_pool2d(visible, factor)
    wanted = F.avg_pool2d(truth * visible, factor) / known.clamp(min=1e-3)
    inside = (known > 0.5).float()
    return ((flow - wanted).abs() * inside).sum() / (2 * inside.sum()).clamp(min=1)


def patch_losses(
    discriminator: nn.Module, made: Tensor, truth: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return the relativistic losses of the decoder and of the discriminator, the latter with the gradient penalty of
    `adversarial.py`."""
    detached = made.detach()
    noise = [PENALTY_NOISE * torch.randn(made.shape, generator=generator) for _ in range(2)]
    logits = discriminator(torch.cat([truth, detached, truth + noise[0], detached + noise[1]])).float()
    on_truth, on_made, near_truth, near_made = logits.chunk(4)
    penalty = (near_truth - on_truth).square().mean() + (near_made - on_made).square().mean()
    frozen = {name: parameter.detach() for name, parameter in discriminator.named_parameters()}
    fooling = F.softplus(on_truth.detach() - functional_call(discriminator, frozen, (made,)).float()).mean()
    # Zero where it cannot tell them apart: the loop would take a loss that jumps for one that diverges.
    undecided = math.log(2)
    return fooling, F.softplus(on_made - on_truth).mean() - undecided + PENALTY_WEIGHT / PENALTY_NOISE**2 * penalty


# Pictures -------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def draw_grid(decoder: ReferenceDecoder, pairs: list[Pair], path: Path) -> None:
    """Write a PNG, for every pair: portrait, drawn frame, decoded frame, mask, truth."""
    from PIL import Image

    rows = []
    for pair in pairs:
        batch = collate([pair])
        photo = decoder.open_photo(batch.source, batch.source_regions, lips_of(batch))
        decoded = decoder(batch.drawn, photo, batch.geometry, batch.regions)
        side = batch.target.shape[-1]
        columns = [batch.source, batch.drawn, decoded.frame, 2 * decoded.mask.expand(-1, 3, -1, -1) - 1, batch.target]
        shown = [F.interpolate(x.float(), (side, side), mode="bilinear", align_corners=False)[0] for x in columns]
        rows.append(torch.cat(shown, dim=2))
    grid = (torch.cat(rows, dim=1).clamp(-1, 1) + 1) * 127.5
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(grid.permute(1, 2, 0).round().byte().numpy()).save(path)


# The stage ------------------------------------------------------------------------------------------------------------


def train_decoder(
    config: ReferenceDecoderConfig,
    pairs: Path,
    out: Path,
    settings: LoopSettings,
    seed: int = 0,
    batch: int = 6,
    without: Collection[str] = (),
    shown: Path | None = None,
    begin: ReferenceDecoder | None = None,
) -> ReferenceDecoder:
    """Train a reference decoder and return it.

    pairs: folder of `decoder_pairs.py`. State, log, curves and grids go to `out`. without: some of
    `recipe.DECODER_ABLATIONS`. shown: folder of pairs for the grids; default: the first of each kind. begin: a
    trained decoder whose weights to begin with, of the same configuration but for what it does not have
    (`kept_weights`).
    """
    if "geometry" in without:
        config = replace(config, geometry=False, reader_width=0, lip_layers=False)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        decoder = ReferenceDecoder(config).to(memory_format=torch.channels_last)
    if begin is not None:
        decoder.load_state_dict(kept_weights(begin, decoder.config), strict=False)
    files = PairFiles(pairs, without_photos="photos" in without)
    resumed = (out / "decoder.state.pt").exists()
    if decoder.gap_reader is not None:
        if (begin is None or begin.gap_reader is None) and not resumed:
            fit_gap_reader(decoder.gap_reader, files.all, seed)
        decoder.gap_reader.requires_grad_(False)
    if config.lip_layers and not decoder.interior.any() and not resumed:
        begin_interior(decoder, files.all)
    start = ADVERSARIAL_START if begin is None else 0.0  # what is sharp already would grow soft
    loss = DecoderLoss(decoder, without, start)
    examples = sorted(shown.glob("*.safetensors")) if shown else [group[0] for group in files.groups]
    grid = [read_pair(path, index) for path in examples for index in range(count_pairs(path))][:16]

    def loss_of_batch(number: int):
        generator = step_generator(seed, "decoder", number)
        return loss(files.draw(batch, generator), generator)

    def before_step(done: float) -> None:
        loss.progress = done

    def show(step: int) -> None:
        draw_grid(decoder, grid, out / "grids" / f"decoder-{step:06}.png")

    return train(
        decoder, loss_of_batch, settings, out, "decoder", None, before_step, show, list(loss.discriminator.parameters())
    )


def kept_weights(begin: ReferenceDecoder, config: ReferenceDecoderConfig) -> dict[str, Tensor]:
    """Return what a decoder of `config` can begin with. Where lips become layers, the mouth's network learns anew: it
    has learned to paint over lips that it could not trust."""
    anew = config.lip_layers and not begin.config.lip_layers
    return {name: value for name, value in begin.state_dict().items() if not (anew and name.startswith("mouth."))}


def with_reference_decoder(model: Starcaster, decoder: ReferenceDecoder) -> Starcaster:
    """Return the model with this reference decoder, in place of its own if it has one."""
    config = replace(model.config, reference_decoder=decoder.config)
    weights = {name: value for name, value in model.state_dict().items() if not name.startswith("reference_decoder.")}
    weights |= {f"reference_decoder.{name}": value for name, value in decoder.state_dict().items()}
    return build(config, weights, config.name, untrained=model.untrained)
