"""What a model may have beyond the paper, each thing behind the same seam. `sd15` has none of them, `mini` all.

head_motion     the network is given how the head turns, blinks and glances
portrait_copy   the network may copy the portrait's latents where they fit, warped (`portrait_warp`) to the pose of each
frame shared_noise    all frames of a video begin from partly the same noise

The UNet holds those with weights as `unet.extensions`. The seam is

    open_reference(model, latents, ...)      once a clip
    prepare_chunk(model, reference, pose)    once a chunk: what goes into `ConditionCache.extensions`, by name
    Extensions.before(x, time_embedding)     behind the first convolution of the network
    Extensions.after(x, features)            behind the last one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from ...head_motion import POSE_CHANNELS, head_rotations
from ...presets import ExtensionsConfig, UNetConfig
from ..attention_cache import ConditionCache
from ..attention_kernels import concat
from .head_motion import HeadMotion
from .portrait_copy import PortraitCopy
from .portrait_warp import warp_portrait

Prepared = dict[str, tuple[Tensor, ...]]


@dataclass(frozen=True)
class Reference:
    """The portrait as the extensions use it, opened once a clip.

    picture: [B, 3, S, S] in -1..1 where it is to be warped, else its latents [B, C, 1, h, w]; None without a portrait.
    camera: [B, 25] that took it; None is straight ahead. pose: its head pose [POSE_CHANNELS], what a frame's is
    relative to.
    """

    picture: Tensor | None = None
    camera: Tensor | None = None
    pose: Tensor | float = 0.0


@dataclass(frozen=True)
class FramePose:
    """Head motion [B, T, K] (`starcaster_core.head_motion`) and cameras [B, T, 25], None where no camera counts."""

    head_motion: Tensor
    camera: Tensor | None = None

    def __getitem__(self, frames: slice) -> FramePose:
        """Return the same of some of the frames."""
        return FramePose(self.head_motion[:, frames], None if self.camera is None else self.camera[:, frames])

    def relative_to(self, reference: Reference) -> FramePose:
        """Return the same with head pose counted from the portrait's."""
        motion = self.head_motion.clone()
        motion[..., :POSE_CHANNELS] -= reference.pose
        return replace(self, head_motion=motion)


class Extensions(nn.ModuleDict):
    """The extensions that a UNet has, by name."""

    def __init__(self, config: ExtensionsConfig, unet: UNetConfig):
        parts: dict[str, nn.Module] = {}
        if config.head_motion_channels:
            parts["head_motion"] = HeadMotion(config.head_motion_channels, unet.block_out_channels[0])
        if config.copy_portrait:
            parts["portrait_copy"] = PortraitCopy(unet.in_channels, unet.block_out_channels[0])
        super().__init__(parts)

    def before(self, x: Tensor, time_embedding: Tensor, conditions: Sequence[ConditionCache]) -> tuple[Tensor, Tensor]:
        """Change what goes into the blocks: x [B * T, C0, h, w], time_embedding [B * T, 4 * C0]."""
        for name, part in self.items():
            x, time_embedding = self.each(name, conditions, part.before, x, time_embedding)
        return x, time_embedding

    def after(self, x: Tensor, features: Tensor, conditions: Sequence[ConditionCache]) -> Tensor:
        """Change what came out: x [B * T, C, h, w], from features [B * T, C0, h, w]."""
        for name, part in self.items():
            x, features = self.each(name, conditions, part.after, x, features)
        return x

    @staticmethod
    def each(name: str, conditions: Sequence[ConditionCache], act: Callable, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Apply `act` to the equal parts of the batch whose condition has something prepared for this extension."""
        if not any(name in condition.extensions for condition in conditions):
            return tensors
        parts = zip(*(x.chunk(len(conditions)) for x in tensors))
        changed = [
            act(*part, condition.extensions[name]) if name in condition.extensions else part
            for part, condition in zip(parts, conditions)
        ]
        return tuple(concat(list(column)) for column in zip(*changed))


@torch.no_grad()
def open_reference(
    model, latents: Tensor | None, camera: Tensor | None = None, pose: Tensor | float = 0.0
) -> Reference:
    """Open the portrait once a clip: latents [B, C, 1, h, w] -> as `Reference` says; camera and pose are its own."""
    if latents is not None and model.config.extensions.warp_portrait:
        latents = model.vae.decode(model.like_weights(model.to_raw(latents[:, :, 0])))
    return Reference(latents, camera, pose)


def prepare_chunk(model, reference: Reference, pose: FramePose) -> Prepared:
    """Prepare what the extensions add to a chunk's condition. pose: head motion and cameras of its frames, as drawn."""
    extensions, prepared = model.unet.extensions, {}
    pose = pose.relative_to(reference)
    if "head_motion" in extensions:
        prepared["head_motion"] = extensions["head_motion"].prepare(model.like_weights(pose.head_motion))
    if "portrait_copy" in extensions and reference.picture is not None:
        latents = reference.picture
        if model.config.extensions.warp_portrait:
            latents = warped_latents(model, reference, pose)
        prepared["portrait_copy"] = extensions["portrait_copy"].prepare(model.like_weights(latents))
    return prepared


@torch.no_grad()
def warped_latents(model, reference: Reference, pose: FramePose) -> Tensor:
    """Warp the portrait to every frame's pose and camera, and encode it: [B, C, T, h, w]."""
    pictures = warp_portrait(reference.picture, head_rotations(pose.head_motion), pose.camera, reference.camera)
    raw = model.vae.encode(model.like_weights(rearrange(pictures, "b t c h w -> (b t) c h w")))
    return model.from_raw(rearrange(raw.float(), "(b t) c h w -> b c t h w", b=len(pictures)))
