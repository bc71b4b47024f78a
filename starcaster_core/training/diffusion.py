"""The denoising loss of every stage: what a batch is made of, what the network is shown, what it is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import torch
from einops import rearrange
from torch import Tensor

from ..errors import InputError
from ..head_motion import POSE_CHANNELS
from ..models.attention_cache import ConditionCache, cache_condition
from ..models.extensions import FramePose, Reference, open_reference, prepare_chunk
from ..models.extensions.shared_noise import draw_noise
from ..models.starcaster import Starcaster
from ..sampling.schedules import alpha_sigma, alphas_cumprod, predict_clean
from .latents import ClipSet
from .lips import LipLoss
from .recipe import Stage

FRONTAL_DEGREES = 40.0  # a reference photo is taken from within this yaw
SNR_LIMIT = 5.0  # how much more an error counts where there is little noise


@dataclass
class Batch:
    """A stretch of L frames of B clips: one chunk, or several in a row (`chunks`).

    latents [B, C, L, h, w]; context [B, C, n, h, w] or None, the frames before; reference [B, C, 1, h, w], seen by
    portrait_camera [B, 25] or None;
    speech [B, L + 2 * window, F] or None; camera [B, L, 25] or None; mouth, eyes [B, L, 4] as fractions;
    head_motion [B, L, K], turns being those from the reference; embedding [B, E]."""

    latents: Tensor
    context: Tensor | None
    reference: Tensor
    portrait_camera: Tensor | None
    speech: Tensor | None
    camera: Tensor | None
    mouth: Tensor
    eyes: Tensor
    head_motion: Tensor
    embedding: Tensor

    def to(self, device: torch.device) -> Batch:
        streams = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(**{name: value if value is None else value.to(device) for name, value in streams.items()})

    def chunks(self, frames: int) -> list[Batch]:
        """One after the other, `frames` each; each sees the end of the sound before and the beginning of that after."""
        length = self.latents.shape[2]
        margin = 0 if self.speech is None else self.speech.shape[1] - length

        def cut(start: int) -> Batch:
            now = slice(start, start + frames)
            return replace(
                self,
                latents=self.latents[:, :, now],
                speech=None if self.speech is None else self.speech[:, start : start + frames + margin],
                camera=None if self.camera is None else self.camera[:, now],
                mouth=self.mouth[:, now],
                eyes=self.eyes[:, now],
                head_motion=self.head_motion[:, now],
            )

        return [cut(start) for start in range(0, length, frames)]


def draw_batch(clips: ClipSet, stage: Stage, split: str, window: int, generator: torch.Generator) -> Batch:
    """A batch of one kind, drawn with `generator`: stretches of random clips at random moments.

    Raises InputError where the clips are too short for the stage, or none is of the kind."""

    def draw(n: int, *shape: int) -> Tensor:
        return torch.randint(n, shape, generator=generator)

    kinds, shares = zip(*stage.kinds)
    kind = kinds[torch.multinomial(torch.tensor(shares), 1, generator=generator).item()]
    candidates = clips.where(split, kind)
    total = clips.latents.shape[1]
    if not len(candidates):
        raise InputError(f"{kind} clips of the {split} split for {stage.name}", "none", "Make more clips.")
    if total < stage.length:
        raise InputError(f"clips of at least {stage.length} frames for {stage.name}", f"{total}", "Make longer clips.")
    chosen = candidates[draw(len(candidates), stage.clips)]
    length = stage.recursion * stage.frames
    starts = stage.lead + draw(total - stage.length + 1, stage.clips)

    def cut(rows: Tensor, before: int, after: int) -> Tensor:
        at = (starts[:, None] + torch.arange(-before, after)).clamp(0, total - 1)
        return rows[chosen[:, None], at].float()

    def pictures(before: int, after: int) -> Tensor:
        return rearrange(cut(clips.latents, before, after), "b t c h w -> b c t h w")

    portrait = draw_reference(clips.camera[chosen], generator)
    head_motion = cut(clips.head_motion, 0, length)
    head_motion[..., :POSE_CHANNELS] -= clips.head_motion[chosen, portrait, None, :POSE_CHANNELS]
    return Batch(
        latents=pictures(0, length),
        context=pictures(stage.lead, 0) if stage.lead else None,
        reference=clips.latents[chosen, portrait].float()[:, :, None],
        portrait_camera=None if kind == "temporal" else clips.camera[chosen, portrait].float(),
        speech=None if kind == "spatial" else cut(clips.speech, window, length + window),
        camera=None if kind == "temporal" else cut(clips.camera, 0, length),
        mouth=cut(clips.mouth, 0, length),
        eyes=cut(clips.eyes, 0, length),
        head_motion=head_motion,
        embedding=clips.embedding[chosen],
    )


def draw_reference(camera: Tensor, generator: torch.Generator) -> Tensor:
    """For every clip, a frame that could be a portrait: camera [B, T, 25] -> frame numbers [B]."""
    x, z = camera[..., 3], camera[..., 11]
    yaw = torch.rad2deg(torch.atan2(x, z)).abs()
    frontal = (yaw < FRONTAL_DEGREES).float()
    nearest = torch.nn.functional.one_hot(yaw.argmin(dim=1), yaw.shape[1])
    return torch.multinomial(torch.maximum(frontal, nearest.float()), 1, generator=generator)[:, 0]


def box_weights(box: Tensor, side: int, weight: float) -> Tensor:
    """box [B, T, 4], fractions -> weights [B, 1, T, side, side] of mean 1, `weight` times larger inside."""
    centres = (torch.arange(side, device=box.device) + 0.5) / side
    reach = 0.5 / side
    x0, y0, x1, y1 = (edge[..., None] for edge in box.unbind(dim=-1))
    across = ((centres > x0 - reach) & (centres < x1 + reach)).float()
    down = ((centres > y0 - reach) & (centres < y1 + reach)).float()
    inside = down[..., :, None] * across[..., None, :]
    weights = 1 + (weight - 1) * inside
    return (weights / weights.mean(dim=(-1, -2), keepdim=True))[:, None]


def clean_error_weights(snr: Tensor) -> Tensor:
    """Return how much an error in x0 counts, as the same error in v would: SNR + 1 times, SNR_LIMIT at most."""
    return (snr + 1).clamp(max=SNR_LIMIT)


class Prediction(NamedTuple):
    """The network's output on a noisy chunk: prediction, target and noisy latents [B, C, T, h, w]; timesteps [B];
    final: clean latents without gradient, where there are better ones than x0 in one step."""

    prediction: Tensor
    target: Tensor
    noisy: Tensor
    timesteps: Tensor
    final: Tensor | None = None


class DenoisingLoss:
    """Call with a step's batch and generator -> weighted mean squared error of the predictions, scalar, the mean over
    the chunks. With `lips`, batches with sound add `stage.lip_weight` times the lip-reading loss of the one-step x0,
    once `progress` (fraction of the stage that is done, 0..1) has reached `stage.lip_start`.

    Everything random is drawn on the CPU, so that a step is the same whatever the model runs on.
    """

    def __init__(self, model: Starcaster, stage: Stage, lips: LipLoss | None = None):
        self.model, self.stage, self.progress = model, stage, 0.0
        self.lips = lips if stage.lip_weight else None
        self.kind = model.config.noise.prediction_type
        self.alphas_cumprod = alphas_cumprod(model.config.noise).to(model.device)

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batch.to(self.model.device)
        costs, lips = [], []
        for chunk, predicted in self.rollout(batch, generator):
            costs.append(self.cost(predicted, chunk, generator))
            lips.append(self.lip_cost(predicted, chunk))
        loss, lip = torch.stack(costs).mean(), torch.stack(lips).mean()
        temporal = batch.speech is not None
        numbers = {"temporal": loss.item() if temporal else 0.0, "is_temporal": float(temporal)}
        if self.stage.recursion > 1:
            numbers |= {"first": costs[0].item(), "last": costs[-1].item()}
        if self.lips is not None:
            numbers["lips"] = lip.item()
        return loss + self.stage.lip_weight * lip, numbers

    def cost(self, predicted: Prediction, chunk: Batch, generator: torch.Generator) -> Tensor:
        """Scalar"""
        return self.error(predicted, chunk).mean()

    def lip_cost(self, predicted: Prediction, chunk: Batch) -> Tensor:
        """Scalar, 0 where nothing is heard, where a mouth does not move, or it is too early"""
        unread = chunk.speech is None or chunk.latents.shape[2] == 1 or self.progress < self.stage.lip_start
        if self.lips is None or unread:
            return predicted.prediction.new_zeros(())
        return self.lips(self.clean(predicted), chunk.latents, chunk.mouth)

    def error(self, predicted: Prediction, batch: Batch) -> Tensor:
        """Weighted squared error of every latent [B, C, T, h, w]"""
        error = (predicted.prediction - predicted.target).square() * self.noise_weights(predicted.timesteps)
        if batch.speech is not None and self.stage.mouth_weight != 1:
            error = error * box_weights(batch.mouth, error.shape[-1], self.stage.mouth_weight)
        return error

    def clean(self, predicted: Prediction) -> Tensor:
        """x0 in one step [B, C, T, h, w]"""
        return predict_clean(predicted.prediction, predicted.noisy, predicted.timesteps, self.alphas_cumprod, self.kind)

    def finished(self, predicted: Prediction) -> Tensor:
        """The chunk as the next one looks back at it, without gradient [B, C, T, h, w]"""
        return self.clean(predicted).detach() if predicted.final is None else predicted.final

    def rollout(self, batch: Batch, generator: torch.Generator) -> Iterator[tuple[Batch, Prediction]]:
        """Self-forcing: chunk after chunk with one noisy look at each, under the conditions that chance leaves. The
        first looks back at the clip, the later ones at what the model made of the chunk before; no gradient flows back
        there. The batch is on the model's device. Of a portrait that is not shown the chunks hold zeros."""
        stage = self.stage

        def chance(probability: float) -> bool:
            return torch.rand((), generator=generator).item() < probability

        # Conditions are dropped for the whole batch at once: batches are small.
        drop_all, drop_audio, drop_camera = (
            chance(probability) for probability in (stage.drop_identity, stage.drop_audio, stage.drop_camera)
        )
        use_reference, use_context = chance(stage.reference) and not drop_all, chance(stage.context) and not drop_all

        identity = self.identity(batch, drop_all)
        cache_frames = self.model.unet.cache_frames
        banks = (cache_frames(batch.reference, identity),) if use_reference else ()
        context = batch.context if use_context else None
        reference = Reference()
        if use_reference:
            reference = open_reference(self.model, batch.reference, batch.portrait_camera)
        else:
            batch = replace(batch, reference=torch.zeros_like(batch.reference))
        chunks = batch.chunks(batch.latents.shape[2] // stage.recursion)
        for index, chunk in enumerate(chunks):
            is_context = index + 1 < len(chunks)
            streams = self.streams(chunk.speech, chunk.camera, drop_audio or drop_all, drop_camera or drop_all)
            if not drop_all:
                pose = FramePose(chunk.head_motion, chunk.camera)
                streams["extensions"] = prepare_chunk(self.model, reference, pose)
            past = () if context is None else (cache_frames(self.last_frames(context, generator), identity),)
            condition = cache_condition(identity, **streams, banks=banks + past)
            predicted = self.predict(chunk.latents, condition, generator, is_context)
            yield chunk, predicted
            if is_context and not drop_all:
                context = self.finished(predicted) if chance(stage.self_forcing) else chunk.latents

    def predict(self, latents: Tensor, condition, generator: torch.Generator, is_context: bool) -> Prediction:
        stage = self.stage
        last = stage.context_timesteps if is_context else None
        noisy, timesteps, target = self.add_noise(latents, generator, last)
        prediction = self.ask(noisy, timesteps, condition)
        if (silent := self.without_audio(noisy, timesteps, condition)) is not None:
            target = target + stage.audio_guidance * (prediction.detach() - silent)
        return Prediction(prediction, target, noisy, timesteps)

    def ask(self, noisy: Tensor, timesteps: Tensor, condition: ConditionCache) -> Tensor:
        """Return the network's output, float32 [B, C, T, h, w]."""
        stage = self.stage
        return self.model.unet(noisy, timesteps, condition, motion=stage.motion, adapters=stage.adapters).float()

    @torch.no_grad()
    def without_audio(self, noisy: Tensor, timesteps: Tensor, condition: ConditionCache) -> Tensor | None:
        """Return the network's output without the sound; None where nothing is heard, or the stage guides nothing."""
        if not self.stage.audio_guidance or condition.blocks[0].audio is None:
            return None
        return self.ask(noisy, timesteps, replace(condition, lambda_audio=0.0))

    def last_frames(self, context: Tensor, generator: torch.Generator) -> Tensor:
        """At least as many as sampling looks back at, at times more: [B, C, n, h, w]"""
        fewest, most = self.stage.context_frames
        count = int(torch.randint(fewest, most + 1, (), generator=generator))
        return context[:, :, -count:]

    def identity(self, batch: Batch, unconditional: bool):
        tokens = self.model.identity_tokens
        batch_size = len(batch.embedding)
        return self.model.unet.cache_identity(
            tokens.unconditional(batch_size) if unconditional else tokens(batch.embedding)
        )

    def streams(self, speech: Tensor | None, camera: Tensor | None, drop_audio: bool, drop_camera: bool) -> dict:
        """Cached audio and camera of a chunk; an inactive stream is left out (lambda = 0)."""
        model, streams = self.model, {}
        if not self.stage.adapters:
            return streams
        if speech is not None and not drop_audio:
            streams["audio"] = model.unet.cache_audio(model.speech_tokens(speech))
        if camera is not None and not drop_camera:
            streams["camera"] = model.unet.cache_camera(model.camera_tokens(camera))
        return streams

    def scales(self, timesteps: Tensor) -> tuple[Tensor, Tensor]:
        return alpha_sigma(self.alphas_cumprod, timesteps, like=self.alphas_cumprod)

    def noise_weights(self, timesteps: Tensor) -> Tensor | float:
        """How much a squared error counts, by its noise, [B, 1, 1, 1, 1].

        With `snr_gamma`, min-SNR (Hang et al. 2023): min(SNR, gamma) in x0, which is over SNR in eps, over SNR + 1 in
        v. Without, 1; but an error in x0 counts as the same error in v would, SNR + 1 times, up to SNR_LIMIT times: so
        that pure noise, of no SNR, is learned from as well, and the last digits of nearly clean latents are not what a
        small network spends itself on.
        """
        _, sigma = self.scales(timesteps)
        snr = 1 / sigma.square().clamp(min=1e-6) - 1
        gamma = self.stage.snr_gamma
        if gamma is not None:
            per_x0 = {"sample": 1.0, "epsilon": 1 / snr.clamp(min=1e-6), "v_prediction": 1 / (snr + 1)}[self.kind]
            return snr.clamp(max=gamma) * per_x0
        return clean_error_weights(snr) if self.kind == "sample" else 1.0

    def draw_timesteps(self, count: int, generator: torch.Generator, last: int) -> Tensor:
        """[count], below `last`"""
        uniform = torch.rand(count, generator=generator)
        return (last * uniform**self.stage.timestep_power).long().clamp(max=last - 1)

    def add_noise(self, latents: Tensor, generator: torch.Generator, last: int | None = None):
        """-> x_t = a x0 + s eps, timesteps [B], and the target (x0, v = a eps - s x0, or eps)"""
        timesteps = self.draw_timesteps(len(latents), generator, last or len(self.alphas_cumprod))
        # Trained as it is sampled.
        noise = draw_noise(latents.shape, self.model.config.extensions.shared_noise, generator, generator)
        noise, timesteps = noise.to(latents.device), timesteps.to(latents.device)
        alpha, sigma = self.scales(timesteps)
        noisy = alpha * latents + sigma * noise
        targets = {"sample": latents, "v_prediction": alpha * noise - sigma * latents, "epsilon": noise}
        return noisy, timesteps, targets[self.kind]
