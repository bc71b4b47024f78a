"""The autoregressive loop: chunk after chunk of latents, each looking back at the reference and the last frames.

`rollout` is a generator. Consume its chunks as they come (to preview, decode, encode); to stop, stop asking.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError
from ..head_motion import POSE_CHANNELS, random_head_motion
from ..models.extensions import FramePose, Reference, open_reference, prepare_chunk
from ..models.extensions.portrait_warp import camera_at
from ..models.extensions.shared_noise import draw_noise
from .execution import Execution, Network
from .guards import LatentGuard
from .guidance import Branch, GuidanceScales, nest, unguided
from .journal import NoJournal
from .samplers import make_sampler
from .schedules import predict_clean, seeded_generator
from .settings import Conditions, SamplerSettings, count_chunks

SEAM = 4  # frames over which a chunk that was made again becomes the one that the next chunk follows


@dataclass(frozen=True)
class Chunk:
    """Finished latents of frames start .. start + T - 1: unit variance, [1, C, T, h, w], float32; and their head motion
    and cameras, as far as the model follows any."""

    index: int
    start: int
    latents: Tensor
    pose: FramePose | None = None


@dataclass(frozen=True)
class ChunkProgress:
    """Where the work stands. `preview()` decodes one frame of the current guess: uint8 [H, W, 3]; it costs a decode."""

    chunk: int
    chunks: int
    step: int  # steps done in this chunk, 1..steps
    steps: int
    preview: Callable[[], object] = field(repr=False)

    @property
    def done(self) -> float:
        """0..1 of the whole video"""
        return (self.chunk * self.steps + self.step) / (self.chunks * self.steps)


def rollout(
    model,
    conditions: Conditions,
    settings: SamplerSettings | None = None,
    progress: Callable[[ChunkProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    execution: Execution | None = None,
    journal: NoJournal | None = None,
    redo: Mapping[int, SamplerSettings] | None = None,
    guard: LatentGuard | None = None,
) -> Iterator[Chunk]:
    """Yield the video's chunks in order, the last one trimmed to `conditions.frames`.

    model: a `Starcaster`. settings: None is the model's own. progress: called after every denoising step. should_stop:
    asked before every network call; when it says True (or raises) the chunk under way is given up and the generator
    ends; chunks yielded stay good.
    execution: how the network is called; no influence on the video but for rounding.
    journal: from `open_journal`; chunks it holds are handed out as they are, new ones are written to it.
    redo: chunks to make again, by index, and how to sample them; the seed is that of their own noise. The others come
    from the journal as they are.
    guard: what happens where a chunk is faulty; None stops.
    The global random generator is neither read nor changed.
    Raises StarcasterError for a chunk that is not finite or does not move; those before are kept. Raises InputError
    where a chunk is to be made again that is not in the journal.
    """
    settings, journal = settings or SamplerSettings.of(model.config), journal or NoJournal()
    length, redo, guard = model.config.chunk_frames, redo or {}, guard or LatentGuard(model.config)
    chunks = count_chunks(conditions.frames, length)
    if missing := [index for index in redo if not journal.holds(index)]:
        raise nothing_kept(missing[0])
    model.unet.merge_adapters()
    try:
        network = Network(model, execution or Execution())
        subject = cache_subject(model, conditions, settings)
        previous = None
        for index in range(chunks):
            start = index * length
            kept = latents = journal.read(index, partial(guard.keeps, index))
            if latents is None or index in redo:
                if index in redo and kept is None:  # there is a file, but a damaged one
                    raise nothing_kept(index)
                own = redo.get(index, settings)
                chosen = replace(own, seed=settings.seed)  # the head moves as it did

                # 1. Condition: who, seen from where, saying what, after which frames.
                context = cache_context(model, chosen, subject, previous)
                branches = cache_branches(model, conditions, chosen, subject, context, start)

                # 2. Denoise, from noise to clean latents.
                report = partial(report_step, model, progress, index, chunks, chosen.steps)
                stop = should_stop or (lambda: False)
                sample = partial(denoise, network, branches, chosen, index, report, stop, None)
                latents = guard.draw(index, own.seed, sample)
                if latents is None:
                    return
                if kept is None:
                    journal.write(index, latents)
                elif index + 1 not in (chunks, *redo):
                    latents = lead_over(latents, kept)
            else:
                guard.check(latents, index)
            latents = latents.to(model.device)

            # 3. Hand out.
            frames = min(length, conditions.frames - start)
            yield Chunk(index, start, latents[:, :, :frames], shown_pose(model, conditions, settings, start, frames))

            # 4. Remember, for the next chunk.
            if subject.bank is None and index + 1 < chunks:
                subject = adopt_first_frame(model, conditions, settings, subject, latents)
            previous = latents
    finally:
        model.unet.unmerge_adapters()


# Once a clip ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SubjectCache:
    """Who is shown, cached once a clip.

    identity, null: K, V for every block of the identity and of guidance's null. bank: K, V of the reference frame, None
    without one. reference: the same frame as the model's extensions use it.
    """

    identity: list
    null: list
    bank: list | None = None
    reference: Reference = Reference()


@torch.no_grad()
def cache_subject(model, conditions: Conditions, settings: SamplerSettings) -> SubjectCache:
    """Cache the identity and, unless in identity-only mode, its portrait."""
    subject = SubjectCache(model.cache_identity(conditions.identity), model.cache_identity(None))
    if not settings.use_reference or conditions.identity.portrait is None:
        return subject
    portrait = torch.from_numpy(conditions.identity.portrait.copy())[None].float() / 255
    return with_reference(model, subject, model.encode_frames(portrait), portrait_camera(model, conditions, settings))


def with_reference(model, subject: SubjectCache, latents: Tensor, camera=None, pose: Tensor | float = 0.0):
    """Return the subject with a clean frame of it as the reference: latents [1, C, 1, h, w], its camera and head
    pose."""
    bank = model.cache_frames(latents, subject.identity)
    return replace(subject, bank=bank, reference=open_reference(model, latents, camera, pose))


def portrait_camera(model, conditions: Conditions, settings: SamplerSettings) -> Tensor | None:
    """Return the camera [1, 25] that took the portrait; None where no camera counts or it stood straight ahead."""
    identity = conditions.identity
    if not camera_counts(conditions, settings) or not (identity.yaw or identity.pitch):
        return None
    return camera_at(identity.yaw, identity.pitch)[None].to(model.device)


# Once a chunk ---------------------------------------------------------------------------------------------------------


@torch.no_grad()
def cache_branches(model, conditions, settings, subject: SubjectCache, context, start: int) -> list[Branch]:
    """Cache a chunk's conditions as the guidance ladder null -> identity -> camera -> audio."""
    length = model.config.chunk_frames
    pose = frame_pose(model, conditions, settings, start, length)
    audio = camera = None
    if conditions.speech is not None and settings.lambda_audio > 0:
        audio = model.cache_audio(conditions.speech, start, length)
    if pose.camera is not None:
        camera = model.cache_camera(conditions.camera, start, length)
    condition = partial(
        model.condition,
        subject.identity,
        banks=tuple(bank for bank in (subject.bank, context) if bank is not None),
        extensions=prepare_chunk(model, subject.reference, pose),
        lambda_audio=settings.lambda_audio,
        lambda_camera=settings.lambda_camera,
    )
    scales = GuidanceScales(settings.guidance_scale, settings.camera_scale, settings.audio_scale)
    ladder = [(1.0, lambda: model.condition(subject.null)), (scales.identity, condition)]
    if camera is not None:
        scale = scales.identity if scales.camera is None else scales.camera
        ladder.append((scale, lambda: condition(camera=camera)))
    if audio is not None:
        scale = scales.identity if scales.audio is None else scales.audio
        ladder.append((scale, lambda: condition(audio=audio, camera=camera)))
    return nest(ladder)


