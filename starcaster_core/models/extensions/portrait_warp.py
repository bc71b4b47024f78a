"""Warp the portrait to another head pose and camera, so that it can be copied from.

Every pixel's ray is intersected with an ellipsoid where heads are, turned as the head is, and takes the colour which that
point has in the portrait; what was hidden there takes the rim's. Hair and all else that is no ellipsoid come out wrong; the
copy gate decides where to use it (docs/decisions/0004). Coordinates: docs/architecture.md.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ...camera.poses import intrinsics, world_from_cam
from ...conventions import smoothstep
from ...types import CameraPath

CENTRE, RADII = (0.0, -0.02, -0.02), (0.205, 0.28, 0.22)  # of the mean head of the synthetic world
PIVOT = (0.0, -0.175, -0.072)  # where it turns
FADE = 0.6  # ellipsoid radii beyond its rim, over which what turns with the head comes to rest
EDGE = 0.3  # cosine between the portrait's view and the place on the head that stands in for what was hidden
GRID = 32  # rays a side: the flow is smooth


def warp_portrait(
    portrait: Tensor, rotations: Tensor, camera: Tensor | None = None, portrait_camera: Tensor | None = None
) -> Tensor:
    """Warp portrait [B, 3, S, S] -> [B, T, 3, S, S].

    rotations [B, T, 3, 3]: the head's, from the portrait's pose. camera [B, T, 25] (world_from_cam, intrinsics): seen from
    there; None: from where the portrait was taken. portrait_camera [B, 25]: None is straight ahead.
    """
    batch, frames = rotations.shape[:2]
    if portrait_camera is None:
        portrait_camera = camera_at().to(portrait.device).expand(batch, -1)
    before = portrait_camera.float().repeat_interleave(frames, dim=0)
    now = before if camera is None else camera.float().flatten(0, 1)
    moved = F.interpolate(warp_flow(now, rotations.float().flatten(0, 1), before), portrait.shape[-2:], mode="bilinear")
    # As grid_sample counts, -1 .. 1
    grid = 2 * (pixel_centres(portrait.shape[-1], portrait.device) + moved.movedim(1, -1)) - 1
    repeated = portrait.float().repeat_interleave(frames, dim=0)
    turned = F.grid_sample(repeated, grid, padding_mode="border", align_corners=False)
    return turned.unflatten(0, (batch, frames))


def pixel_centres(side: int, device: torch.device) -> Tensor:
    """Return the pixel centres of a square picture, x right and y down, in 0..1: [side, side, 2]."""
    ticks = (torch.arange(side, device=device) + 0.5) / side
    down, right = torch.meshgrid(ticks, ticks, indexing="ij")
    return torch.stack([right, down], dim=-1)


def warp(x: Tensor, flow: Tensor) -> Tensor:
    """Sample x [N, C, h, w] at place + flow; flow [N, 2, ...], image sides, is resized to it. Computed in float32."""
    if flow.shape[-2:] != x.shape[-2:]:
        flow = F.interpolate(flow, x.shape[-2:], mode="bilinear", align_corners=False)
    grid = 2 * (pixel_centres(x.shape[-1], x.device) + flow.movedim(1, -1)) - 1
    return F.grid_sample(x.float(), grid, padding_mode="border", align_corners=False).to(x.dtype)


def warp_flow(camera: Tensor, rotations: Tensor, portrait_camera: Tensor) -> Tensor:
    """Return the backward flow into the portrait, [N, 2, GRID, GRID], x right and y down in image sides.

    camera, portrait_camera [N, 25]; rotations [N, 3, 3].
    """

    def row(numbers) -> Tensor:
        return torch.tensor(numbers, device=camera.device)

    centre, radii, pivot = row(CENTRE), row(RADII), row(PIVOT)
    here = pixel_centres(GRID, camera.device).flatten(0, 1)  # [P, 2]

    rotation, position, focal, middle = unpack_camera(camera)
    rays = F.pad((here - middle) / focal, (0, 1), value=1.0) @ rotation.mT
    # The head at rest, and everything else turned the other way
    origin = (pivot + (position - pivot) @ rotations - centre) / radii
    rays = rays @ rotations / radii
    square, along = rays.square().sum(dim=-1, keepdim=True), (origin * rays).sum(dim=-1, keepdim=True)
    off_centre = (origin.square().sum(dim=-1, keepdim=True) - along.square() / square).clamp(min=0)
    reach = ((1 - off_centre).clamp(min=0) / square).sqrt()  # 0 beyond the rim: as near as the ray comes
    met = origin + (-along / square - reach) * rays

    rotation, position, focal, middle = unpack_camera(portrait_camera)
    towards = (position - centre) / radii
    distance = towards.norm(dim=-1, keepdim=True)
    towards = towards / distance
    facing = (met * towards).sum(dim=-1, keepdim=True)
    rim = F.normalize(met - facing * towards, dim=-1) * (1 - EDGE**2) ** 0.5 + EDGE * towards
    # Beyond the rim that the portrait's camera sees, and a little
    hidden = (facing < 0.9 / distance) & (off_centre < 1)
    met = torch.where(hidden, rim, met) * radii + centre
    seen = (met - position) @ rotation
    seen = seen[..., :2] / seen[..., 2:] * focal + middle
    beyond = ((off_centre.sqrt() - 1) / FADE).clamp(0, 1)
    rest = smoothstep(beyond)
    return ((1 - rest) * (seen - here)).mT.unflatten(-1, (GRID, GRID))


def unpack_camera(camera: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Split [N, 25] into rotation [N, 3, 3], position [N, 1, 3], focal lengths and principal point [N, 1, 2], image sides."""
    pose, lens = camera[:, :16].unflatten(-1, (4, 4)), camera[:, 16:].unflatten(-1, (3, 3))
    focal = torch.stack([lens[:, 0, 0], lens[:, 1, 1]], dim=-1)
    return pose[:, :3, :3], pose[:, None, :3, 3], focal[:, None], lens[:, None, :2, 2]


def camera_at(yaw: float = 0.0, pitch: float = 0.0) -> Tensor:
    """Return the camera [25] of a portrait taken from `yaw` degrees to the person's left and `pitch` above."""
    return torch.from_numpy(CameraPath(world_from_cam(yaw, pitch)[None], intrinsics(1)).vectors()[0])
