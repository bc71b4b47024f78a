"""`sd15`, the paper's scale and its order, from public weights (docs/decisions/0009 tells what is known and what
inferred).

AdamW at 1e-4 with a cosine, 64 clips of 16 frames a step: 32 draws of 2, which 8 GPUs take 4 of each. The 2D weights
stay as they came; rank-64 adapters, temporal attention, and keys, values and MLPs of sound and camera learn. The loss
is the mean squared error of the noise, plus the lip-reading loss once half of the first stage is over. Every stage may
have clips of its own, in a folder of its name.
"""

from dataclasses import replace

from ..recipe import AUDIO, CAMERA, MOTION, Stage

# Who, and what is said; no picture of the person. VFHQ and CelebV-HQ.
MOTION_STAGE = Stage(
    "1-motion",
    share=200,
    steps=200_000,
    clips=2,
    parts=32,
    learning_rate=1e-4,
    trainable=MOTION + AUDIO,
    mouth_weight=1.0,
    lip_start=0.5,
)

SD15_RECIPE: tuple[Stage, ...] = (
    MOTION_STAGE,
    # The same on fewer and cleaner videos (HDTF).
    replace(MOTION_STAGE, name="1-motion-clean", share=10, steps=10_000, lip_start=0.0),
    # The portrait and two frames to look back at: of the video at first, then the model's own one-step prediction.
    # HDTF.
    replace(
        MOTION_STAGE,
        name="2-self-forcing",
        share=6,
        steps=6_000,
        recursion=2,
        reference=1.0,
        context=0.9,  # sampling begins without
        lip_start=0.0,
    ),
    # Frozen instants seen from a moving camera, no sound. Synthetic heads.
    replace(
        MOTION_STAGE,
        name="3-views",
        share=10,
        steps=10_000,
        kinds=(("spatial", 1.0),),
        reference=1.0,
        context=0.5,
        trainable=MOTION + CAMERA,
        lip_weight=0.0,
    ),
)
