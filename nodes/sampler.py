"""STARCaster_Sampler: model, identity, speech and camera -> latents of the video, chunk after chunk."""

from __future__ import annotations

from functools import partial

from ..starcaster_core.presets import ModelConfig
from ..starcaster_core.sampling.redo import next_seed, read_redo
from ..starcaster_core.sampling.samplers import SAMPLERS
from ..starcaster_core.sampling.settings import ON_FAULT, Conditions, SamplerSettings
from . import sockets
from .comfy_bridge import (
    CATEGORY,
    SamplingProgress,
    io,
    journal_folder,
    stop_if_interrupted,
    tell_user,
    user_errors,
)
from .latents import pack, room_for

DEFAULTS = SamplerSettings()
# What a widget says when the model's own value is meant.
AUTO = {"steps": 0, "scheduler": "auto", "guidance_scale": -1.0, "context_frames": -1, "guidance_end": -1.0}
OWN = "the model's own, which is what its makers measured to be best"


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
                    default=AUTO["steps"],
                    min=0,
                    max=1000,
                    tooltip=f"Denoising steps for each chunk. 0 is {OWN}. More is slower and, up to about 25, finer.",
                ),
                io.Combo.Input(
                    "scheduler",
                    options=[AUTO["scheduler"], *SAMPLERS],
                    default=AUTO["scheduler"],
                    tooltip=f"How noise is removed. 'auto' is {OWN}: 'lcm' for few-step models, the built-in one among "
                    "them, 'dpmpp' for others.",
                ),
                io.Float.Input(
                    "guidance_scale",
                    default=AUTO["guidance_scale"],
                    min=-1.0,
                    max=20.0,
                    step=0.1,
                    tooltip=f"How strictly identity, camera and speech are followed. -1 is {OWN}. 1 turns guidance off "
                    "and halves the time.",
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
                    default=AUTO["context_frames"],
                    min=-1,
                    max=16,
                    tooltip=f"How many of the last frames each chunk looks back at. -1 is {OWN}.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "use_reference",
                    default=DEFAULTS.use_reference,
                    tooltip="On: the photo itself is the reference, and its look is kept. Off: only the person's "
                    "identity is used, and the model draws a portrait of its own; another seed, another one.",
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
                    default=AUTO["guidance_end"],
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    optional=True,
                    tooltip=f"Fraction of the steps, the noisiest first, that are guided. -1 is {OWN}. 0.5 saves a "
                    "quarter of the time and changes little.",
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
                io.Combo.Input(
                    "on_fault",
                    options=list(ON_FAULT),
                    default=ON_FAULT[0],
                    optional=True,
                    tooltip="Where a chunk is NaN, frozen or black, or the face is lost: stop, retry with other "
                    "noise, or warn and go on.",
                    advanced=True,
                ),
                io.String.Input(
                    "redo",
                    default="",
                    optional=True,
                    tooltip="After a render: chunks to make again, such as 3 or 5-7, or seconds such as 1.2s-3s; 3:42 "
                    "takes the seed 42, 3:audio_scale=2 another scale. The other chunks stay. Leave all else as it "
                    "was, the seed among it.",
                    advanced=True,
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="samples",
                    tooltip="One latent a frame, for STARCaster Decode, Video Combine or core's VAE Decode.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(
        cls, model, identity, seconds, speech=None, camera=None, on_fault=ON_FAULT[0], redo="", **widgets
    ) -> io.NodeOutput:
        from ..starcaster_core.identity_only import with_drawn_portrait
        from ..starcaster_core.pipeline import generate_latents, open_render_journal, video_length
        from ..starcaster_core.sampling.cost import expectation, expected_seconds

        core, tell = model.core, partial(tell_user, cls.hidden.unique_id)
        frames, _ = video_length(core.config.fps, speech, camera, None if speech or camera else seconds)
        tell(" ".join(core.warnings(speech, camera)))
        settings = chosen_settings(core.config, widgets)
        samples = room_for(frames, core.config)
        again = read_redo(redo, core.config, frames, settings, next_seed(settings.seed))
        device_core = model.on_device()
        conditions = Conditions(identity, speech, camera, frames)
        conditions, settings = with_drawn_portrait(device_core, conditions, settings, stop_if_interrupted)
        again_frames = len(again) * core.config.chunk_frames or frames
        tell(expectation(expected_seconds(core.config, settings, again_frames, 0, device_core.device, core.dtype)))
        drawn = None if conditions.identity is identity else conditions.identity
        render = device_core, conditions, settings
        with open_render_journal(journal_folder(), *render, model.execution, tell) as journal:
            chunks = generate_latents(
                *render,
                progress=SamplingProgress(cls.hidden.unique_id),
                should_stop=stop_if_interrupted,
                execution=model.execution,
                journal=journal,
                redo=again,
                on_fault=on_fault,
                faces=True,
                say=tell,
            )
            latent = pack(core, chunks, samples, settings.use_reference, on_fault, drawn)
            journal.finish(len(again))
        return io.NodeOutput(latent)


def chosen_settings(config: ModelConfig, widgets: dict) -> SamplerSettings:
    """Return the sampler's settings: what a widget says, or the model's own where it says AUTO."""
    chosen = {name: None if value == AUTO.get(name) else value for name, value in widgets.items()}
    return SamplerSettings.of(config, **chosen)
