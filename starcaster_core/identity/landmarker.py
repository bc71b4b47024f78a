"""The three networks of MediaPipe's face landmarker (Google, Apache-2.0): where faces are, 478 points, 52 scores.

The weights are Google's, from `face_landmarker.task`; `scripts/convert_landmarker.py` fills these modules with them.
Detector: BlazeFace (Bazarevsky et al. 2019, arXiv 1907.05047). Points: Face Mesh (Kartynnik et al. 2019,
arXiv 1907.06724). Scores: an MLP-Mixer (Tolstikhin et al. 2021, arXiv 2105.01601) on 146 of the points.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError

FILE = Path(__file__).resolve().parent.parent / "weights" / "landmarker.safetensors"

DETECTOR_SIDE = 128  # pixels of the picture that the detector sees
CROP_SIDE = 256  # pixels of the crop that the landmark network sees
POINTS = 478  # 468 of the face, then 5 of the iris on the picture's left, 5 of the other
CANONICAL_POINTS = 468
KEYPOINTS = 6  # of the detector; the first two are the eyes, image-left first
ANCHORS = ((16, 2), (8, 6))  # cells a side, anchors a cell
DETECTOR_BLOCKS = (24, 28, "32", 36, 42, "48", 56, 64, 72, 80, 88, "96", 96, 96, 96, 96)  # channels; halved at strings
LANDMARK_STAGES = ((16, 8), (32, 16), (64, 32), (128, 64), (128, 64), (128, 64), (128, 64))  # channels, inner ones
SHAPES = 52
SHAPE_TOKENS, SHAPE_WIDTH, TOKEN_HIDDEN, CHANNEL_HIDDEN, MIXERS = 96, 64, 384, 256, 4
# Which points the score network reads, in its order (MediaPipe, face_blendshapes_graph.cc, Apache-2.0).
SHAPE_POINTS = tuple(
    int(number)
    for number in (
        "0 1 4 5 6 7 8 10 13 14 17 21 33 37 39 40 46 52 53 54 55 58 61 63 65 66 67 70 78 80 81 82 84 87 88 91 93 95 "
        "103 105 107 109 127 132 133 136 144 145 146 148 149 150 152 153 154 155 157 158 159 160 161 162 163 168 172 "
        "173 176 178 181 185 191 195 197 234 246 249 251 263 267 269 270 276 282 283 284 285 288 291 293 295 296 297 "
        "300 308 310 311 312 314 317 318 321 323 324 332 334 336 338 356 361 362 365 373 374 375 377 378 379 380 381 "
        "382 384 385 386 387 388 389 390 397 398 400 402 405 409 415 454 466 468 469 470 471 472 473 474 475 476 477"
    ).split()
)


class Landmarker(nn.Module):
    """The networks, and the face model that comes with them.

    face: float32 [468, 3], the points of an average face in centimetres: x right in a frontal picture, y up, z towards
    its viewer. face_weights: float32 [468], what each counts in a rigid fit; most count nothing.
    triangles: int16 [898, 3], which points span the surface.
    """

    def __init__(self):
        super().__init__()
        self.detector = FaceDetector()
        self.landmarks = LandmarkNetwork()
        self.shapes = ShapeNetwork()
        self.register_buffer("face", torch.zeros(CANONICAL_POINTS, 3))
        self.register_buffer("face_weights", torch.zeros(CANONICAL_POINTS))
        self.register_buffer("triangles", torch.zeros(898, 3, dtype=torch.int16))


@lru_cache(maxsize=1)
def load_landmarker() -> Landmarker:
    """Load the shipped networks in float32 on the CPU, once.

    Raises CheckpointError where their file is missing, torn or another one.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    network = Landmarker()
    try:
        network.load_state_dict(load_file(FILE))
    except (OSError, SafetensorError, RuntimeError) as error:
        found = "no such file" if not FILE.is_file() else f"another file ({str(error).splitlines()[0]})"
        raise CheckpointError(f"the face landmarker's weights, {FILE.name}", found, "Install this pack anew.") from None
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


# Detector -------------------------------------------------------------------------------------------------------------


class FaceDetector(nn.Module):
    """Pictures [B, 3, 128, 128] in -1..1 -> logits [B, 896] and boxes [B, 896, 16].

    A box is the centre, width and height, then x and y of six points (image-left eye, image-right eye, nose tip, mouth,
    image-left ear, image-right ear), all in units of the picture's side, 0..1.
    """

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 24, 5, 2)
        blocks, width = [], 24
        for block in DETECTOR_BLOCKS:
            blocks.append(DetectorBlock(width, int(block), 2 if isinstance(block, str) else 1))
            width = int(block)
        last_fine = max(i for i, block in enumerate(DETECTOR_BLOCKS) if isinstance(block, str))
        self.fine, self.coarse = nn.Sequential(*blocks[:last_fine]), nn.Sequential(*blocks[last_fine:])
        self.score_heads = nn.ModuleList([nn.Conv2d(88, 2, 1), nn.Conv2d(96, 6, 1)])
        self.box_heads = nn.ModuleList([nn.Conv2d(88, 32, 1), nn.Conv2d(96, 96, 1)])
        self.register_buffer("anchors", anchor_centres(), persistent=False)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.fine(F.relu(self.stem(F.pad(pictures, (1, 2, 1, 2)))))
        levels = (fine, self.coarse(fine))
        logits = torch.cat([rows(head(x), 1) for head, x in zip(self.score_heads, levels)], 1)[..., 0]
        boxes = torch.cat([rows(head(x), 16) for head, x in zip(self.box_heads, levels)], 1) / DETECTOR_SIDE
        boxes = boxes.unflatten(-1, (8, 2))
        places = boxes + self.anchors[:, None]
        return logits, torch.cat([places[..., :1, :], boxes[..., 1:2, :], places[..., 2:, :]], -2).flatten(-2)


