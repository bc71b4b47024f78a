"""What a stage of training is, as data. The recipes are in `recipes/`, the losses in `diffusion.py`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from ..errors import InputError

# Parts of parameter names: what the paper adds to the frozen 2D weights.
MOTION = ("motion_modules", "lora")  # temporal attention, which on spatial sequences is the view attention; adapters
AUDIO = ("attn2.audio", "speech_tokens")
CAMERA = ("attn2.camera", "camera_tokens")


@dataclass(frozen=True)
class Stage:
    """One stage of training the denoiser.

    share: fraction of the time budget, relative to the other stages that are run. frames: T of a chunk (1 = single
    images).
    clips: batch size of a draw. parts: draws whose gradients add up to a step, 0 = one a process.
    steps: how many make the whole stage, for a recipe that counts steps and not minutes.
    kinds: shares of clip kinds in the batches, each of which is of one kind. Temporal batches hear the speech and see
    no camera; spatial ones are told the camera and hear nothing; joint ones, which the paper's stages never see, both.
    recursion: F, chunks rolled out one after the other, each with a loss of its own.
    reference: probability that the portrait is shown.
    context: probability that the first chunk sees the frames before it; the later ones always see the chunk before.
    context_frames: fewest and most last frames of the chunk before that are shown (sampling shows the fewest).
    self_forcing: probability that a later chunk looks back at what the model itself made of the chunk before (its
    one-step prediction, or what a student makes in all its steps; no gradient) instead of at the clip.
    context_timesteps: a chunk that is to be looked back at is noised with timesteps below this; one-step predictions
    from nearly pure noise are blurred beyond use.
    trainable: parts of parameter names; () = all of the denoiser and its token encoders.
    drop_identity, drop_audio, drop_camera: probability of hiding a condition, for guidance.
    adapters: LoRA, bank, speech and camera in use; without them the bare image model learns, from identity alone.
    motion: temporal attention in use.
    mouth_weight: how much more an error around the mouth costs in temporal batches.
    lip_weight: how much the lip-reading loss counts, where a lip reader is given. lip_start: from which share of the
    stage on it does, 0..1.
    timestep_power: timesteps are drawn as 1000 u^power with u uniform; below 1, the noisy ones come more often.
    snr_gamma: min-SNR weighting with this bound (Hang et al. 2023); None = as in `diffusion.py: noise_weights`.
    audio_guidance: what is asked for lies farther from what the model makes without the sound: by this times the
    difference that hearing makes, 0..1 (model guidance, Tang et al. 2025).
    student_steps: above 0, the model is not trained but teaches a student to sample in so many steps (`student.py`).
    optional: run only when asked for by name or number.
    """

    name: str
    share: float
    frames: int = 16
    clips: int = 2
    parts: int = 0
    steps: int = 0
    kinds: tuple[tuple[str, float], ...] = (("temporal", 1.0),)
    recursion: int = 1
    reference: float = 0.0
    context: float = 0.0
    context_frames: tuple[int, int] = (2, 2)
    self_forcing: float = 1.0
    context_timesteps: int = 1000
    learning_rate: float = 3e-4
    trainable: tuple[str, ...] = ()
    adapters: bool = True
    motion: bool = True
    drop_identity: float = 0.05
    drop_audio: float = 0.05
    drop_camera: float = 0.05
    mouth_weight: float = 4.0
    lip_weight: float = 1.0
    lip_start: float = 0.0
    timestep_power: float = 1.0
    snr_gamma: float | None = None
    audio_guidance: float = 0.0
    student_steps: int = 0
    optional: bool = False

    @property
    def lead(self) -> int:
        """Return the frames before the first chunk that a batch holds."""
        return self.context_frames[1] if self.context else 0

    @property
    def length(self) -> int:
        """Return the frames of a clip that a batch needs: those before, and the chunks."""
        return self.lead + self.recursion * self.frames

    @property
    def teaches_motion(self) -> bool:
        """Return whether temporal attention is among the few things that learn."""
        return "motion_modules" in self.trainable


def choose_stages(stages: tuple[Stage, ...], words: Collection[str]) -> tuple[Stage, ...]:
    """Choose stages by "all", which leaves out optional ones, names ("1-motion") or numbers ("1"), in the recipe's
    order."""

    def known_as(stage: Stage) -> set[str]:
        return {stage.name, stage.name.partition("-")[0]} | (set() if stage.optional else {"all"})

    chosen = tuple(stage for stage in stages if known_as(stage) & set(words))
    if not chosen:
        names = ", ".join(stage.name for stage in stages)
        raise InputError(f"stages out of {names}, or all", " ".join(words), "Change --stage.")
    return chosen


def without_lips(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    return tuple(replace(stage, lip_weight=0.0) for stage in stages)


def without_self_forcing(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the stages with teacher forcing: the same rollout, with the clip's own frames as context."""
    return tuple(replace(stage, self_forcing=0.0) for stage in stages)


def without_views(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the stages without temporal-to-spatial adaptation."""
    return tuple(stage for stage in stages if stage not in only_views(stages))


def in_one_stage(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the paper's stages as one, with the time, or the steps, of all.

    Everything they train is trained at once, on both kinds of clips, with self-forcing.
    """
    own = [stage for stage in stages if stage.motion and not stage.student_steps]
    forcing = next(stage for stage in own if stage.recursion > 1)
    share = sum(stage.share for stage in own)
    views = sum(stage.share for stage in own if stage in only_views(stages)) / share
    together = replace(
        forcing,
        name="1-together",
        share=share,
        steps=sum(stage.steps for stage in own),
        kinds=(("temporal", 1 - views), ("spatial", views)),
        trainable=tuple(dict.fromkeys(part for stage in own for part in stage.trainable)),
        lip_start=own[0].lip_start * own[0].share / share,
    )
    first = stages.index(own[0])
    return (*stages[:first], together, *(stage for stage in stages[first:] if stage not in own))


def only_views(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the stages that see spatial sequences alone."""
    return tuple(stage for stage in stages if {kind for kind, _ in stage.kinds} == {"spatial"})


def unfrozen(stages: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """Return the stages with all of the denoiser trained."""
    return tuple(replace(stage, trainable=()) for stage in stages)


ABLATIONS = {
    "lips": without_lips,
    "self-forcing": without_self_forcing,
    "stage3": without_views,
    "stages": in_one_stage,
    "extensions": tuple,  # not of a stage, but of the network (portrait.py: with_extensions)
}

DECODER_ABLATIONS = ("photos", "geometry", "discriminator", "perceptual")  # of the stage `decoder`


def ablate(stages: tuple[Stage, ...], without: Collection[str]) -> tuple[Stage, ...]:
    """Return a recipe without some of ABLATIONS."""
    for name in without:
        stages = ABLATIONS[name](stages)
    return stages
