"""The autoregressive loop: chunk after chunk of latents, each looking back at the reference and the last frames.

`rollout` is a generator. Consume its chunks as they come (to preview, decode, encode); to stop, stop asking.
It knows the model only through the methods of `models.starcaster.Starcaster` that it calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, replace
from functools import partial

import torch
from torch import Tensor

from ..errors import InputError
from ..idle import TURNS, idle_motion
from ..models.turn import camera_at
from ..presets import ModelConfig
from ..types import CameraPath, Identity, Speech
from .execution import Execution, Network
from .guidance import Branch, GuidanceScales, nest, unguided
from .schedules import SCHEDULERS, draw_noise, initial_noise, make_scheduler, predict_clean, seeded_generator


@dataclass(frozen=True)
class SamplerSettings:
    """How to sample. The defaults are the paper's.

    steps: denoising steps a chunk, 1..1000. scheduler: one of SCHEDULERS.
    guidance_scale: how far to push from "nobody" towards the condition; 1 switches guidance off and halves the time.
    camera_scale, audio_scale: own scales of those streams; None = guidance_scale, and no extra network calls.
    guidance_end: share of the steps, 0..1, the noisiest first, that are guided; the others ask the network once, under
        all conditions. What is decided late are details, which gain little from guidance (Kynkaanniemi et al. 2024).
    lambda_audio, lambda_camera: weights of the two streams in cross-attention, 0..1.
    context_frames: last frames of the previous chunk that are looked back at, 0..chunk length; None = the model's own.
    head_motion: how lively the head turns and looks about, 0..2: 0 keeps it still, 1 is usual. For models that are told
        (`idle.py`), `mini` among them.
    use_reference: show the portrait to the network; off = identity-only mode, where only the embedding is known.
    seed: 0 .. 2^64 - 1.
    """

    seed: int = 0
    steps: int = 25
    scheduler: str = "dpmpp"
    guidance_scale: float = 3.0
    camera_scale: float | None = None
    audio_scale: float | None = None
    guidance_end: float = 1.0
    lambda_audio: float = 1.0
    lambda_camera: float = 1.0
    context_frames: int | None = None
    use_reference: bool = True
    head_motion: float = 1.0

    def __post_init__(self):
        limits = {
            "seed": (0, 2**64 - 1),
            "steps": (1, 1000),
            "guidance_scale": (0, 100),
            "camera_scale": (0, 100),
            "audio_scale": (0, 100),
            "guidance_end": (0, 1),
            "lambda_audio": (0, 1),
            "lambda_camera": (0, 1),
            "context_frames": (0, 64),
            "head_motion": (0, 2),
        }
        for setting in fields(self):
            value = getattr(self, setting.name)
            if setting.name in limits and value is not None:
                low, high = limits[setting.name]
                if not low <= value <= high:  # NaN fails this too
                    raise InputError(f"{setting.name} from {low} to {high}", repr(value), "Choose a value in between.")
        if self.scheduler not in SCHEDULERS:
            raise InputError(f"a scheduler out of {', '.join(SCHEDULERS)}", repr(self.scheduler), "Choose one of them.")

    @property
    def guided_steps(self) -> int:
        return round(self.guidance_end * self.steps)

    @classmethod
    def of(cls, config: ModelConfig, **chosen) -> SamplerSettings:
        """A model's own settings, but for those in `chosen` that are not None."""
        return cls(**config.sampling_defaults | {name: value for name, value in chosen.items() if value is not None})


@dataclass(frozen=True)
class Conditions:
    """What the video is to show, for `frames` frames. A missing stream is simply not attended to."""

    identity: Identity
    speech: Speech | None = None
    camera: CameraPath | None = None
    frames: int = 0

    def __post_init__(self):
        if self.frames <= 0:  # as long as the speech, else as the camera path
            source = self.speech or self.camera
            object.__setattr__(self, "frames", source.frames if source else 0)
        if self.frames <= 0:
            raise InputError("a video length", "neither speech nor a camera path nor a number of frames", "Give one.")


@dataclass(frozen=True)
class Chunk:
    """Finished latents of frames start .. start + T - 1: raw, as the autoencoder takes them, [1, C, T, h, w] float32."""

    index: int
    start: int
    latents: Tensor


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


