"""`mini`, from nothing, in minutes or hours on CPUs.

The paper starts from a pretrained image model. `mini` has none, so its recipe begins by making one: an image model of
faces, then all that a single frame can show of its conditions (this mouth for this sound, this side for this camera,
this hair for this portrait). Per second of computing, single frames show several times as many different pictures as
chunks of 16 alike ones (docs/decisions/0003). The paper's three stages follow, in its order, with the 2D weights
frozen as there; what differs is in docs/decisions/0009.
"""

from dataclasses import replace

from ..recipe import AUDIO, CAMERA, MOTION, Stage

BOTH = (("temporal", 0.6), ("spatial", 0.4))
ALL = (("temporal", 0.45), ("spatial", 0.3), ("joint", 0.25))

# Not the paper's: a student that does in four steps, without guidance, what the finished model does in eight
# (student.py). It is the first to hear and to be told the camera at once (docs/decisions/0010).
STUDENT = Stage(
    "4-student",
    share=0.30,
    clips=1,
    recursion=2,
    kinds=ALL,
    reference=0.95,
    context=0.5,
    learning_rate=1.5e-4,
    drop_identity=0.0,
    drop_audio=0.0,
    drop_camera=0.0,
    mouth_weight=20.0,
    student_steps=4,
)

MINI_RECIPE: tuple[Stage, ...] = (
    Stage(
        "0-backbone",
        share=0.20,
        frames=1,
        clips=48,
        kinds=BOTH,
        adapters=False,
        motion=False,
        learning_rate=6e-4,
        mouth_weight=1.0,
        lip_weight=0.0,
    ),
    Stage(
        "0-frames",
        share=0.35,
        frames=1,
        clips=32,
        kinds=BOTH,
        reference=0.9,
        motion=False,
        learning_rate=2e-4,
        drop_camera=0.0,
        mouth_weight=20.0,
        lip_weight=0.0,
        timestep_power=0.5,
    ),
    # The paper's stage 1: who, and what is said; no picture of the person. Lip-reading loss in the second half.
    Stage(
        "1-motion",
        share=0.20,
        trainable=MOTION + AUDIO,
        mouth_weight=8.0,
        lip_start=0.5,
        timestep_power=0.5,
    ),
    # Its stage 2: the portrait, and one's own last frames to look back at.
    Stage(
        "2-self-forcing",
        share=0.15,
        clips=1,
        recursion=2,
        reference=0.95,
        context=0.5,
        context_frames=(2, 4),
        context_timesteps=700,
        trainable=MOTION + AUDIO,
        mouth_weight=8.0,
        timestep_power=0.5,
    ),
    # Its stage 3: frozen instants seen from a moving camera, no sound; light.
    Stage(
        "3-views",
        share=0.10,
        kinds=(("spatial", 1.0),),
        reference=0.95,
        context=0.5,
        trainable=MOTION + CAMERA,
        lip_weight=0.0,
        timestep_power=0.5,
    ),
    STUDENT,
    # Not the paper's either: a student of single frames learns temporal attention and to look back at its own last
    # frames. Few people a step do no harm where the 2D weights are frozen; `--micro-batches` shows more. The shipped
    # model gained nothing by it (docs/decisions/0021).
    replace(STUDENT, name="5-chunks", optional=True, clips=4, learning_rate=3e-4, trainable=MOTION),
    # What is heard of real voices says less of the lips than synthetic ones do, and a mean of what could be meant
    # hardly opens the mouth. So the student hears recordings, and is asked for twice the difference that hearing makes.
    replace(
        STUDENT,
        name="6-voices",
        optional=True,
        kinds=(("temporal", 0.65), ("joint", 0.35)),
        audio_guidance=0.5,
        trainable=AUDIO,
    ),
)
