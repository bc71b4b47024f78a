"""From latents to the frames that are shown: the autoencoder's, or sharp ones out of the photo, alone or inside the
whole picture.

A model with a reference decoder (`models/reference_decoder.py`) shows the photo's own pixels at 512 x 512 and more. In
the whole picture the flow and what is painted fade out towards the border of the face's crop, so that what lies there
is the photo itself: there is no seam to hide, and nothing outside moves.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .conventions import smoothstep
from .errors import InputError
from .frame_sizes import FRAMES, FULL, LARGEST, SMALLEST
from .head_motion import head_rotations
from .models.extensions import FramePose
from .models.extensions.portrait_warp import camera_at
from .models.lip_warp import LipField, lip_field
from .models.reference_decoder import DRAWN, Whole, geometry_of, move_regions
from .types import Identity

BORDER = 0.14  # of the crop's side, over which motion fades out in the whole picture
FEATHER = 0.04  # of the crop's side, over which the crop passes into the photo


class FrameDecoder:
    """Decode a video's latents, from its first frame to its last: motion is smoothed over time.

    identity: whose photo is shown; None for the autoencoder's frames. frame: one of FRAMES. size: side of the face's
    frames in pixels, up to 2048; None is 512, or the model's own without a reference decoder. `warnings` says in a
    sentence each what could not be done. Raises InputError for a frame or size that does not exist.
    """

    def __init__(self, model, identity: Identity | None, frame: str = "face", size: int | None = None):
        if frame not in FRAMES:
            raise InputError(f"a frame of {' or '.join(FRAMES)}", repr(frame), "Choose one of them.")
        if size is not None and not SMALLEST <= size <= LARGEST:
            raise InputError(f"a size from {SMALLEST} to {LARGEST} pixels", str(size), "Choose one in between.")
        self.model, self.identity, self.size = model, identity, size
        self.decoder = model.reference_decoder
        self.warnings = [] if identity is None else self.obstacles(frame)
        self.uses_photo = identity is not None and self.decoder is not None and not self.warnings
        self.picture = frame == "picture" and self.uses_photo
        self.found: Tensor | None = None  # by the reference decoder, in the last frame
        if self.uses_photo:
            self.open()

    def obstacles(self, frame: str) -> list[str]:
        """Return why the photo cannot be used, one sentence each."""
        found, identity = [], self.identity
        if self.decoder is None:
            if frame == "picture":
                found.append("This model has no reference decoder, so the face is shown alone.")
            return found
        if identity.portrait is None:
            found.append("This identity has no photo, so frames come from the model alone, at its own size.")
        elif identity.regions is None:
            found.append(
                "This identity was saved by an earlier version, which did not keep where mouth and eyes lie: frames "
                "come from the model alone, at its own size. Load the photo again."
            )
        elif frame == "picture" and (identity.photo is None or identity.crop is None):
            found.append(
                "This identity was saved without its whole photo: load the photo again to see the whole picture."
            )
        return found

    def open(self) -> None:
        """Prepare what all frames share."""
        identity = self.identity
        side = FULL
        if self.picture:
            side = min(LARGEST, FULL * math.ceil(0.8 * self.crop_side() / FULL))
        elif self.size is not None:
            side = FULL * math.ceil(self.size / FULL)
        self.side, self.border = side, None
        portrait = identity.portrait
        if side != len(portrait):
            portrait = self.portrait_at(side)
        pixels = torch.from_numpy(np.array(portrait)).permute(2, 0, 1)[None].float() / 127.5 - 1
        device = self.model.device
        self.regions = torch.from_numpy(np.asarray(identity.regions, np.float32))[None].to(device)
        lips = self.lips()
        if lips is None and self.decoder.gap_reader is not None:
            self.warnings.append(
                "The lips were not found in the photo, so they move less than the voice asks for. A face seen from the "
                "front, with nothing before it, does better."
            )
        with torch.inference_mode():
            self.photo = self.decoder.open_photo(pixels.to(device), self.regions, lips)
        if self.picture:
            self.border = fading(DRAWN, BORDER).to(device)
            self.prepare_picture()

    def lips(self) -> LipField | None:
        """Return how the photo's mouth opens; None where no face is found in the portrait or the decoder does not use
        it."""
        from .identity.landmarks import find_landmarks

        portrait = None if self.identity is None else self.identity.portrait
        if self.decoder.gap_reader is None or portrait is None:
            return None
        found = find_landmarks(np.asarray(portrait))
        return None if found is None else lip_field(found.points / len(portrait)).to(self.model.device)

    def crop_side(self) -> float:
        """Return the side of the face's crop in pixels of the photo."""
        return len(self.identity.portrait) / float(np.hypot(*self.identity.crop[0, :2]))

    def portrait_at(self, side: int) -> np.ndarray:
        """Return the portrait with another side: cut again from the photo where that is at hand."""
        from PIL import Image

        from .identity.align import warp

        identity = self.identity
        if identity.photo is None or identity.crop is None:
            return np.asarray(Image.fromarray(identity.portrait).resize((side, side), Image.Resampling.LANCZOS))
        factor = side / len(identity.portrait)
        return warp(identity.photo, np.diag([factor, factor, 1.0]) @ identity.crop, side)

    def prepare_picture(self) -> None:
        """Prepare where the crop lies in the photo: its part of the photo, the places of that in the crop, and the
        weights."""
        photo, crop = self.identity.photo, self.identity.crop
        normal = (
            np.diag([1 / len(self.identity.portrait)] * 2 + [1.0]) @ crop
        )  # photo's pixels -> the crop's sides, 0..1
        corners = (np.linalg.inv(normal) @ np.array([[0, 1, 1, 0], [0, 0, 1, 1], [1, 1, 1, 1]], float))[:2]
        height, width = photo.shape[:2]
        x0, y0 = np.clip(np.floor(corners.min(axis=1)), 0, [width, height]).astype(int)
        x1, y1 = np.clip(np.ceil(corners.max(axis=1)), 0, [width, height]).astype(int)
        self.part = slice(y0, y1), slice(x0, x1)
        columns, rows = np.meshgrid(np.arange(x0, x1) + 0.5, np.arange(y0, y1) + 0.5)
        places = np.stack([columns, rows, np.ones_like(rows)], axis=-1) @ normal.T
        places = torch.from_numpy(places[..., :2]).float()
        inside = torch.minimum(places, 1 - places).amin(dim=-1)
        self.weights = (inside / FEATHER).clamp(0, 1)[..., None].to(self.model.device)
        self.grid = (2 * places - 1)[None].to(self.model.device)
        self.beside = torch.from_numpy(np.array(photo[self.part])).float().to(self.model.device)

    @property
    def frame_size(self) -> tuple[int, int]:
        """Height and width of the frames in pixels."""
        photo = self.identity.photo if self.picture and self.identity is not None else None
        if photo is not None:
            return photo.shape[0], photo.shape[1]
        side = self.size or (FULL if self.uses_photo else self.model.config.image_size)
        return side, side

    @property
    def mask(self) -> Tensor:
        """Where frames may differ from the photo, float32 [H, W] in 0..1: all of a face's frame, the crop in a whole
        picture."""
        if not self.picture:
            return torch.ones(self.frame_size)
        mask = torch.zeros(self.identity.photo.shape[:2])
        mask[self.part] = self.weights[..., 0].cpu()
        return mask

    def __call__(self, latents: Tensor, pose: FramePose | None = None) -> Tensor:
        """Decode latents [1, C, T, h, w] of unit variance -> frames float32 [T, H, W, 3] in 0..1, on the CPU.

        pose: head motion [1, T, K] and cameras [1, T, 25] of the frames; None where they are not known.
        """
        return self.show(self.find(latents, pose))

    @torch.inference_mode()
    def find(self, latents: Tensor, pose: FramePose | None = None) -> Tensor | tuple[Whole, Tensor]:
        """Do the first half of a call, after that of the frames before: what the model drew and, where the photo is
        used, how it moves to there."""
        frames = self.model.decode_frames(latents)
        if not self.uses_photo:
            return frames
        drawn = frames.permute(0, 3, 1, 2).to(self.model.device) * 2 - 1
        if drawn.shape[-1] != DRAWN:
            drawn = F.interpolate(drawn, (DRAWN, DRAWN), mode="bilinear", antialias=drawn.shape[-1] > DRAWN)
        geometry = self.geometry(pose, len(drawn))
        regions = move_regions(self.regions.expand(len(drawn), -1, -1), geometry)
        whole = self.decoder.find(drawn, self.photo, geometry, regions, self.border, in_a_row=True, before=self.found)
        self.found = whole.found
        return whole, regions

    @torch.inference_mode()
    def show(self, found: Tensor | tuple[Whole, Tensor]) -> Tensor:
        """Do the second half of a call: frames as there. It may run beside the first half of those that follow."""
        if isinstance(found, Tensor):
            return found if self.size is None else resized_frames(found, self.size)
        whole, regions = found
        frame = self.decoder.compose(whole, self.photo, regions).frame.clamp_(-1, 1)
        if self.picture:
            return self.put_back(frame)
        shown = frame.mul_(0.5).add_(0.5).permute(0, 2, 3, 1).cpu()
        return shown if self.size in (None, self.side) else resized_frames(shown, self.size)

    def geometry(self, pose: FramePose | None, count: int) -> Tensor:
        """Return the flow [T, 2, 32, 32] that head pose and camera cause; zeros where neither is known."""
        device = self.model.device
        if pose is None:
            return torch.zeros(count, 2, 32, 32, device=device)
        own = camera_at() if pose.camera is None else camera_at(self.identity.yaw, self.identity.pitch)
        own = own[None].to(device).expand(count, -1)
        camera = own if pose.camera is None else pose.camera[0].to(device)
        return geometry_of(head_rotations(pose.head_motion[0].to(device)), camera, own)

    def put_back(self, decoded: Tensor) -> Tensor:
        """Put faces [T, 3, S, S] in -1..1 back into the photo: float32 [T, H, W, 3] in 0..1."""
        photo = torch.from_numpy(np.array(self.identity.photo)).float() / 255
        frames = photo[None].repeat(len(decoded), 1, 1, 1)
        for frame, face in zip(frames, decoded):
            placed = F.grid_sample(face[None], self.grid, mode="bicubic", padding_mode="border", align_corners=False)
            placed = (placed[0].permute(1, 2, 0) + 1) * 127.5
            frame[self.part] = torch.lerp(self.beside, placed, self.weights).clamp(0, 255).cpu() / 255
        return frames


def fading(side: int, width: float) -> Tensor:
    """Return weights [1, 1, side, side]: 1 inside a square, falling smoothly to 0 at its border over `width` of its
    side."""
    at = (torch.arange(side) + 0.5) / side
    ramp = smoothstep(torch.minimum(at, 1 - at) / width)
    return (ramp[:, None] * ramp)[None, None]


def resized_frames(frames: Tensor, side: int) -> Tensor:
    """Resize frames [T, S, S, 3]."""
    small = F.interpolate(frames.permute(0, 3, 1, 2), (side, side), mode="bicubic", antialias=True)
    return small.clamp(0, 1).permute(0, 2, 3, 1)
