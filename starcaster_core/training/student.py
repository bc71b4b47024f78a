"""Few steps: a student that goes in one step, without guidance, where its guided teacher goes in several.

    python -m starcaster_core.training.student --teacher mini --latents DIR --minutes 20 --out DIR

The teacher's way from noise to picture, by DDIM and with the guidance that it is sampled with, is cut into as many pieces
as the student has steps. At the beginning of every piece the student is asked for the clean latents whose one DDIM step
ends where the teacher's several end (progressive distillation, Salimans & Ho 2022, of a guided teacher, Meng et al. 2023).
Why not by consistency: docs/decisions/0008.
"""

from __future__ import annotations

import argparse
import json
from copy import deepcopy
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from ..models.attention import ConditionCache
from ..models.checkpoint import load_checkpoint, save_checkpoint
from ..models.motion import MotionModule
from ..models.starcaster import Starcaster
from ..models.unet import cache_condition
from ..sampling.schedules import draw_noise, make_scheduler, predict_clean
from .diffusion import Batch, draw_batch, mouth_weights
from .latents import ClipSet, load_clips
from .loop import LoopSettings, autocast, step_generator, train, training_device
from .recipe import Stage
from .team import Team

NAME = "student"


@dataclass(frozen=True)
class Distillation:
    """steps: of the student. substeps: of the teacher for each of them. clips: batch size. frames: of every chunk that are
    looked at where the teacher's temporal attention is silent; all of them otherwise. kinds: shares of clip kinds, as in
    `Stage`. context: probability that the chunk before is looked back at; a video's first chunk has none. mouth_weight:
    how much more an error round the mouth costs in temporal batches.
    """

    steps: int = 4
    substeps: int = 2
    clips: int = 4
    frames: int = 4
    kinds: tuple[tuple[str, float], ...] = (("temporal", 0.6), ("spatial", 0.4))
    context: float = 0.5
    learning_rate: float = 2e-4
    mouth_weight: float = 4.0


@dataclass(frozen=True)
class Scene:
    """What a model is shown of a batch: all of its conditions, and guidance's null."""

    full: ConditionCache
    nobody: ConditionCache