def shown_pose(model, conditions: Conditions, settings: SamplerSettings, start: int, frames: int) -> FramePose | None:
    """Return head motion and cameras of frames that are handed out; None for a model that follows neither by
    geometry."""
    if "head_motion" not in model.unet.extensions:
        return None
    return frame_pose(model, conditions, settings, start, frames)


def camera_counts(conditions: Conditions, settings: SamplerSettings) -> bool:
    """Say whether there is a camera path that is attended to."""
    return conditions.camera is not None and settings.lambda_camera > 0


def frame_pose(model, conditions: Conditions, settings: SamplerSettings, start: int, frames: int) -> FramePose:
    """Return cameras and head motion of frames start .. start + frames - 1: the conditions' own, else random."""
    camera = None
    if camera_counts(conditions, settings):
        camera = model.camera_vectors(conditions.camera, start, frames)
    motion = conditions.head_motion
    if motion is None:
        speech = conditions.speech if settings.lambda_audio > 0 else None
        loudness = None if speech is None else speech.loudness
        motion = random_head_motion(settings.seed, start, frames, model.config.fps, settings.head_motion, loudness)
    else:
        motion = motion[torch.arange(start, start + frames).clamp(max=len(motion) - 1)]
    return FramePose(motion[None].to(model.device), camera)


