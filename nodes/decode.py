"""STARCaster_Decode: latents, model and identity -> frames as sharp as the photo, of the face or of the whole
picture."""

from __future__ import annotations

from functools import partial

import torch

from ..starcaster_core.frame_sizes import FRAMES, LARGEST
from ..starcaster_core.preflight import check_memory
from . import sockets
from .comfy_bridge import CATEGORY, free_memory, io, progress_bar, stop_if_interrupted, tell_user, user_errors
from .latents import decoded, decoder_for, frames_of

FRAME_TIP = (
    "face: the face's square crop. picture: the whole photo, with the face talking in its place and everything else "
    "standing still."
)


class Decode(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_Decode",
            display_name="STARCaster Decode",
            category=CATEGORY,
            description="Turns the Sampler's samples into frames as sharp as the photo: its own pixels, moved to where "
            "the model drew them, and painted where the photo does not show what is seen.",
            search_aliases=["reference decoder", "paste back", "sharp face", "whole picture", "VAE decode"],
            inputs=[
                io.Latent.Input("samples", tooltip="From the Sampler."),
                sockets.Model.Input("model", tooltip="The same model as the Sampler's."),
                sockets.Identity.Input("identity", tooltip="The same identity as the Sampler's: it holds the photo."),
                io.Combo.Input("frame", options=list(FRAMES), default=FRAMES[0], tooltip=FRAME_TIP),
                io.Int.Input(
                    "size",
                    default=0,
                    min=0,
                    max=LARGEST,
                    step=8,
                    tooltip="Side of the face's frames in pixels, from 64. 0 is 512, or the model's own size if it has "
                    "no reference decoder. The whole picture keeps the photo's size.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="images", tooltip="One a frame, for any image or video node."),
                io.Mask.Output(display_name="mask", tooltip="Where frames may differ from the photo."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @user_errors
    def execute(cls, samples, model, identity, frame, size) -> io.NodeOutput:
        core, decode = decoder_for(model, samples, identity, frame, size or None)
        tell_user(cls.hidden.unique_id, " ".join(decode.warnings))
        count = len(frames_of(samples))
        check_frames(count, *decode.frame_size)
        bar, images, done = progress_bar(count, cls.hidden.unique_id), None, 0
        for part in decoded(core, samples, decode, partial(tell_user, cls.hidden.unique_id)):
            stop_if_interrupted()
            if images is None:
                images = torch.empty(count, *part.shape[1:])
            images[done : done + len(part)] = part
            done += len(part)
            bar.update_absolute(done)
        return io.NodeOutput(images, decode.mask[None])


def check_frames(count: int, height: int, width: int) -> None:
    """Raise InputError where so many frames, float32 RGB, are more than the free memory."""
    fix = "Connect model and identity to STARCaster Video Combine instead: it holds a few frames at a time."
    check_memory(12 * count * height * width, f"{count} frames of {width}x{height} at once", fix, free_memory())
