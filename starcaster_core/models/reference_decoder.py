"""The reference decoder: the frame that the model drew, out of the photo's own pixels, at the photo's resolution.

A small autoencoder cannot say what a face looks like; the photo does. So the photo x is moved to where the drawn frame
d has it, and only what it does not show is painted:

    flow   = geometry + residual(d, x)              where each place of the frame lies in the photo
    frame  = mask * x(place + flow) + (1 - mask) * fill(d, x, flow)

`geometry` follows from the head pose and the camera (`extensions/portrait_warp.py`), and from how far the drawn mouth
is open, which a small network reads (`lip_warp.py`). In the mouth's crop lips and teeth are moved as layers, so that
lips keep their edges and teeth their size. The residual is found coarse to fine, each level looking at
features of the frame beside those of the moved photo, as optical flow networks do (PWC-Net, Sun et al. 2018). Mouth and
eyes are done once more in crops of their own, at the full resolution, with flow, mask and fill of their own. The idea
of a decoder that is shown a reference is that of reference-guided autoencoders; its shape, a flow, a mask and a fill,
that of first-order motion models (Siarohin et al. 2019). Positions and flows are in image sides, x right and y down.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..frame_sizes import FULL
from ..presets import ReferenceDecoderConfig
from .extensions.portrait_warp import pixel_centres, warp, warp_flow
from .lip_warp import (
    LipField,
    LipLayers,
    compose,
    lay_over,
    layer_flows,
    lip_flow,
    lip_layers,
)

DRAWN = 128  # side of the drawn frame, pixels
REGIONS = ("mouth", "right_eye", "left_eye")
# Width and height of the crops in pixels of a FULL x FULL picture.
CROPS = {"mouth": (192, 160), "eye": (128, 96)}
CONTRAST = 12  # channels of local contrast: colours of two by two pixels
SEARCHED = 2  # places away, at each resolution
REACH = 0.1  # image sides: a residual of one unit
GAP = 0.05  # image sides: a reading of one unit
LIP_CHANNELS = 5  # what the mouth's network sees of `LipLayers`
INTERIOR = 24  # places a side, from the middle of a mouth to its corner and from a lip to DEEP below or above it
DEEP = 0.5  # mouth widths
STEADINESS = 0.6  # of what is found of the motion: the share of the frame before, where frames follow each other
INTERIOR_SCALE = 10.0  # of what is learned of a mouth's inside: it should be learned faster than other weights


@dataclass(frozen=True)
class Photo:
    """What a photo gives to every frame, computed once.

    picture: [1, 3, S, S] in -1..1. half: [1, 3, 256, 256], small: [1, 3, 128, 128], the same smaller. pyramid: features
    at 64, 32 and 16. appearance: features at 128. regions: [3, 2], where mouth and eyes lie. crops: the photo's own
    mouth and eyes, one for each region, [1, 3, h / 2, w / 2]. contrasts: local contrast at the pyramid's resolutions.
    lips: how its mouth opens.
    """

    picture: Tensor
    half: Tensor
    small: Tensor
    pyramid: list[Tensor]
    appearance: Tensor
    regions: Tensor
    crops: list[Tensor]
    contrasts: list[Tensor]
    lips: LipField | None


@dataclass(frozen=True)
class Decoded:
    """frame [N, 3, S, S]; warped [N, 3, S, S], the moved photo alone; mask [N, 1, 256, 256] and flow [N, 2, 128, 128];
    flows, of all levels; crops: for every region its frame [N, 3, h, w], mask, and its corner [N, 2] in pixels.
    found [1, C, 64, 64]: residual flow and hidden features of the last frame. Pictures are in -1..1."""

    frame: Tensor
    warped: Tensor
    mask: Tensor
    flow: Tensor
    flows: list[Tensor]
    crops: dict[str, tuple[Tensor, Tensor, Tensor]]
    found: Tensor


@dataclass(frozen=True)
class Whole:
    """A frame before mouth and eyes are done once more.

    fill, half (the moved photo), mask, drawn: [N, C, 256, 256]. flow [N, 2, 128, 128]. apart: by how much the flows of
    the mouth's layers, upper lip, lower lip and teeth, differ from it, [N, 6, 128, 128], or None. flows, found: as in
    `Decoded`.
    """

    fill: Tensor
    half: Tensor
    mask: Tensor
    drawn: Tensor
    flow: Tensor
    apart: Tensor | None
    flows: list[Tensor]
    found: Tensor


def conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, padding=1), nn.LeakyReLU(0.1))


class Residual(nn.Module):
    """x + conv(conv(x)); the second convolution starts at zero."""

    def __init__(self, channels: int):
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(self.second.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.leaky_relu(self.first(F.leaky_relu(x, 0.1)), 0.1))


class Pyramid(nn.Module):
    """Features of a 128 x 128 picture at 64, 32 and 16, finest first."""

    def __init__(self, widths: tuple[int, ...]):
        super().__init__()
        self.levels = nn.ModuleList()
        before = 3
        for width in widths:
            self.levels.append(nn.Sequential(conv(before, width, stride=2), conv(width, width)))
            before = width

    def forward(self, picture: Tensor) -> list[Tensor]:
        features = []
        for level in self.levels:
            picture = level(picture)
            features.append(picture)
        return features


class FlowLevel(nn.Module):
    """Improve a flow at one resolution.

    It sees features of the frame and of the moved photo, how the local contrast of the two differs, and how well it
    agrees with that of neighbouring places (the cost volume of PWC-Net, on contrast instead of features, which have to
    be learned first). Its last convolution starts at zero: training begins with the geometry.
    """

    def __init__(self, features: int, hidden_in: int, hidden: int):
        super().__init__()
        wide, costs = 2 * hidden, (2 * SEARCHED + 1) ** 2
        seen = 2 * features + 2 * CONTRAST + costs + 2 + hidden_in
        self.body = nn.Sequential(conv(seen, wide), conv(wide, hidden), conv(hidden, hidden))
        self.out = zero(nn.Conv2d(hidden, 2, 3, padding=1))

    def forward(
        self,
        drawn: tuple[Tensor, Tensor],
        photo: tuple[Tensor, Tensor],
        flow: Tensor,
        hidden: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """drawn, photo: features [N, C, h, w] and local contrast [N, CONTRAST, h, w]. Returns flow [N, 2, h, w] and
        hidden."""
        moved = warp(photo[0], flow)
        contrast = drawn[1], warp(photo[1], flow)
        seen = [drawn[0], moved, contrast[0], contrast[0] - contrast[1], cost_volume(*contrast), flow / REACH]
        seen = [x.to(drawn[0].dtype) for x in seen] + ([] if hidden is None else [hidden])
        hidden = self.body(torch.cat(seen, dim=1))
        return flow + REACH * self.out(hidden).float(), hidden


class Fill(nn.Module):
    """Paint at 128 x 128, and say where the moved photo is better: fill [N, 3, 256, 256] and mask logits [N, 1, 256,
    256]."""

    def __init__(self, inputs: int, width: int):
        super().__init__()
        self.enter = conv(inputs, width)
        self.down = conv(width, 2 * width, stride=2)
        self.deep = nn.Sequential(conv(2 * width, 3 * width, stride=2), Residual(3 * width), Residual(3 * width))
        self.middle = nn.Sequential(nn.Conv2d(5 * width, 2 * width, 1), Residual(2 * width))
        self.leave = nn.Sequential(nn.Conv2d(3 * width, width, 1), Residual(width))
        self.out = zero(nn.Conv2d(width, 16, 3, padding=1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        fine = self.enter(x)
        coarse = self.down(fine)
        deep = self.deep(coarse)
        middle = self.middle(torch.cat([coarse, enlarge(deep, 2)], dim=1))
        out = F.pixel_shuffle(self.out(self.leave(torch.cat([fine, enlarge(middle, 2)], dim=1))), 2)
        return out[:, :3].float(), out[:, 3:].float()


class RegionDecoder(nn.Module):
    """Do mouth or eyes once more, in a crop: flow, mask and fill of their own at the full resolution.

    It sees the crop at half the resolution, folded to a quarter of that: fill and moved photo, mask, drawn frame, the
    photo's own crop, unmoved, and `more` channels. It answers with a residual flow, a mask and colours.
    """

    SEEN = 3 + 3 + 1 + 3 + 3

    def __init__(self, width: int, more: int = 0):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(4 * (self.SEEN + more), width, 3, padding=1), Residual(width), Residual(width), Residual(width)
        )
        self.flow = zero(nn.Conv2d(width, 2, 3, padding=1))
        self.out = zero(nn.Conv2d(width, 4 * 16, 3, padding=1))

    def forward(self, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """seen [N, SEEN, h / 2, w / 2] -> flow [N, 2, h / 4, w / 4], fill [N, 3, h, w] and mask logits [N, 1, h, w]."""
        x = self.body(F.pixel_unshuffle(seen, 2))
        out = F.pixel_shuffle(self.out(x), 4).float()
        return REACH * self.flow(x).float(), out[:, :3], out[:, 3:]


class GapReader(nn.Module):
    """Read how far the lips of a drawn frame are apart: mouth crops [N, 3, 40, 48] -> [N], image sides.

    Only contrasts count: a crop is brought to mean 0 and unit variance first.
    """

    def __init__(self, width: int):
        super().__init__()
        self.width = width
        widths = (3, width, 2 * width, 2 * width)
        layers = [[conv(before, after, stride=2), Residual(after)] for before, after in zip(widths, widths[1:])]
        self.body = nn.Sequential(*(layer for level in layers for layer in level))
        places = (CROPS["mouth"][0] // 32) * (CROPS["mouth"][1] // 32)  # a quarter of FULL, halved three times
        self.out = nn.Linear(2 * width * places, 1)

    def forward(self, crops: Tensor) -> Tensor:
        flat = crops.flatten(1)
        even = (flat - flat.mean(dim=1, keepdim=True)) / (flat.std(dim=1, keepdim=True) + 0.05)
        return GAP * F.softplus(self.out(self.body(even.view_as(crops)).flatten(1)).float())[:, 0]


class ReferenceDecoder(nn.Module):
    """From the drawn frame and the photo to the frame at the photo's resolution (see above)."""

    def __init__(self, config: ReferenceDecoderConfig):
        super().__init__()
        self.config = config
        widths, hidden, width = config.feature_widths, config.hidden, config.fill_width
        self.pyramid = Pyramid(widths)
        self.levels = nn.ModuleList(
            FlowLevel(features, hidden if index else 0, hidden) for index, features in enumerate(reversed(widths))
        )
        self.appearance = nn.Sequential(conv(3, config.appearance), conv(config.appearance, config.appearance))
        self.fill = Fill(3 + 3 + config.appearance + hidden + 2, width)
        self.mask_bias = nn.Parameter(torch.tensor(2.0))
        self.mouth = RegionDecoder(config.region_width, LIP_CHANNELS if config.lip_layers else 0)
        if config.lip_layers:
            self.interior = nn.Parameter(torch.zeros(2, 3, INTERIOR, INTERIOR))
        self.eye = RegionDecoder(config.region_width)
        self.gap_reader = GapReader(config.reader_width) if config.reader_width else None

    # Once a photo

    def open_photo(self, picture: Tensor, regions: Tensor, lips: LipField | None = None) -> Photo:
        """Compute what a photo gives to every frame. picture [B, 3, S, S] in -1..1; regions [B, 3, 2]; lips of batch
        B."""
        half = resize(picture, 2 * DRAWN)
        small = resize(half, DRAWN)
        like = self.like_weights(small)
        crops = [
            take_crops(half, corner // 2, size[0] // 2, size[1] // 2)
            for corner, size in (
                (corner_of(regions[:, index], crop_size(name)), crop_size(name)) for index, name in enumerate(REGIONS)
            )
        ]
        return Photo(
            picture, half, small, self.pyramid(like), self.appearance(like), regions, crops, self.contrasts(small), lips
        )

    def read_gap(self, drawn: Tensor, regions: Tensor) -> Tensor:
        """Read how far the lips of frames [N, 3, 128, 128] are apart, [N] in image sides. Needs a gap reader."""
        assert self.gap_reader is not None
        return self.gap_reader(self.like_weights(drawn_mouths(drawn, regions)))

    def contrasts(self, picture: Tensor) -> list[Tensor]:
        """Return a 128 x 128 picture's local contrast at the pyramid's resolutions, finest first."""
        return [local_contrast(picture, DRAWN // 2 ** (k + 1)) for k in range(len(self.levels))]

    def forward(self, drawn: Tensor, photo: Photo, geometry: Tensor, regions: Tensor, **options) -> Decoded:
        """Decode frames: `find`, then `compose`; arguments as in `find`."""
        return self.compose(self.find(drawn, photo, geometry, regions, **options), photo, regions)

    def find(
        self,
        drawn: Tensor,
        photo: Photo,
        geometry: Tensor,
        regions: Tensor,
        border: Tensor | None = None,
        gap: Tensor | None = None,
        in_a_row: bool = False,
        before: Tensor | None = None,
    ) -> Whole:
        """Find flow, mask and fill of frames at 128 and 256 pixels.

        drawn: [N, 3, 128, 128] in -1..1. photo: of batch 1 or N. geometry: [N, 2, G, G], the flow that follows from the
        pose, zeros where that is not known. regions: [N, 3, 2], about where mouth and eyes lie in the frame. border:
        weights [1, 1, 128, 128] of all motion and painting; 0 leaves the photo as it is. gap: [N], how far the lips are
        apart, image sides; None: as it is read. in_a_row: the frames follow each other, so what is found of their
        motion is smoothed, or texture would swim with every drawn frame. before: `Whole.found` of those before them.
        """
        count = len(drawn)
        like = self.like_weights(drawn)
        geometry = resize(geometry.float(), DRAWN) * self.config.geometry
        apart = None
        if self.gap_reader is not None and photo.lips is not None:
            gap = self.read_gap(drawn, regions) if gap is None else gap
            turned, lips = geometry, lip_flow(repeated(photo.lips.way, count), photo.lips.gap, gap)
            geometry = compose(turned, lips)
            if self.config.lip_layers:
                apart = flows_apart(turned, geometry, photo.lips, gap)
        features, contrasts = self.pyramid(like), self.contrasts(drawn.float())
        coarsest = features[-1].shape[-1]
        residual, hidden, flows = geometry.new_zeros(count, 2, coarsest, coarsest), None, []
        for index, level in enumerate(self.levels):
            at = -1 - index
            if hidden is not None:
                residual, hidden = enlarge(residual, 2), enlarge(hidden, 2)
            start = resize(geometry, residual.shape[-1])
            source = repeated(photo.pyramid[at], count), repeated(photo.contrasts[at], count)
            flow, hidden = level((features[at], contrasts[at]), source, start + residual, hidden)
            residual = flow - start
            flows.append(flow)
        assert hidden is not None  # there is at least one level
        found = torch.cat([residual, hidden.float()], dim=1)
        if in_a_row:
            found = smooth_over_time(found, before)
            residual, hidden = found[:, :2], found[:, 2:].to(hidden.dtype)
        flow = geometry + enlarge(residual, 2)
        if border is not None:
            flow = flow * border
            apart = None if apart is None else apart * border
        small = warp(repeated(photo.small, count), flow)
        appearance = warp(repeated(photo.appearance, count), flow)
        seen = [like, self.like_weights(small), appearance, enlarge(hidden, 2), self.like_weights(flow / REACH)]
        painted, logits = self.fill(torch.cat(seen, dim=1))
        mask = torch.sigmoid(logits + self.mask_bias)
        if border is not None:
            mask = 1 - (1 - mask) * resize(border, mask.shape[-1])
        drawn_half = enlarge(drawn.float(), 2)
        fill = drawn_half + painted
        half = warp(repeated(photo.half, count), flow)
        return Whole(fill, half, mask, drawn_half, flow, apart, flows, found[-1:])

    def compose(self, whole: Whole, photo: Photo, regions: Tensor) -> Decoded:
        """Move the photo's own pixels, paint what it does not show, and do mouth and eyes once more."""
        count, side = len(whole.flow), photo.picture.shape[-1]
        # Doubled before it grows: less to multiply.
        there = 2 * pixel_centres(side, whole.flow.device) - 1 + resize(2 * whole.flow, side).movedim(1, -1)
        warped = sample_sharply(repeated(photo.picture, count), there)
        mask, fill = resize(whole.mask, side), resize(whole.fill, side)
        frame = torch.lerp(fill, warped, mask)
        crops = {}
        for name in REGIONS:
            frame, crops[name] = self.region(name, frame, whole, (mask, fill), photo, regions)
        return Decoded(frame, warped, whole.mask, whole.flow, whole.flows, crops, whole.found)

    def region(
        self,
        name: str,
        frame: Tensor,
        whole: Whole,
        large: tuple[Tensor, Tensor],
        photo: Photo,
        regions: Tensor,
    ) -> tuple[Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Decode one region once more and put it into the frame, fading at the crop's border.

        large: mask and fill [N, C, S, S]. Returns the frame and the crop as in `Decoded`.
        """
        side, count, index = frame.shape[-1], len(frame), REGIONS.index(name)
        width, height = size = crop_size(name)
        corner = corner_of(regions[:, index], size)  # at FULL
        fill, half, mask, drawn = (
            take_crops(x, corner // 2, width // 2, height // 2)
            for x in (whole.fill, whole.half, whole.mask, whole.drawn)
        )
        network, more = (self.mouth if name == "mouth" else self.eye), []
        apart = whole.apart if name == "mouth" else None
        lips = photo.lips
        if lips is not None and apart is not None:
            places = crop_places(corner // 2, width // 2, height // 2, 2 * DRAWN)
            moved, layers = lips_at(places, whole.flow, apart, lips)
            half = lay_over(layers, *(bilinear(repeated(photo.half, count), at) for at in moved))
            mask = mask * (1 - layers.unknown)
            fill = torch.lerp(fill, self.inside_of_mouths(layers), layers.unknown)
            more = [layers.inside, layers.teeth, layers.above / REACH, layers.below / REACH, layers.across]
        elif name == "mouth" and self.config.lip_layers:
            none = torch.zeros_like(mask)
            more = [none, none + 1, none, none, none]  # as in training, where lips are not known
        seen = torch.cat([fill, half, mask, drawn, repeated(photo.crops[index], count), *more], dim=1)
        mirrored = name == "left_eye"  # the eyes share a network: the left one is shown as a right one
        residual, fill, logits = network(self.like_weights(seen.flip(-1) if mirrored else seen))
        if mirrored:
            residual, fill, logits = (
                residual.flip(-1) * residual.new_tensor([-1.0, 1.0])[:, None, None],
                fill.flip(-1),
                logits.flip(-1),
            )
        scale = side // FULL if side >= FULL else 1
        if side != FULL * scale:
            raise ValueError(f"a photo of {FULL} pixels a side or a multiple, not {side}")
        at, wide, high = corner * scale, width * scale, height * scale
        places = crop_places(at, wide, high, side)
        further, painted = stretch(residual, (high, wide)).movedim(1, -1), stretch(fill, (high, wide))
        base, under = (take_crops(x, at, wide, high) for x in large)
        picture = repeated(photo.picture, count)
        if lips is not None and apart is not None:
            moved, layers = lips_at(places, whole.flow, apart, lips, further)
            warped = lay_over(layers, *(sample_sharply(picture, 2 * there - 1) for there in moved))
            base = base * (1 - layers.unknown)
            under = torch.lerp(under, self.inside_of_mouths(layers), layers.unknown)
            # What nobody knows is guessed by its mean colour alone: a guess of every pixel is a blur.
            painted = torch.lerp(painted, mean_where(painted, layers.unknown), layers.unknown)
        else:
            warped = sample_sharply(picture, 2 * (places + (flow_at(whole.flow, places) + further)) - 1)
        mask = torch.sigmoid(torch.logit(base.clamp(1e-4, 1 - 1e-4)) + stretch(logits, (high, wide)))
        done = torch.lerp(under + painted, warped, mask)
        faded = fade(high, wide, frame.device)
        return paste(frame, done, faded, at), (done, mask, at)

    def inside_of_mouths(self, layers: LipLayers) -> Tensor:
        """Return what people have between their lips [N, 3, h, w], the mean of what training showed.

        Teeth go with the upper lip, teeth and tongue with the lower one: the sum of a picture each, the mouth's other
        half mirrored.
        """
        upper, lower = (
            bilinear(picture[None].expand(len(places), -1, -1, -1), places)
            for picture, places in zip(self.interior.float(), interior_places(layers))
        )
        return INTERIOR_SCALE * (upper + lower)

    def like_weights(self, x: Tensor) -> Tensor:
        return x.to(self.mask_bias.device, self.fill.out.weight.dtype)


# Geometry -------------------------------------------------------------------------------------------------------------


def geometry_of(rotations: Tensor, camera: Tensor, portrait_camera: Tensor) -> Tensor:
    """Return the backward flow [N, 2, 32, 32] that head pose and camera cause; arguments as in `warp_flow`."""
    return warp_flow(camera.float(), rotations.float(), portrait_camera.float())


def move_regions(regions: Tensor, geometry: Tensor) -> Tensor:
    """Return where places of the photo [N, K, 2] lie in the frame, by a backward flow [N, 2, h, w]: p with p + flow(p)
    = place."""
    places = regions.clone()
    for _ in range(8):
        places = regions - flow_at(geometry, places[:, None])[:, 0]
    return places.clamp(0, 1)


def flows_apart(turned: Tensor, geometry: Tensor, lips: LipField, gap: Tensor) -> Tensor:
    """Return by how much the flows of upper lip, lower lip and teeth differ from `geometry`, that of one surface: [N,
    6, F, F]. turned: the flow of head and camera alone."""
    layers = [compose(turned, flow) for flow in layer_flows(lips, gap)]
    return torch.cat([flow - geometry for flow in (*layers, turned)], dim=1)


def lips_at(
    places: Tensor, flow: Tensor, apart: Tensor, lips: LipField, further: Tensor | float = 0.0
) -> tuple[tuple[Tensor, Tensor, Tensor], LipLayers]:
    """Return where places of the frame [N, h, w, 2] lie in the photo as part of the upper lip, of the lower lip and of
    the teeth, and what shows of these. flow, apart: as in `Whole`. further: added to all of the flows."""
    together, *own = flow_at(torch.cat([flow, apart], dim=1), places).split(2, dim=-1)
    together = places + together + further
    upper, lower, still = (together + flow for flow in own)
    teeth, layers = lip_layers(lips, upper, lower, still)
    return (upper, lower, teeth), layers


def interior_places(layers: LipLayers) -> tuple[Tensor, Tensor]:
    """Return where places between lips lie in the two pictures of `ReferenceDecoder.interior`, [N, h, w, 2] in 0..1:
    from the middle of the mouth to its corner, and from the lip inwards."""
    across = layers.across.abs()
    upper, lower = (
        torch.cat([across, -into / (DEEP * layers.width)], dim=1).movedim(1, -1)
        for into in (layers.above, layers.below)
    )
    return upper, lower


def drawn_mouths(drawn: Tensor, regions: Tensor) -> Tensor:
    """Cut the mouths out of drawn frames [N, 3, 128, 128]: [N, 3, 40, 48]."""
    width, height = crop_size("mouth")
    factor = FULL // DRAWN
    corner = corner_of(regions[:, REGIONS.index("mouth")], (width, height)) // factor
    return take_crops(drawn, corner, width // factor, height // factor)


# Pixels ---------------------------------------------------------------------------------------------------------------


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """Let a layer start at zero."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def local_contrast(picture: Tensor, side: int) -> Tensor:
    """Return how each place of a picture [N, 3, S, S] differs from its surroundings: [N, CONTRAST, side, side]."""
    x = F.pixel_unshuffle(resize(picture, 2 * side), 2)
    return x - F.avg_pool2d(F.pad(x, (3, 3, 3, 3), mode="replicate"), 7, 1)


def cost_volume(one: Tensor, other: Tensor) -> Tensor:
    """Return the cosine between [N, C, h, w] of one and of the other's places up to SEARCHED away: [N, K^2, h, w]."""
    height, width = one.shape[-2:]
    one, other = (unit(x) for x in (one, other))
    shifted = F.pad(other, (SEARCHED,) * 4).unfold(2, height, 1).unfold(3, width, 1)  # a view: [N, C, K, K, h, w]
    costs = one.new_zeros(len(one), *shifted.shape[2:])
    for channel in range(one.shape[1]):  # on a CPU faster than a sum over channels
        costs.addcmul_(one[:, channel, None, None], shifted[:, channel])
    return costs.flatten(1, 2)


def unit(x: Tensor) -> Tensor:
    """Bring the channels of [N, C, h, w] to length 1."""
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True).clamp(min=1e-24))


def smooth_over_time(x: Tensor, before: Tensor | None = None) -> Tensor:
    """Return an exponential moving average over frames [N, ...] in a row, which goes on from `before` [1, ...]."""
    smooth = []
    for frame in x.split(1):
        before = frame if before is None else torch.lerp(frame, before, STEADINESS)
        smooth.append(before)
    return torch.cat(smooth)


def mean_where(x: Tensor, weights: Tensor) -> Tensor:
    """Return the weighted mean of pictures [N, C, h, w]: [N, C, 1, 1]; 0 where weights [N, 1, h, w] are."""
    return (x * weights).sum(dim=(2, 3), keepdim=True) / weights.sum(dim=(2, 3), keepdim=True).clamp(min=1.0)


def repeated(x: Tensor, count: int) -> Tensor:
    return x.expand(count, -1, -1, -1) if len(x) == 1 else x


def enlarge(x: Tensor, times: int) -> Tensor:
    return stretch(x, (times * x.shape[-2], times * x.shape[-1]))


def stretch(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [N, C, h, w] bilinearly."""
    if x.shape[-2:] == size:
        return x
    if x.shape[1] > 3:
        return F.interpolate(x, size, mode="bilinear", align_corners=False)
    # Plane by plane a CPU takes half of the time, or a quarter.
    planes = F.interpolate(x.reshape(-1, 1, *x.shape[-2:]), size, mode="bilinear", align_corners=False)
    return planes.view(*x.shape[:2], *size)


def resize(x: Tensor, side: int) -> Tensor:
    """Resize [N, C, S, S]: down by areas, up bilinearly."""
    now = x.shape[-1]
    if now == side:
        return x
    if now % side == 0:
        return F.avg_pool2d(x, now // side)
    if now > side:
        return F.interpolate(x, (side, side), mode="bilinear", align_corners=False, antialias=True)
    return stretch(x, (side, side))


def flow_at(flow: Tensor, places: Tensor) -> Tensor:
    """Return a flow [N, 2, F, F] at places [N, h, w, 2]: [N, h, w, 2]."""
    return bilinear(flow, places).movedim(1, -1)


def bilinear(x: Tensor, places: Tensor) -> Tensor:
    """Sample [N, C, h, w] at places [N, H, W, 2] in image sides: [N, C, H, W]."""
    return F.grid_sample(x, 2 * places - 1, padding_mode="border", align_corners=False)


def sample_sharply(x: Tensor, grid: Tensor) -> Tensor:
    """Sample the photo itself, bicubically: between pixels, the bilinear mean loses a third of what makes skin
    sharp."""
    mode = "bilinear" if x.device.type == "mps" else "bicubic"  # which torch does not have there
    return F.grid_sample(x, grid, mode=mode, padding_mode="border", align_corners=False)


def crop_size(name: str) -> tuple[int, int]:
    """Return width and height of a region's crop, pixels at FULL."""
    return CROPS["mouth" if name == "mouth" else "eye"]


def corner_of(centre: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the top left pixel, at FULL, of crops round centres [N, 2]: int64 [N, 2], multiples of four, inside the
    picture."""
    extent = centre.new_tensor(size)
    corner = (centre.detach() * FULL - extent / 2).clamp(min=torch.zeros_like(extent), max=FULL - extent)
    return (corner / 4).round().long() * 4


def take_crops(x: Tensor, corner: Tensor, width: int, height: int) -> Tensor:
    """Cut [N, C, height, width] out of [N, C, S, S] at corners [N, 2]."""
    return torch.stack([x[n, :, t : t + height, s : s + width] for n, (s, t) in enumerate(corner.tolist())])


def crop_places(corner: Tensor, width: int, height: int, side: int) -> Tensor:
    """Return the pixel centres of crops in image sides: [N, height, width, 2]."""
    device = corner.device
    rows, columns = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return (torch.stack([columns, rows], dim=-1) + 0.5 + corner[:, None, None]) / side


def fade(height: int, width: int, device: torch.device) -> Tensor:
    """Return weights [1, height, width]: 1 inside a crop, falling to 0 at its border."""

    def ramp(length: int) -> Tensor:
        at = (torch.arange(length, device=device) + 0.5) / length
        return (torch.minimum(at, 1 - at) / 0.15).clamp(max=1)

    return (ramp(height)[:, None] * ramp(width))[None]


def paste(frame: Tensor, crops: Tensor, weights: Tensor, corner: Tensor) -> Tensor:
    """Put crops [N, C, h, w] into frames [N, C, S, S], in place, with weights [1, h, w]."""
    height, width = crops.shape[-2:]
    for n, (left, top) in enumerate(corner.tolist()):
        part = frame[n, :, top : top + height, left : left + width]
        frame[n, :, top : top + height, left : left + width] = torch.lerp(part, crops[n], weights)
    return frame