class Trajectory:
    """The way from noise to clean latents in even steps ("trailing" spacing), and DDIM's steps along it.

    timesteps: int [steps + 1], from the last one, pure noise, down to -1, which stands for no noise at all.
    """

    def __init__(self, model: Starcaster, steps: int):
        self.kind, total = model.config.noise.prediction_type, model.config.noise.num_train_timesteps
        clean = torch.ones(1)  # timestep -1 is the last entry
        self.alphas_cumprod = torch.cat([make_scheduler("ddim", model.config.noise).alphas_cumprod, clean])
        self.timesteps = torch.tensor([total * left // steps - 1 for left in range(steps, -1, -1)])

    def scales(self, at: int | Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """alpha, sigma of x_t = alpha x0 + sigma eps after `at` steps, one number for all or [B]; each [B or 1, 1, 1, 1, 1]"""
        alpha_squared = self.alphas_cumprod[self.timesteps[at]].reshape(-1, 1, 1, 1, 1).to(like)
        return alpha_squared.sqrt(), (1 - alpha_squared).sqrt()

    def predict(
        self, model: Starcaster, x: Tensor, at: int | Tensor, condition: ConditionCache, motion: bool
    ) -> Tensor:
        """x0 as the network says it, [B, C, T, h, w]"""
        timesteps = self.timesteps[at].reshape(-1).to(x.device)
        prediction = model.unet(x, timesteps, condition, motion=motion).float()
        return predict_clean(prediction, x, timesteps, self.alphas_cumprod.to(x.device), self.kind)

    def step(self, x: Tensor, clean: Tensor, start: int | Tensor, end: int | Tensor) -> Tensor:
        """DDIM: x_t -> x_s = alpha_s x0 + sigma_s (x_t - alpha_t x0) / sigma_t"""
        (alpha, sigma), (alpha_end, sigma_end) = self.scales(start, x), self.scales(end, x)
        return alpha_end * clean + sigma_end / sigma * (x - alpha * clean)

    def aim(self, x: Tensor, arrived: Tensor, start: int | Tensor, end: int | Tensor) -> Tensor:
        """The inverse of `step`: the clean latents to be predicted at `x` for its DDIM step to end at `arrived`"""
        (alpha, sigma), (alpha_end, sigma_end) = self.scales(start, x), self.scales(end, x)
        return (arrived - sigma_end / sigma * x) / (alpha_end - sigma_end / sigma * alpha)


class DistillationLoss:
    """Call with a step's batch and generator -> squared error of the student's clean latents at the beginning of a piece
    of the way, for every clip another, scalar; an error counts as it would in v (docs/decisions/0004). Everything random is
    drawn on the CPU."""

    def __init__(self, student: Starcaster, teacher: Starcaster, settings: Distillation):
        self.student, self.teacher, self.settings = student, teacher, settings
        self.path = Trajectory(teacher, settings.steps * settings.substeps)
        self.motion = not motion_is_silent(teacher)

    def __call__(self, batch: Batch, generator: torch.Generator) -> tuple[Tensor, dict[str, float]]:
        batch = batch.to(self.student.device)
        shape, substeps, path = batch.latents.shape, self.settings.substeps, self.path
        frames = self.choose_frames(shape[2], generator)
        start = substeps * torch.randint(self.settings.steps, shape[:1], generator=generator)
        noise = draw_noise(shape, self.teacher.config.noise.shared_noise, generator, generator).to(batch.latents)
        alpha, sigma = path.scales(start, noise)
        x = (alpha * batch.latents + sigma * noise)[:, :, frames]
        target = path.aim(x, self.walk(x, start, substeps, show(self.teacher, batch, frames)), start, start + substeps)
        said = path.predict(self.student, x, start, show(self.student, batch, frames).full, self.motion)
        error = (said - target).square() / sigma.square()
        if batch.camera is None:
            error = error * mouth_weights(batch.mouth[:, frames], shape[-1], self.settings.mouth_weight)
        return error.mean(), {}

    def choose_frames(self, total: int, generator: torch.Generator) -> Tensor:
        """Numbers of the frames that are looked at: evenly spread if not all, beginning anywhere"""
        stride = 1 if self.motion else max(1, total // self.settings.frames)
        return torch.arange(torch.randint(stride, (), generator=generator).item(), total, stride)

    @torch.no_grad()
    def walk(self, x: Tensor, start: Tensor, steps: int, scene: Scene) -> Tensor:
        """Where the teacher, guided as when it samples in so many steps, arrives from `x` at `start` [B] after `steps`"""
        config, path = self.teacher.config, self.path
        guided_steps = round(config.guidance_end * (len(path.timesteps) - 1))
        for at in (start + done for done in range(steps)):
            clean = path.predict(self.teacher, x, at, scene.full, self.motion)
            if (guided := at < guided_steps).any():
                null = path.predict(self.teacher, x, at, scene.nobody, self.motion)
                strong = null + config.guidance_scale * (clean - null)
                clean = torch.where(guided.reshape(-1, 1, 1, 1, 1).to(x.device), strong, clean)
            x = path.step(x, clean, at, at + 1)
        return x


def show(model: Starcaster, batch: Batch, frames: Tensor) -> Scene:
    """All conditions of the chosen `frames` of a batch, as in sampling: identity, portrait, the chunk before if the batch
    has one, and sound or camera. No gradient flows back into the reference pass."""
    unet, tokens = model.unet, model.identity_tokens
    identity = unet.cache_identity(tokens(batch.embedding))

    def bank(latents: Tensor):
        with torch.no_grad():
            features = unet.reference_features(latents, identity)
        return unet.cache_bank(features)

    banks = [bank(batch.reference)]
    if batch.before is not None:
        banks.append(bank(batch.before[:, :, -model.config.context_frames :]))
    streams = {}
    if batch.speech is not None:
        streams["audio"] = unet.cache_audio(model.speech_tokens(batch.speech)[:, frames])
    if batch.camera is not None:
        streams["camera"] = unet.cache_camera(model.camera_tokens(batch.camera[:, frames]))
    reference = unet.cache_reference(batch.reference)
    full = cache_condition(identity, **streams, banks=tuple(banks), reference=reference)
    return Scene(full, cache_condition(unet.cache_identity(tokens.unconditional(len(batch.embedding)))))


def motion_is_silent(model: Starcaster) -> bool:
    """Whether the temporal attention was never trained: then frames can be taken one by one"""
    modules = [module for module in model.unet.modules() if isinstance(module, MotionModule)]
    return not any(module.proj_out.weight.any() or module.proj_out.bias.any() for module in modules)


def new_student(teacher: Starcaster, settings: Distillation) -> Starcaster:
    """A copy of the teacher whose own settings are few steps of DDIM from pure noise, without guidance"""
    student = deepcopy(teacher)
    noise = replace(teacher.config.noise, timestep_spacing="trailing")
    student.config = replace(
        teacher.config, noise=noise, steps=settings.steps, guidance_scale=1.0, guidance_end=1.0, scheduler="ddim"
    )
    return student


def choose_trainable(student: Starcaster) -> list[nn.Parameter]:
    """All but the autoencoder, the speech encoder, and a temporal attention that is silent"""
    frozen = ("vae.", "speech_encoder.")
    silent = motion_is_silent(student)
    for name, parameter in student.named_parameters():
        parameter.requires_grad_(not name.startswith(frozen) and not (silent and "motion_modules" in name))
    return [parameter for parameter in student.parameters() if parameter.requires_grad]


def distill(
    teacher: Starcaster,
    clips: ClipSet,
    budget: LoopSettings,
    out: Path,
    seed: int,
    settings: Distillation = Distillation(),
) -> Starcaster:
    """Trains a student of `teacher`, which stays as it is, on the training clips; resumes from `out` where it was stopped.

    budget: minutes or steps, and a step's parts; the learning rate is that of `settings`. Returns the student.
    """
    teacher = teacher.to(training_device()).eval().requires_grad_(False)
    student = new_student(teacher, settings)
    loss = DistillationLoss(student, teacher, settings)
    window = teacher.config.conditioning.speech_window
    frames = teacher.config.chunk_frames
    stage = Stage(NAME, share=1.0, frames=frames, clips=settings.clips, kinds=settings.kinds, context=settings.context)

    def loss_of_draw(number: int):
        generator = step_generator(seed, NAME, number)
        batch = draw_batch(clips, stage, "train", window, generator)
        if torch.rand((), generator=generator).item() >= settings.context:
            batch = replace(batch, before=None)
        with autocast():
            return loss(batch, generator)

    budget = replace(budget, learning_rate=settings.learning_rate, warmup=10)  # it begins with trained weights
    return train(student, loss_of_draw, budget, out, NAME, choose_trainable(student))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="mini", help="'mini' or a checkpoint")
    parser.add_argument(
        "--latents", type=Path, required=True, help="folder written by starcaster_core.training.latents"
    )
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--steps", type=int, default=0, help="training steps, instead of --minutes")
    parser.add_argument("--batch-factor", type=int, default=1, help="batches so many times as large")
    parser.add_argument("--out", type=Path, required=True, help="folder for state, log and student.safetensors")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    settings = Distillation()
    settings = replace(settings, clips=settings.clips * args.batch_factor)
    clips = load_clips(args.latents)
    budget = LoopSettings(args.minutes, steps=args.steps)
    student = distill(load_checkpoint(args.teacher, torch.float32), clips, budget, args.out, args.seed, settings)
    finished = args.out / f"{NAME}.safetensors"
    made_with = {
        "distillation": asdict(settings),
        "teacher": Path(args.teacher).stem,  # a name, no place
        "seed": args.seed,
        **({"steps": args.steps} if args.steps else {"minutes": args.minutes}),
        "clips": len(clips.kind),
        "command": "python -m starcaster_core.training.student",
    }
    if Team().is_main:
        save_checkpoint(finished, student, made_with)
        print(json.dumps({"student": str(finished)}))


if __name__ == "__main__":
    main()