def count_chunks(frames: int, chunk_frames: int) -> int:
    return -(-frames // chunk_frames)


@dataclass(frozen=True)
class Looks:
    """Who is shown, cached once a clip: K, V of the identity and of nobody; the reference as K, V for the bank and
    as `model.open_portrait` gives it, both None in identity-only mode; the camera [1, 25] that saw it, None for one straight ahead,
    and how its head was turned already, [TURNS]."""

    identity: list
    nobody: list
    bank: list | None = None
    reference: Tensor | None = None
    seen_from: Tensor | None = None
    turned: Tensor | float = 0.0

    def with_reference(self, model, latents: Tensor, **pose) -> Looks:
        """latents [1, C, 1, h, w]: one clean frame of the person"""
        bank = model.cache_frames(latents, self.identity)
        return replace(self, bank=bank, reference=model.open_portrait(latents), **pose)


@torch.no_grad()
def prepare_looks(model, conditions: Conditions, settings: SamplerSettings) -> Looks:
    looks = Looks(model.cache_identity(conditions.identity), model.cache_identity(None))
    if settings.use_reference and conditions.identity.portrait is not None:
        portrait = torch.from_numpy(conditions.identity.portrait)[None].float() / 255
        looks = looks.with_reference(
            model, model.encode_frames(portrait), seen_from=portrait_camera(model, conditions, settings)
        )
    return looks


def portrait_camera(model, conditions: Conditions, settings: SamplerSettings) -> Tensor | None:
    """What saw the portrait, [1, 25]. None where no camera counts, since the view is the portrait's own then."""
    if not camera_counts(conditions, settings) or not conditions.identity.yaw:
        return None
    return camera_at(conditions.identity.yaw)[None].to(model.device)


def rollout(
    model,
    conditions: Conditions,
    settings: SamplerSettings = SamplerSettings(),
    progress: Callable[[ChunkProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    execution: Execution | None = None,
) -> Iterator[Chunk]:
    """Yields the video's chunks in order, the last one trimmed to `conditions.frames`.

    model: a `Starcaster`. progress: called after every denoising step. should_stop: asked before every network call;
    when it says True (or raises) the chunk under way is given up and the generator ends; chunks yielded stay good.
    execution: how the network is called; no influence on the video but for rounding.
    The global random generator is neither read nor changed.
    """
    length = model.config.chunk_frames
    context_frames = settings.context_frames
    if context_frames is None:
        context_frames = model.config.context_frames
    chunks = count_chunks(conditions.frames, length)
    stop = should_stop or (lambda: False)
    model.unet.merge_adapters()
    try:
        network = Network(model, execution or Execution())
        looks = prepare_looks(model, conditions, settings)
        context = None  # nothing to look back at yet
        for index in range(chunks):
            start = index * length
            branches = make_branches(model, conditions, settings, looks, context, start)
            report = partial(report_step, model, progress, index, chunks, settings.steps)
            latents = denoise(network, branches, settings, index, report, stop)
            if latents is None:
                return
            kept = min(length, conditions.frames - start)
            yield Chunk(index, start, model.to_raw(latents[:, :, :kept]))
            if index + 1 == chunks:
                return
            with torch.no_grad():
                if looks.bank is None:
                    # Identity-only: from now on the person looks like the one just made up.
                    seen_from, idle = pose_of(model, conditions, settings, 0, 1)
                    seen_from = None if seen_from is None else seen_from[:, 0]
                    looks = looks.with_reference(
                        model, latents[:, :, :1], seen_from=seen_from, turned=idle[0, 0, :TURNS]
                    )
                if context_frames:
                    context = model.cache_frames(latents[:, :, -context_frames:], looks.identity)
    finally:
        model.unet.unmerge_adapters()


@torch.no_grad()
def make_branches(model, conditions, settings, looks: Looks, context, start) -> list[Branch]:
    """The guidance ladder null -> identity -> camera -> audio for one chunk, conditions cached."""
    length = model.config.chunk_frames
    audio = camera = None
    if conditions.speech is not None and settings.lambda_audio > 0:
        audio = model.cache_audio(conditions.speech, start, length)
    view, idle = pose_of(model, conditions, settings, start, length)
    if view is not None:
        camera = model.cache_camera(conditions.camera, start, length)
    idle[..., :TURNS] -= looks.turned
    reference = None
    if looks.reference is not None:
        reference = model.cache_reference(looks.reference, idle, view, looks.seen_from)
    condition = partial(
        model.condition,
        looks.identity,
        banks=tuple(bank for bank in (looks.bank, context) if bank is not None),
        reference=reference,
        idle=model.cache_idle(idle),
        lambda_audio=settings.lambda_audio,
        lambda_camera=settings.lambda_camera,
    )
    scales = GuidanceScales(settings.guidance_scale, settings.camera_scale, settings.audio_scale)
    ladder = [(1.0, lambda: model.condition(looks.nobody)), (scales.identity, condition)]
    if camera is not None:
        scale = scales.identity if scales.camera is None else scales.camera
        ladder.append((scale, lambda: condition(camera=camera)))
    if audio is not None:
        scale = scales.identity if scales.audio is None else scales.audio
        ladder.append((scale, lambda: condition(audio=audio, camera=camera)))
    return nest(ladder)


def camera_counts(conditions: Conditions, settings: SamplerSettings) -> bool:
    return conditions.camera is not None and settings.lambda_camera > 0


def pose_of(model, conditions, settings, start: int, frames: int) -> tuple[Tensor | None, Tensor]:
    """Cameras [1, T, 25], None where they do not count, and how the head moves besides speaking [1, T, K]"""
    view = None
    if camera_counts(conditions, settings):
        view = model.camera_vectors(conditions.camera, start, frames)
    idle = idle_motion(settings.seed, start, frames, model.config.fps, settings.head_motion)
    return view, idle[None].to(model.device)


@torch.no_grad()
def denoise(network: Network, branches, settings, index, report, stop) -> Tensor | None:
    """One chunk from noise to clean latents [1, C, N, h, w], float32; None when told to stop.

    The scheduler counts on the CPU and the device is never waited for, so that it always has work ahead of it.
    """
    model = network.model
    config = model.config
    scheduler = make_scheduler(settings.scheduler, config.noise)
    scheduler.set_timesteps(settings.steps)
    timesteps = scheduler.timesteps.to(model.device)
    shape = (1, config.unet.in_channels, config.chunk_frames, config.latent_size, config.latent_size)
    noise = initial_noise(shape, config.noise.shared_noise, settings.seed, index)
    latents = noise.to(model.device) * scheduler.init_noise_sigma
    own, common = (seeded_generator(settings.seed, *key) for key in ((index, "step noise"), (0, "shared step noise")))
    extra = {} if settings.scheduler == "ddim" else {"generator": own}

    for step, timestep in enumerate(scheduler.timesteps):
        wanted = branches if step < settings.guided_steps else unguided(branches)
        prediction = 0
        for together in network.rounds(wanted):
            if stop():
                return None
            scaled = scheduler.scale_model_input(latents, timestep)
            prediction = prediction + network.predict(scaled, timesteps[step : step + 1], together)
        noisy = latents
        latents, *clean = scheduler.step(prediction, timestep, noisy, **extra, return_dict=False)
        if settings.scheduler == "lcm" and step + 1 < settings.steps:
            # Noise anew, shared by the frames as the first was.
            fresh = draw_noise(shape, config.noise.shared_noise, own, common).to(model.device)
            latents = scheduler.add_noise(*clean, fresh, scheduler.timesteps[step + 1])
        report(step + 1, scheduler, prediction, noisy, timestep)
    return latents


def report_step(model, progress, chunk, chunks, steps, done, scheduler, prediction, noisy, timestep) -> None:
    if progress is None:
        return

    @torch.no_grad()
    def preview():
        noise = model.config.noise
        clean = predict_clean(prediction, noisy, int(timestep), scheduler.alphas_cumprod, noise.prediction_type)
        middle = clean.shape[2] // 2
        frame = model.decode_frames(clean[:, :, middle : middle + 1])[0]
        return (frame * 255).round().to(torch.uint8).numpy()

    progress(ChunkProgress(chunk, chunks, done, steps, preview))
