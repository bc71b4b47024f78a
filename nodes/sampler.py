"""STARCaster_Sampler: model, identity, speech and camera -> latents of the video, chunk after chunk."""

from __future__ import annotations

import torch

from ..starcaster_core.presets import ModelConfig
from ..starcaster_core.sampling import SamplerSettings
from ..starcaster_core.sampling.schedules import SCHEDULERS
from . import sockets
from .comfy_bridge import (
    CATEGORY,
    SamplingProgress,
    intermediate_device,
    io,
    stop_if_interrupted,
    tell_user,
    user_errors,
)

DEFAULTS = SamplerSettings()


class Sampler(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_Sampler",
            display_name="STARCaster Sampler",
            category=CATEGORY,
            description="Makes the video, 16 frames at a time, each chunk looking back at the one before, so that any "
            "length is possible. The result is an ordinary LATENT batch, one entry a frame.",
            search_aliases=["talking head", "audio driven video", "lip sync", "portrait animation", "free viewpoint"],
            inputs=[
                sockets.Model.Input("model", tooltip="From the STARCaster Model Loader."),
                sockets.Identity.Input("identity", tooltip="Who is shown, from the STARCaster Identity Loader."),
                sockets.Speech.Input(
                    "speech",
                    optional=True,
                    tooltip="What is said, from the STARCaster Audio Encoder. It also sets the video's length.",
                ),
                sockets.Camera.Input(
                    "camera",
                    optional=True,
                    tooltip="Where the camera goes, from the STARCaster Camera Trajectory. Without it the head moves "
                    "freely before a still camera.",
                ),
                io.Int.Input(
                    "seed",
                    default=DEFAULTS.seed,
                    min=0,
                    max=2**64 - 1,
                    control_after_generate=True,
                    tooltip="The same seed and settings give the same video on the same kind of device.",
                ),
                io.Int.Input(
                    "steps",
                    default=DEFAULTS.steps,
                    min=1,
                    max=1000,
                    tooltip="Denoising steps for each chunk. More is slower and, up to about 25, finer.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=list(SCHEDULERS),
                    default=DEFAULTS.scheduler,
                    tooltip="How noise is removed: 'lcm' in few-step models, the built-in one among them (4 steps, "
                    "guidance 1), 'dpmpp' or 'ddim' in the others.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=DEFAULTS.guidance_scale,
                    min=0.0,
                    max=20.0,
                    step=0.1,
                    tooltip="How strictly identity, camera and speech are followed. 1 turns guidance off and halves "
                    "the time.",
                ),
                io.Float.Input(
                    "lambda_audio",
                    default=DEFAULTS.lambda_audio,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Weight of the speech inside the model: 0 ignores it, 1 is as trained.",
                ),
                io.Float.Input(
                    "lambda_camera",
                    default=DEFAULTS.lambda_camera,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip="Weight of the camera inside the model: 0 ignores it, 1 is as trained.",
                ),
                io.Int.Input(
                    "context_frames",
                    default=ModelConfig.context_frames,
                    min=0,
                    max=16,
                    tooltip="How many of the last frames each chunk looks back at: 0 for the built-in model, whose frames "
                    "go on from each other by themselves, 2 for others.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "use_reference",
                    default=DEFAULTS.use_reference,
                    tooltip="On: the photo itself is the reference, and its look is kept. Off: only the person's "
                    "identity is used, and the first chunk invents the look.",
                ),
                io.Float.Input(
                    "seconds",
                    default=4.0,
                    min=0.04,
                    max=3600.0,
                    step=0.04,
                    tooltip="Length of the video, used only when neither speech nor a camera is connected.",
                ),
                io.Float.Input(
                    "guidance_end",
                    default=DEFAULTS.guidance_end,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip="Share of the steps, the noisiest first, that are guided. 0.5 saves a quarter of the time "
                    "and changes little.",
                    advanced=True,
                ),
                io.Float.Input(
                    "head_motion",
                    default=DEFAULTS.head_motion,
                    min=0.0,
                    max=2.0,
                    step=0.05,
                    optional=True,
                    tooltip="How lively the head turns and looks about while it speaks: 0 keeps it still, 1 is usual. "
                    "For the built-in model and others that are told how to move.",
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="samples", tooltip="One latent a frame, for Video Combine or core's VAE Decode."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(cls, model, identity, seconds, speech=None, camera=None, **widgets) -> io.NodeOutput:
        from ..starcaster_core.sampling import Conditions, rollout

        conditions = Conditions(identity, speech, camera, _frames(speech, camera, seconds, model.core.config.fps))
        tell_user(cls.hidden.unique_id, " ".join(model.core.warnings(speech, camera)))
        chunks = rollout(
            model.on_device(),
            conditions,
            SamplerSettings(**widgets),
            progress=SamplingProgress(cls.hidden.unique_id),
            should_stop=stop_if_interrupted,
            execution=model.execution,
        )
        # [1, C, T, h, w] a chunk -> [T, C, h, w], off the device as soon as they are there
        frames = [chunk.latents[0].movedim(1, 0).to(intermediate_device(), torch.float32) for chunk in chunks]
        return io.NodeOutput({"samples": torch.cat(frames)})


def _frames(speech, camera, seconds: float, fps: float) -> int:
    """The video's length: the speech's, else the camera path's, else what the widget says."""
    if speech is not None:
        return speech.frames
    if camera is not None:
        return camera.frames
    return max(1, round(seconds * fps))
