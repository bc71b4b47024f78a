"""The denoising loss of every stage: what a batch is made of, what the network is shown, what it is asked for."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..models.starcaster import Starcaster
from ..models.unet import cache_condition
from ..sampling.schedules import draw_noise, make_scheduler, predict_clean
from .latents import ClipSet
from .lips import LipLoss
from .recipe import Stage

FRONTAL_DEGREES = 40.0  # a reference photo is taken from within this yaw
SNR_LIMIT = 5.0  # how much more an error counts where there is little noise


@dataclass
class Batch:
    """latents [B, C, T, h, w]; before [B, C, T, h, w] or None, the chunk before; reference [B, C, 1, h, w];
    speech [B, T + 2 * window, F], speech_before likewise, or None; camera, camera_before [B, T, 25] or None;
    mouth [B, T, 4] as fractions; embedding [B, E]."""

    latents: Tensor
    before: Tensor | None
    reference: Tensor
    speech: Tensor | None
    speech_before: Tensor | None
    camera: Tensor | None
    camera_before: Tensor | None
    mouth: Tensor
    embedding: Tensor

    def to(self, device: torch.device) -> Batch:
        streams = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value if value is None else value.to(device) for name, value in streams.items()})


def draw_batch(clips: ClipSet, stage: Stage, split: str, window: int, generator: torch.Generator) -> Batch:
    """A batch of one kind, drawn with `generator`: chunks of random clips at random moments."""

    def draw(n: int, *shape: int) -> Tensor:
        return torch.randint(n, shape, generator=generator)

    kinds, shares = zip(*stage.kinds)
    kind = kinds[torch.multinomial(torch.tensor(shares), 1, generator=generator).item()]
    candidates = clips.where(split, kind)
    chosen = candidates[draw(len(candidates), stage.clips)]
    total = clips.latents.shape[1]
    with_before = stage.context > 0
    first = stage.frames if with_before else 0
    starts = first + draw(total - stage.frames - first + 1, stage.clips)

    def cut(rows: Tensor, offset: int, margin: int = 0) -> Tensor:
        steps = torch.arange(-margin, stage.frames + margin)
        at = (starts[:, None] + offset + steps).clamp(0, total - 1)
        return rows[chosen[:, None], at].float()

    def chunk(offset: int) -> Tensor:
        return rearrange(cut(clips.latents, offset), "b t c h w -> b c t h w")

    temporal, back = kind == "temporal", -stage.frames
    return Batch(
        latents=chunk(0),
        before=chunk(back) if with_before else None,
        reference=clips.latents[chosen, draw_reference(clips.camera[chosen], generator)].float()[:, :, None],
        speech=cut(clips.speech, 0, window) if temporal else None,
        speech_before=cut(clips.speech, back, window) if temporal and with_before else None,
        camera=None if temporal else cut(clips.camera, 0),
        camera_before=None if temporal or not with_before else cut(clips.camera, back),
        mouth=cut(clips.mouth, 0),
        embedding=clips.embedding[chosen],
    )


def draw_reference(camera: Tensor, generator: torch.Generator) -> Tensor:
    """For every clip, a frame that could be a portrait: camera [B, T, 25] -> frame numbers [B]."""
    x, z = camera[..., 3], camera[..., 11]
    yaw = torch.rad2deg(torch.atan2(x, z)).abs()
    frontal = (yaw < FRONTAL_DEGREES).float()
    nearest = torch.nn.functional.one_hot(yaw.argmin(dim=1), yaw.shape[1])
    return torch.multinomial(torch.maximum(frontal, nearest.float()), 1, generator=generator)[:, 0]


def mouth_weights(mouth: Tensor, side: int, weight: float) -> Tensor:
    """mouth [B, T, 4], fractions -> weights [B, 1, T, side, side] of mean 1, `weight` times larger round the mouth."""
    centres = (torch.arange(side, device=mouth.device) + 0.5) / side
    reach = 0.5 / side
    x0, y0, x1, y1 = (edge[..., None] for edge in mouth.unbind(dim=-1))
    across = ((centres > x0 - reach) & (centres < x1 + reach)).float()
    down = ((centres > y0 - reach) & (centres < y1 + reach)).float()
    inside = down[..., :, None] * across[..., None, :]
    weights = 1 + (weight - 1) * inside
    return (weights / weights.mean(dim=(-1, -2), keepdim=True))[:, None]


class Guess(NamedTuple):
    """What the network said of a noisy chunk: prediction, target and the noisy latents [B, C, T, h, w]; timesteps [B]."""

    prediction: Tensor
    target: Tensor
    noisy: Tensor
    timesteps: Tensor


class DenoisingLoss:
    """Call with a step's batch and generator -> weighted mean squared error of the prediction, scalar; with `lips`, a batch
    with sound also costs what a lip reader misses in the one-step x0, `stage.lip_weight` times.

    Everything random is drawn on the CPU, so that a step is the same whatever the model runs on.
    """

    def __init__(self, model: Starcaster, stage: Stage, lips: LipLoss | None = None):
        self.model, self.stage, self.lips = model, stage, lips
        self.kind = model.config.noise.prediction_type
        self.alphas_cumprod = make_scheduler("ddim", model.config.noise).alphas_cumprod.to(model.device)

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batch.to(self.model.device)
        guess = self.predict(batch, generator)
        loss = self.error(guess, batch).mean()
        temporal = batch.camera is None
        numbers = {"temporal": loss.item() if temporal else 0.0, "is_temporal": float(temporal)}
        if self.lips is not None:
            lips = self.lips(self.clean(guess), batch.latents, batch.mouth) if temporal else loss.new_zeros(())
            loss, numbers = loss + self.stage.lip_weight * lips, numbers | {"lips": lips.item()}
        return loss, numbers

    def error(self, guess: Guess, batch: Batch) -> Tensor:
        """Weighted squared error of every latent [B, C, T, h, w]"""
        error = (guess.prediction - guess.target).square() * self.noise_weights(guess.timesteps)
        if batch.camera is None and self.stage.mouth_weight != 1:
            error = error * mouth_weights(batch.mouth, error.shape[-1], self.stage.mouth_weight)
        return error

    def clean(self, guess: Guess) -> Tensor:
        """x0 in one step [B, C, T, h, w]"""
        return predict_clean(guess.prediction, guess.noisy, guess.timesteps, self.alphas_cumprod, self.kind)

    def predict(self, batch: Batch, generator: torch.Generator) -> Guess:
        """One look at the noisy chunk, with the conditions that chance leaves; the batch is on the model's device"""
        stage = self.stage

        def chance(probability: float) -> bool:
            return torch.rand((), generator=generator).item() < probability

        # Guidance's null is trained for the whole batch at once: hiding a condition from part of a batch would only
        # save memory, and the batches are small.
        nobody, deaf = chance(stage.drop_identity), chance(stage.drop_audio)
        shown = chance(stage.reference) and not nobody
        looking_back = chance(stage.context) and not nobody
        own_context = looking_back and chance(stage.self_forcing)

        identity = self.identity(batch, nobody)
        banks, reference = [], None
        if shown:
            banks.append(self.bank(batch.reference, identity))
            reference = self.model.unet.cache_reference(batch.reference)
        if looking_back:
            before = batch.before
            if own_context:
                streams = self.streams(batch.speech_before, batch.camera_before, deaf)
                condition = cache_condition(identity, **streams, banks=tuple(banks), reference=reference)
                before = self.one_step(before, condition, generator)
            banks.append(self.bank(before[:, :, -self.model.config.context_frames :], identity))

        streams = self.streams(batch.speech, batch.camera, deaf or nobody, nobody)
        condition = cache_condition(identity, **streams, banks=tuple(banks), reference=reference)
        noisy, timesteps, target = self.add_noise(batch.latents, generator)
        prediction = self.model.unet(noisy, timesteps, condition, motion=stage.motion, adapters=stage.adapters)
        return Guess(prediction.float(), target, noisy, timesteps)

    def identity(self, batch: Batch, nobody: bool):
        tokens = self.model.identity_tokens
        batch_size = len(batch.embedding)
        return self.model.unet.cache_identity(tokens.unconditional(batch_size) if nobody else tokens(batch.embedding))

    def streams(self, speech: Tensor | None, camera: Tensor | None, deaf: bool, blind: bool = False) -> dict:
        """Cached audio and camera of a chunk; an inactive stream is left out (lambda = 0)."""
        model, streams = self.model, {}
        if not self.stage.adapters:
            return streams
        if speech is not None and not deaf:
            streams["audio"] = model.unet.cache_audio(model.speech_tokens(speech))
        if camera is not None and not blind:
            streams["camera"] = model.unet.cache_camera(model.camera_tokens(camera))
        return streams

    def bank(self, latents: Tensor, identity):
        """The reference pass is read, not taught: no gradient flows back into it."""
        with torch.no_grad():
            features = self.model.unet.reference_features(latents, identity)
        return self.model.unet.cache_bank(features)

    @torch.no_grad()
    def one_step(self, latents: Tensor, condition, generator: torch.Generator) -> Tensor:
        """Self-forcing: the chunk before as the model itself would have made it, x0 predicted from one noisy look."""
        noisy, timesteps, _ = self.add_noise(latents, generator, last=700)
        prediction = self.model.unet(noisy, timesteps, condition, motion=self.stage.motion).float()
        return predict_clean(prediction, noisy, timesteps, self.alphas_cumprod, self.kind)

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        alpha_squared = self.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1, 1)
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def noise_weights(self, timesteps: Tensor) -> Tensor | float:
        """An error in x0 counts as the same error in v would, SNR + 1 times, but no more than SNR_LIMIT times: the last
        digits of nearly clean latents are not what a small network should spend itself on (min-SNR, Hang et al. 2023).
        """
        if self.kind != "sample":
            return 1.0
        _, sigma = self.scales(timesteps)
        return (1 / sigma.square().clamp(min=1e-6)).clamp(max=SNR_LIMIT)

    def add_noise(self, latents: Tensor, generator: torch.Generator, last: int | None = None):
        """-> x_t = a x0 + s eps, timesteps [B], and the target (x0, v = a eps - s x0, or eps)"""
        last = last or len(self.alphas_cumprod)
        uniform = torch.rand(len(latents), generator=generator)
        timesteps = (last * uniform**self.stage.timestep_power).long().clamp(max=last - 1)
        # Trained as it is sampled.
        noise = draw_noise(latents.shape, self.model.config.noise.shared_noise, generator, generator)
        noise, timesteps = noise.to(latents.device), timesteps.to(latents.device)
        alpha, sigma = self.scales(timesteps)
        noisy = alpha * latents + sigma * noise
        targets = {"sample": latents, "v_prediction": alpha * noise - sigma * latents, "epsilon": noise}
        return noisy, timesteps, targets[self.kind]
