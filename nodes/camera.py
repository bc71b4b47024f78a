"""STARCaster_CameraTrajectory: a preset or keyframes -> where the camera stands in every frame."""

from __future__ import annotations

import torch

from ..starcaster_core.camera import PRESETS, CameraMove, keyframe_path, plot_path, preset_path
from ..starcaster_core.camera.keyframes import EXAMPLE
from ..starcaster_core.types import DEFAULT_FPS
from . import sockets
from .comfy_bridge import CATEGORY, io, tell_user, user_errors

DEFAULTS = CameraMove()
KEYFRAMES = "keyframes"


class CameraTrajectory(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_CameraTrajectory",
            display_name="STARCaster Camera Trajectory",
            category=CATEGORY,
            description="Moves the camera around the head: a ready-made movement, or keyframes. Best within 70 degrees "
            "to the sides, 35 up or down, and 0.8 to 1.25 times the usual distance.",
            search_aliases=["camera path", "free viewpoint", "orbit", "camera motion", "head pose", "view"],
            inputs=[
                sockets.Speech.Input(
                    "speech", optional=True, tooltip="When connected, the path lasts exactly as long as this speech."
                ),
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, KEYFRAMES],
                    default=DEFAULTS.preset,
                    tooltip="static: stands still. orbit: round and round. arc: once to one side and stays. dolly: "
                    "closer and back. sway: as held by hand. oscillate: from side to side. keyframes: as written "
                    "below.",
                ),
                io.Float.Input(
                    "yaw",
                    default=DEFAULTS.yaw,
                    min=-180.0,
                    max=180.0,
                    step=1.0,
                    tooltip="How far the movement goes sideways, in degrees. Positive starts towards the subject's "
                    "left, which is the picture's right.",
                ),
                io.Float.Input(
                    "pitch",
                    default=DEFAULTS.pitch,
                    min=-89.0,
                    max=89.0,
                    step=1.0,
                    tooltip="How far the movement goes up, in degrees.",
                ),
                io.Float.Input(
                    "distance",
                    default=DEFAULTS.distance,
                    min=0.1,
                    max=10.0,
                    step=0.01,
                    tooltip="How near the dolly comes, as a factor of the usual distance: 0.85 is a little closer.",
                ),
                io.Float.Input(
                    "period_seconds",
                    default=DEFAULTS.period,
                    min=0.0,
                    max=600.0,
                    step=0.1,
                    tooltip="How long one round of the movement takes. 0 means once over the whole clip.",
                ),
                io.Float.Input(
                    "seconds",
                    default=4.0,
                    min=0.04,
                    max=3600.0,
                    step=0.04,
                    tooltip="Length of the path, used only when no speech is connected.",
                ),
                io.String.Input(
                    "keyframes",
                    default=EXAMPLE,
                    multiline=True,
                    tooltip="Used by the preset 'keyframes': a JSON list of moments, each with time (seconds), yaw and "
                    "pitch (degrees), distance (factor) and, if you like, easing: linear, smooth, ease_in, ease_out or "
                    "hold.",
                ),
            ],
            outputs=[
                sockets.Camera.Output(display_name="camera", tooltip="For the Sampler."),
                io.Image.Output(display_name="plot", tooltip="The path over time and from above."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(cls, preset, yaw, pitch, distance, period_seconds, seconds, keyframes, speech=None) -> io.NodeOutput:
        fps = speech.fps if speech is not None else DEFAULT_FPS
        frames = speech.frames if speech is not None else max(1, round(seconds * fps))
        if preset == KEYFRAMES:
            path = keyframe_path(keyframes, frames, fps)
        else:
            path = preset_path(CameraMove(preset, yaw, pitch, distance, period_seconds), frames, fps)
        tell_user(cls.hidden.unique_id, " ".join(path.warnings))
        plot = torch.from_numpy(plot_path(path)).float()[None] / 255
        return io.NodeOutput(path, plot)
