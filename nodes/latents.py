"""What travels on a LATENT from the Sampler: raw latents as core's VAE Decode takes them, and the frames' poses beside
them.

Core's nodes hand the additional entries on, but do not cut them when they cut the batch: poses that no longer fit the
number of frames are taken for unknown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

import torch

from ..starcaster_core.errors import InputError
from ..starcaster_core.preflight import check_memory, free_disk
from ..starcaster_core.presets import ModelConfig
from ..starcaster_core.sampling.journal import SPARE
from .comfy_bridge import free_memory, intermediate_device, temporary_output

HEAD_MOTION, CAMERA, USE_REFERENCE = "starcaster_head_motion", "starcaster_camera", "starcaster_use_reference"
PORTRAIT = "starcaster_identity"  # whose portrait the model drew itself
FRAME_RATE, FAULT = "starcaster_fps", "starcaster_on_fault"
LONG = 2**28  # bytes of samples from which they are in a file; ten minutes of `mini`
AT_ONCE = 4  # frames decoded at a time: memory does not grow with the video's length, and Cancel is heard in between


def room_for(frames: int, config: ModelConfig) -> torch.Tensor:
    """Room for the raw latents of a video, float32 [frames, C, h, w]: in memory, of a long one in a file.

    The system writes such a file out and reads it back as others need the memory. It has no name and goes with the
    tensor, however the server ends. Raises InputError where neither disk nor memory has so much.
    """
    shape = frames, config.unet.in_channels, config.latent_size, config.latent_size
    size = 4 * math.prod(shape)
    device = intermediate_device()
    if size > LONG and device.type == "cpu" and (samples := in_a_file(size)) is not None:
        return samples.view(shape)
    check_memory(size, f"the samples of {frames} frames", "Make a shorter video.", free_memory())
    return torch.empty(shape, device=device)


def in_a_file(size: int) -> torch.Tensor | None:
    """Return float32 [size / 4] in a nameless file of the temp folder; None where there is no room for one, or the
    system cannot promise it beforehand: a disk that fills up later would end the server."""
    path = temporary_output(".latents")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not hasattr(os, "posix_fallocate") or size + SPARE > (free_disk(path) or 0):
            return None
        with open(path, "xb") as file:
            os.posix_fallocate(file.fileno(), 0, size)
        return torch.from_file(str(path), shared=True, size=size // 4, dtype=torch.float32)
    except (OSError, RuntimeError):
        return None
    finally:
        with suppress(OSError):
            path.unlink()


def pack(core, chunks: Iterable, samples: torch.Tensor, use_reference: bool, on_fault: str, drawn=None) -> dict:
    """Chunks of a rollout, unit variance [1, C, T, h, w] -> LATENT with `samples` of `room_for`, filled. drawn: the
    identity whose portrait the model drew itself, where it did."""
    config, frames = core.config, len(samples)
    done, motion, cameras = 0, [], []
    for chunk in chunks:
        raw = core.to_raw(chunk.latents)[0].movedim(1, 0)
        done = chunk.start + len(raw)
        samples[chunk.start : done] = raw  # in place: joining a list would take twice the memory
        if chunk.pose is not None:
            motion.append(chunk.pose.head_motion[0].cpu())
        if chunk.pose is not None and chunk.pose.camera is not None:
            cameras.append(chunk.pose.camera[0].cpu())
    if done < frames:
        raise RuntimeError(f"the rollout ended after {done} of {frames} frames")
    latent = {"samples": samples, USE_REFERENCE: use_reference, FRAME_RATE: config.fps, FAULT: on_fault}
    if drawn is not None:
        latent[PORTRAIT] = drawn
    for name, parts in ((HEAD_MOTION, motion), (CAMERA, cameras)):
        if parts:
            latent[name] = torch.cat(parts)
    return latent


def frames_of(latent: dict) -> torch.Tensor:
    """LATENT -> raw latents, one entry a frame, [T, C, h, w]; video latents of other packs have them in one entry."""
    samples = latent["samples"]
    return samples.movedim(2, 1).flatten(0, 1) if samples.ndim == 5 else samples


def decoded(core, latent: dict, decode, say: Callable[[str], None]) -> Iterator[torch.Tensor]:
    """Decode a LATENT a few frames at a time, by a `FrameDecoder`: float32 [T, H, W, 3] in 0..1.

    say: told of black frames where the Sampler was to warn of faults, and of a colour that drifts.
    Raises InputError for latents of another model, StarcasterError for black frames.
    """
    from ..starcaster_core.models.extensions import FramePose
    from ..starcaster_core.sampling.guards import FrameGuard
    from ..starcaster_core.video.background import one_ahead

    samples, channels = frames_of(latent), core.config.unet.in_channels
    if samples.shape[1] != channels:
        raise InputError(
            f"samples of this model, with {channels} channels",
            f"some with {samples.shape[1]}",
            "Connect the same Model Loader as to the Sampler, or decode with the VAE alone.",
        )
    motion, cameras = latent.get(HEAD_MOTION), latent.get(CAMERA)
    if motion is not None and len(motion) != len(samples):
        motion = None
    if cameras is not None and len(cameras) != len(samples):
        motion = cameras = None
    guard, length = FrameGuard(core.config, latent.get(FAULT, "stop"), say), core.config.chunk_frames

    def find(start: int):
        part = slice(start, start + AT_ONCE)
        pose = None
        if motion is not None:
            pose = FramePose(motion[None, part], None if cameras is None else cameras[None, part])
        latents = core.from_raw(samples[part]).movedim(0, 1)[None]
        return decode.find(core.like_weights(latents).float(), pose)

    starts = range(0, len(samples), AT_ONCE)
    for start, found in zip(starts, one_ahead(find, starts)):
        frames = decode.show(found)
        end = start + len(frames)
        guard.check(frames, start // length, last=end // length > start // length or end == len(samples))
        yield frames


def decoder_for(model, latent: dict, identity, frame: str, size: int | None = None):
    """Return the core on its device and the `FrameDecoder` for a LATENT."""
    from ..starcaster_core.frame_decoder import FrameDecoder

    core = model.on_device()
    shown = latent.get(PORTRAIT, identity) if latent.get(USE_REFERENCE, True) else None
    return core, FrameDecoder(core, shown, frame, size)