@torch.no_grad()
def adopt_first_frame(model, conditions, settings, subject: SubjectCache, latents: Tensor) -> SubjectCache:
    """Make the first frame of an identity-only video its reference: latents [1, C, T, h, w] of the first chunk."""
    pose = frame_pose(model, conditions, settings, 0, 1)
    camera = None if pose.camera is None else pose.camera[:, 0]
    return with_reference(model, subject, latents[:, :, :1], camera, pose.head_motion[0, 0, :POSE_CHANNELS])


@torch.no_grad()
def cache_context(model, settings: SamplerSettings, subject: SubjectCache, previous: Tensor | None) -> list | None:
    """Return K, V of the last frames of the chunk before, [1, C, N, h, w].

    None for the first chunk, and for a model that does not look back.
    """
    count = model.config.context_frames if settings.context_frames is None else settings.context_frames
    if previous is None or not count:
        return None
    return model.cache_frames(previous[:, :, -count:], subject.identity)


def lead_over(latents: Tensor, kept: Tensor) -> Tensor:
    """Blend the end of a chunk made again into that of the kept one [1, C, N, h, w], which the next one follows."""
    weight = torch.linspace(0, 1, SEAM + 1, device=latents.device)[1:, None, None]
    end = torch.lerp(latents[:, :, -SEAM:], kept[:, :, -SEAM:].to(latents), weight)
    return torch.cat([latents[:, :, :-SEAM], end], dim=2)


def nothing_kept(index: int) -> InputError:
    return InputError(
        "a kept render with the same settings, to make chunks of it again",
        f"none with chunk {index + 1}",
        "Render it once without redo, on the command line with --keep-journal.",
    )


# Every step -----------------------------------------------------------------------------------------------------------


@torch.no_grad()
def denoise(
    network: Network,
    branches: list[Branch],
    settings: SamplerSettings,
    index: int,
    report,
    stop,
    begin=None,
    seed: int | None = None,
) -> Tensor | None:
    """Sample a chunk from noise to clean latents [1, C, N, h, w], float32; None when told to stop.

    begin: (step, clean latents) to begin not from noise but with that step, from these latents noised as it expects; as
    many steps as there are leave them as they are. seed: of the chunk's own noise; None is the settings'. The sampler
    counts on the CPU and the device is never waited for, so that it always has work ahead of it.
    """
    model = network.model
    config = model.config
    shape = (1, config.unet.in_channels, config.chunk_frames, config.latent_size, config.latent_size)

    draw = partial(draw_noise, shape, config.extensions.shared_noise)

    own_seed = settings.seed if seed is None else seed

    sampler = make_sampler(settings.scheduler, config.noise, settings.steps)
    timesteps = sampler.timesteps.to(model.device)
    own = seeded_generator(own_seed, index, "step noise")
    shared = seeded_generator(settings.seed, 0, "shared step noise")
    latents = draw(
        seeded_generator(own_seed, index, "initial noise"), seeded_generator(settings.seed, 0, "shared noise")
    )
    latents = latents.to(model.device) * sampler.init_noise_sigma
    first = 0
    if begin is not None:
        first, clean = begin
        latents = clean if first == settings.steps else sampler.add_noise(clean, draw(own, shared), first)
    for step, timestep in enumerate(sampler.timesteps[first:], start=first):
        wanted = branches if step < settings.guided_steps else unguided(branches)
        prediction = 0
        for together in network.rounds(wanted):
            if stop():
                return None
            scaled = sampler.scale_input(latents, timestep)
            prediction = prediction + network.predict(scaled, timesteps[step : step + 1], together)
        noisy = latents
        latents = sampler.step(step, prediction, noisy, own, lambda: draw(own, shared))
        report(step + 1, sampler, prediction, noisy, timestep)
    return latents


def report_step(model, progress, chunk, chunks, steps, done, sampler, prediction, noisy, timestep) -> None:
    """Tell `progress` how far the work is, with a preview that costs nothing until it is asked for."""
    if progress is None:
        return

    @torch.no_grad()
    def preview():
        kind = model.config.noise.prediction_type
        clean = predict_clean(prediction, noisy, int(timestep), sampler.alphas_cumprod, kind)
        middle = clean.shape[2] // 2
        frame = model.decode_frames(clean[:, :, middle : middle + 1])[0]
        return (frame * 255).round().to(torch.uint8).numpy()

    progress(ChunkProgress(chunk, chunks, done, steps, preview))
