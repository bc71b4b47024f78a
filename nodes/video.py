"""STARCaster_VideoCombine: latents or images, and sound -> a video file, written as it is decoded."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from pathlib import Path

import torch

from ..starcaster_core.errors import InputError
from ..starcaster_core.files import sweep_parts
from ..starcaster_core.frame_sizes import FRAMES
from ..starcaster_core.locks import NameTakenError
from ..starcaster_core.preflight import check_disk
from ..starcaster_core.types import DEFAULT_FPS
from ..starcaster_core.video import FORMATS, as_rate, write_video
from . import sockets
from .comfy_bridge import (
    CATEGORY,
    InputImpl,
    check_channels,
    io,
    name_fault,
    next_outputs,
    progress_bar,
    stop_if_interrupted,
    tell_user,
    ui,
    user_errors,
    workflow_metadata,
)
from .decode import FRAME_TIP
from .file_video import FileVideo
from .folder_video import FolderVideo
from .latents import FRAME_RATE, decoded, decoder_for, frames_of
from .preview import Preview
from .sound import sound_of

SLICE = 16  # frames decoded at a time; memory does not grow with the length of the video
PLAYABLE = ("mp4", "webm")  # in a browser's player


class VideoCombine(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_VideoCombine",
            display_name="STARCaster Video Combine",
            category=CATEGORY,
            description="Decodes the samples, adds the sound and writes a video into ComfyUI's output folder, a few "
            "frames at a time, so that long videos need no more memory than short ones.",
            search_aliases=["save video", "mp4", "mux audio", "export video", "gif", "image sequence"],
            inputs=[  # pyright: ignore[reportArgumentType]
                io.Latent.Input(
                    "samples", optional=True, tooltip="From the Sampler. Needs model and identity, or the VAE, as well."
                ),
                io.Vae.Input(
                    "vae",
                    optional=True,
                    tooltip="Turns the samples into pictures where model and identity are not connected.",
                ),
                io.Image.Input("images", optional=True, tooltip="Finished frames, instead of samples."),
                io.Audio.Input(
                    "audio", optional=True, tooltip="The sound, cut or filled up with silence to the video's length."
                ),
                io.Float.Input(
                    "fps",
                    default=DEFAULT_FPS,
                    min=1.0,
                    max=240.0,
                    step=0.01,
                    tooltip="Frames per second. The models are made for 25; another value takes the sound out of step.",
                ),
                io.Combo.Input(
                    "format",
                    options=list(FORMATS),
                    default="mp4",
                    tooltip="mp4: H.264 and AAC, plays everywhere. webm: VP9 and Opus. mov: ProRes for editing. gif: "
                    "no sound. png: a folder of pictures and a WAV file.",
                ),
                io.Int.Input(
                    "crf",
                    default=FORMATS["mp4"].crf,
                    min=0,
                    max=63,
                    tooltip="Quality of mp4 (0 to 51) and webm (0 to 63): lower is better and larger.",
                    advanced=True,
                ),
                io.String.Input(
                    "filename_prefix",
                    default="starcaster/video",
                    tooltip="Name inside the output folder; / makes a subfolder. %date:yyyy-MM-dd% is filled in, a "
                    "number added.",
                ),
                sockets.Model.Input(
                    "model",
                    optional=True,
                    tooltip="With the identity, instead of the VAE: frames as sharp as the photo.",
                ),
                sockets.Identity.Input(
                    "identity", optional=True, tooltip="Holds the photo. The same as the Sampler's."
                ),
                io.Combo.Input(
                    "frame",
                    options=list(FRAMES),
                    default=FRAMES[0],
                    optional=True,
                    tooltip=f"With model and identity. {FRAME_TIP}",
                ),
            ],
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written.")],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo, io.Hidden.unique_id],
            is_output_node=True,
        )

    @classmethod
    def validate_inputs(cls, filename_prefix) -> bool | str:
        return (isinstance(filename_prefix, str) and name_fault(filename_prefix)) or True

    @classmethod
    @user_errors
    def execute(
        cls,
        fps,
        format,
        crf,
        filename_prefix,
        samples=None,
        vae=None,
        images=None,
        audio=None,
        model=None,
        identity=None,
        frame=FRAMES[0],
    ) -> io.NodeOutput:
        sound = sound_of(audio) if audio is not None else None
        warnings = []
        if model is not None and identity is not None and samples is not None and images is None:
            core, decode = decoder_for(model, samples, identity, frame)
            warnings += decode.warnings
            tell = partial(tell_user, cls.hidden.unique_id)
            count, slices = len(frames_of(samples)), decoded(core, samples, decode, tell)
        else:
            count, slices = _frames(samples, vae, images)
        made_for = samples.get(FRAME_RATE) if images is None and samples is not None else None
        warnings += pace_warnings(fps, format, made_for, count, sound)
        tell_user(cls.hidden.unique_id, " ".join(warnings))
        slices, size = with_size(slices)
        bar = progress_bar(count, cls.hidden.unique_id)
        preview = None if format in PLAYABLE else Preview(fps, sound if FORMATS[format].audio else None)
        with preview or contextlib.nullcontext():
            slices = slices if preview is None else preview.beside(slices)

            def write(path: Path) -> None:
                check_disk(path, count, *size, format)
                sweep_parts(path.parent)  # what a killed server left
                metadata = workflow_metadata(cls)
                write_video(path, _counted(slices, bar), fps, sound, format, crf, metadata, new=True)

            path, subfolder = write_new(next_outputs(filename_prefix, FORMATS[format].suffix, size, cls), write)
        if preview is not None and preview.failure is not None:
            # All sentences: below the node the last one told replaces the others.
            warnings.append(f"The video is written, but not its preview here. {preview.failure}")
            tell_user(cls.hidden.unique_id, " ".join(warnings))
        return io.NodeOutput(_as_video(path), ui=_shown(path, subfolder, preview))


def write_new(places: Iterable[tuple[Path, str]], write: Callable[[Path], None]) -> tuple[Path, str]:
    """Write to the first place that no other server with this output folder takes, and return it."""
    for path, subfolder in places:
        with contextlib.suppress(NameTakenError):
            write(path)
            return path, subfolder
    raise RuntimeError("no place is left")


def pace_warnings(fps: float, format: str, made_for: float | None, count: int, sound: tuple | None) -> list[str]:
    """Say where lips and sound would run apart, a sentence each.

    made_for: frames a second that the samples were made for, None where it is not known, as of finished images; then
    their number and the sound's length tell.
    """
    warnings = []
    if made_for is None and sound is not None:
        seconds = sound[0].shape[-1] / sound[1]
        if abs(count / DEFAULT_FPS - seconds) < 0.02 * seconds < 0.5 * abs(count / fps - seconds):
            made_for = DEFAULT_FPS
    if made_for is not None and abs(made_for - fps) > 0.01:
        warnings.append(
            f"The frames are made for {made_for:g} a second; at {fps:g} the lips are out of step with the sound."
        )
    if format == "gif" and (100 / as_rate(fps)).denominator != 1:
        warnings.append(f"GIF counts hundredths of a second, so at {fps:g} frames a second they last unequally.")
    return warnings


def with_size(slices: Iterator[torch.Tensor]) -> tuple[Iterator[torch.Tensor], tuple[int, int]]:
    """The same slices [T, H, W, 3], and the width and height of the first; it is made for that."""
    first = next(slices, None)
    if first is None:
        return iter(()), (0, 0)
    return chain([first], slices), (first.shape[2], first.shape[1])


def _frames(samples, vae, images) -> tuple[int, Iterator[torch.Tensor]]:
    """How many frames there are, and slices of them, float [T, H, W, 3] in 0..1."""
    if images is not None and samples is not None:
        raise InputError("samples or images", "both", "Disconnect one of them.")
    if images is not None:
        images = images[None] if images.ndim == 3 else images
        return len(images), (part[..., :3] for part in images.split(SLICE))
    if samples is None:
        raise InputError("samples, or images", "neither", "Connect the Sampler's samples, the model and the identity.")
    if vae is None:
        raise InputError(
            "model and identity to decode the samples with, or a VAE", "neither", "Connect the same as to the Sampler."
        )
    latents = frames_of(samples)
    check_channels(latents, vae)
    return len(latents), (vae.decode(part) for part in latents.split(SLICE))


def _counted(slices: Iterator[torch.Tensor], bar) -> Iterator[torch.Tensor]:
    """The same slices, with a look at the Cancel button before each and a step of the progress bar after it."""
    done = 0
    for part in slices:
        stop_if_interrupted()
        yield part
        done += len(part)
        bar.update_absolute(done)


def _as_video(path: Path) -> InputImpl.VideoFromFile:
    """A VIDEO that stays on the disk."""
    return FolderVideo(path) if path.is_dir() else FileVideo(path)


def _shown(path: Path, subfolder: str, preview: Preview | None) -> dict:
    """What the node shows, always a video: ComfyUI's frontend shows no picture in a node that has shown a video.

    preview: None where a browser plays `path` itself. Else the written file is listed under `files`.
    """
    if path.is_dir():
        path, subfolder = path / "frame_00001.png", f"{subfolder}/{path.name}".lstrip("/")
    saved = ui.SavedResult(path.name, subfolder, io.FolderType.output)
    if preview is None:
        return ui.PreviewVideo([saved]).as_dict()
    if preview.path is None:
        return {"files": [saved]}
    played = ui.SavedResult(preview.path.name, "", io.FolderType.temp)
    return {**ui.PreviewVideo([played]).as_dict(), "files": [saved]}
