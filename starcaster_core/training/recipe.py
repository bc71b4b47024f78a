"""What is trained, in which order, on what: the recipe as data. The losses are in `diffusion.py`."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage of training the denoiser.

    share: of the whole time budget. frames: T of the clips seen (1 = single images). clips: batch size.
    kinds: shares of clip kinds in the batches; a batch is of one kind, so view and time are never trained jointly.
    Temporal batches hear the speech and see no camera; spatial batches are told the camera and hear nothing.
    reference, context: probability that the portrait, and the last frames of the previous chunk, are shown.
    self_forcing: share of the contexts made by the model itself (its one-step prediction of the previous chunk)
    instead of taken from the clip.
    trainable: prefixes or infixes of parameter names; () = all of the denoiser and its token encoders.
    drop_identity, drop_audio: probability of hiding a condition, for guidance.
    adapters: LoRA, bank, speech and camera in use; without them the bare image model learns, from identity alone.
    motion: temporal attention in use.
    mouth_weight: how much more an error around the mouth costs in temporal batches.
    lip_weight: how much the lip-reading loss counts, where a lip reader is given.
    timestep_power: timesteps are drawn as 1000 u^power with u uniform; below 1, the noisy ones come more often.
    """

    name: str
    share: float
    frames: int = 16
    clips: int = 2
    kinds: tuple[tuple[str, float], ...] = (("temporal", 1.0),)
    reference: float = 0.0
    context: float = 0.0
    self_forcing: float = 0.0
    learning_rate: float = 3e-4
    trainable: tuple[str, ...] = ()
    adapters: bool = True
    motion: bool = True
    drop_identity: float = 0.05
    drop_audio: float = 0.05
    mouth_weight: float = 4.0
    lip_weight: float = 1.0
    timestep_power: float = 1.0


# The paper starts from a pretrained image model; `mini` has none, so its recipe begins by making one (stage 0), and its
# 2D weights go on learning afterwards: they are small and have seen minutes of training, not GPU-years.
#
# All that a single frame can show of its conditions (this mouth for this sound, this side for this camera, this hair for
# this portrait) is learned on single frames of many clips: per second of computing that is several times as many
# different pictures as chunks of 16 alike ones. What takes several frames comes after. See docs/decisions/0003.
MINI_RECIPE: tuple[Stage, ...] = (
    Stage(
        "0-backbone",
        share=0.235,
        frames=1,
        clips=48,
        kinds=(("temporal", 0.6), ("spatial", 0.4)),
        adapters=False,
        motion=False,
        learning_rate=6e-4,
        mouth_weight=1.0,
    ),
    Stage(
        "1-frames",
        share=0.515,
        frames=1,
        clips=32,
        kinds=(("temporal", 0.6), ("spatial", 0.4)),
        reference=0.9,
        motion=False,
        learning_rate=2e-4,
        mouth_weight=20.0,
        timestep_power=0.5,
    ),
    Stage(
        "2-motion",
        share=0.25,
        kinds=(("spatial", 0.35), ("temporal", 0.65)),
        reference=0.95,
        context=0.5,
        self_forcing=0.2,
        learning_rate=5e-4,
        trainable=("motion_modules", "lora"),
        mouth_weight=8.0,
        timestep_power=0.5,
    ),
)
RECIPES = {"mini": MINI_RECIPE}