class DetectorBlock(nn.Module):
    """A depthwise and a pointwise convolution beside a skip that pools and fills up with empty channels"""

    def __init__(self, width: int, out: int, stride: int):
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 3, stride, padding=1 if stride == 1 else 0, groups=width)
        self.pointwise = nn.Conv2d(width, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        halves = self.depthwise.stride[0] == 2
        y = self.pointwise(self.depthwise(F.pad(x, (0, 1, 0, 1)) if halves else x))
        return F.relu(skipped(x, halves, y.shape[1]) + y)


def skipped(x: Tensor, halves: bool, channels: int) -> Tensor:
    """Return x, pooled where the block halves, with zeros for the channels it lacks."""
    if halves:
        x = F.max_pool2d(x, 2)
    missing = channels - x.shape[1]
    return F.pad(x, (0, 0, 0, 0, 0, missing)) if missing else x


def anchor_centres() -> Tensor:
    """Return the anchors [896, 2], x and y in units of the picture's side."""
    levels = []
    for cells, count in ANCHORS:
        middles = (torch.arange(cells) + 0.5) / cells
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        levels.append(torch.stack([x, y], -1).reshape(-1, 2).repeat_interleave(count, 0))
    return torch.cat(levels)


def rows(x: Tensor, values: int) -> Tensor:
    """Rearrange [B, A * values, H, W] to [B, H * W * A, values]."""
    return x.permute(0, 2, 3, 1).reshape(len(x), -1, values)


# Landmarks ------------------------------------------------------------------------------------------------------------


class LandmarkNetwork(nn.Module):
    """Crops [B, 3, 256, 256] in 0..1 -> points [B, 478, 3] in pixels of the crop and presence logits [B].

    z has the scale of x, grows away from the camera and is 0 in the mean.
    """

    def __init__(self):
        super().__init__()
        (width, inner), *stages = LANDMARK_STAGES
        self.stem, self.stem_slope = nn.Conv2d(3, width, 3, 2), nn.PReLU(width)
        blocks = [LandmarkBlock(width, inner, width) for _ in range(4)]
        for out, inner in stages:
            blocks.append(LandmarkBlock(width, inner, out, 2))
            blocks += [LandmarkBlock(out, inner, out) for _ in range(4)]
            width = out
        self.blocks = nn.Sequential(*blocks)
        self.presence = nn.Conv2d(width, 1, 2)
        self.points = nn.Conv2d(width, 3 * POINTS, 2)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        x = self.blocks(self.stem_slope(self.stem(F.pad(crops, (0, 1, 0, 1)))))
        return self.points(x).reshape(-1, POINTS, 3), self.presence(x).flatten()


class LandmarkBlock(nn.Module):
    """A bottleneck with a depthwise convolution beside a skip that pools and fills up with empty channels"""

    def __init__(self, width: int, inner: int, out: int, stride: int = 1):
        super().__init__()
        self.squeeze, self.inner_slope = nn.Conv2d(width, inner, stride, stride), nn.PReLU(inner)
        self.depthwise = nn.Conv2d(inner, inner, 3, padding=1, groups=inner, bias=False)
        self.expand, self.slope = nn.Conv2d(inner, out, 1), nn.PReLU(out)

    def forward(self, x: Tensor) -> Tensor:
        y = self.expand(self.depthwise(self.inner_slope(self.squeeze(x))))
        return self.slope(skipped(x, self.squeeze.stride[0] == 2, y.shape[1]) + y)


# Scores ---------------------------------------------------------------------------------------------------------------


class ShapeNetwork(nn.Module):
    """Points [B, 478, 2 or 3] in any units of length, the head upright -> scores [B, 52] in 0..1"""

    def __init__(self):
        super().__init__()
        self.mix_points = nn.Linear(len(SHAPE_POINTS), SHAPE_TOKENS)
        self.embed = nn.Linear(2, SHAPE_WIDTH)
        self.token = nn.Parameter(torch.zeros(1, 1, SHAPE_WIDTH))
        self.mixers = nn.Sequential(*(Mixer() for _ in range(MIXERS)))
        self.head = nn.Linear(SHAPE_WIDTH, SHAPES)

    def forward(self, points: Tensor) -> Tensor:
        x = points[:, list(SHAPE_POINTS), :2]
        x = x - x.mean(1, keepdim=True)
        x = 0.5 * x / x.norm(dim=-1, keepdim=True).mean(1, keepdim=True)
        x = self.embed(self.mix_points(x.mT).mT)
        x = self.mixers(torch.cat([self.token.expand(len(x), -1, -1), x], 1))
        return self.head(x[:, 0]).sigmoid()


class Mixer(nn.Module):
    """Two residual layers: one across the tokens, one across the channels, x [B, 97, 64]"""

    def __init__(self):
        super().__init__()
        tokens = SHAPE_TOKENS + 1
        self.norm_tokens = nn.LayerNorm(SHAPE_WIDTH, eps=1e-6, bias=False)
        self.tokens = nn.Sequential(nn.Linear(tokens, TOKEN_HIDDEN), nn.ReLU(), nn.Linear(TOKEN_HIDDEN, tokens))
        self.norm_channels = nn.LayerNorm(SHAPE_WIDTH, eps=1e-6, bias=False)
        self.channels = nn.Sequential(
            nn.Linear(SHAPE_WIDTH, CHANNEL_HIDDEN), nn.ReLU(), nn.Linear(CHANNEL_HIDDEN, SHAPE_WIDTH)
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm_tokens(x).mT).mT
        return x + self.channels(self.norm_channels(x))
