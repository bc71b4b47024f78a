"""How long a render will take, counted from the configuration before any weight is loaded.

Products are counted (a multiply-add is two operations) and divided by how fast this machine multiplies matrices. The
fraction of that speed which a network reaches was measured on CPUs with `mini`; on GPUs it is a guess. Expect the
estimate to be right within a factor of two.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch import Tensor

from ..frame_sizes import FULL
from ..presets import ModelConfig
from .settings import SamplerSettings, count_chunks

EFFICIENCY = {"cpu": 0.5, "cuda": 0.35, "mps": 0.3}  # of the speed of a matrix product, that a network reaches
SIDE = {"cpu": 768, "cuda": 4096, "mps": 2048}  # of the matrices that are multiplied
TRIES = 3
MINUTES_SAID = 2
AUTOENCODER = {"patch": 0.15e6, "sd": 9.6e6}  # operations a pixel, to decode
REFERENCE_DECODER = 0.06  # seconds of one CPU core for a frame of FULL x FULL pixels; most of it moves memory


def network_flops(config: ModelConfig) -> int:
    """Count the operations of one network call for a chunk, all conditions active."""
    unet, streams = config.unet, config.conditioning
    tokens = streams.identity_tokens + streams.speech_tokens + streams.camera_tokens
    seen = 2 + config.context_frames  # the frame itself, reference, context
    flops = 2 * 2 * 9 * unet.in_channels * unet.block_out_channels[0] * config.latent_size**2  # at both ends
    for width, entering, places, attends in layers_of(config):
        flops += 2 * places * (9 * width * (entering + width) + (entering * width if entering != width else 0))
        if attends:
            flops += places * (2 * 2 * width**2 + 2 * 4 * width**2 + 2 * 2 * width**2 + 24 * width**2)
            flops += 4 * places * width * (seen * places + tokens)
        if unet.motion:
            flops += places * (2 * 2 * width**2 + 2 * (8 * width**2 + 4 * config.chunk_frames * width) + 24 * width**2)
    return config.chunk_frames * flops


def layers_of(config: ModelConfig) -> Iterator[tuple[int, int, int, bool]]:
    """Yield channels, entering channels, places and whether it attends, of every layer as the network runs them; the
    second residual block of the middle counts as a layer that does not."""
    unet = config.unet
    widths, levels = unet.block_out_channels, len(unet.block_out_channels)
    skips, entering = [widths[0]], widths[0]
    for level, width in enumerate(widths):
        places = (config.latent_size // 2**level) ** 2
        for _ in range(unet.layers_per_block):
            yield width, entering, places, unet.attention_levels[level]
            entering = width
            skips.append(width)
        if level + 1 < levels:
            skips.append(width)
    places = (config.latent_size // 2 ** (levels - 1)) ** 2
    yield entering, entering, places, True
    yield entering, entering, places, False
    for level in reversed(range(levels)):
        places = (config.latent_size // 2**level) ** 2
        for _ in range(unet.layers_per_block + 1):
            yield widths[level], entering + skips.pop(), places, unet.attention_levels[level]
            entering = widths[level]


def network_calls(settings: SamplerSettings) -> int:
    """Return how often the network is asked for a chunk, each branch of the guidance counted."""
    if settings.guidance_scale == 1:
        return settings.steps
    own = sum(scale is not None for scale in (settings.camera_scale, settings.audio_scale))
    return settings.steps + settings.guided_steps * (1 + own)


def expected_seconds(
    config: ModelConfig, settings: SamplerSettings, frames: int, size: int, device: torch.device, dtype: torch.dtype
) -> float:
    """Estimate the seconds to sample and decode a video. size: side of its frames in pixels."""
    speed = matmul_speed(device, dtype) * EFFICIENCY.get(device.type, 0.3)
    sampling = count_chunks(frames, config.chunk_frames) * network_calls(settings) * network_flops(config)
    decoding = frames * AUTOENCODER[config.autoencoder.kind] * config.image_size**2
    seconds = (sampling + decoding) / speed
    if config.reference_decoder is not None:
        workers = torch.get_num_threads() if device.type == "cpu" else 20
        seconds += frames * REFERENCE_DECODER * (size / FULL) ** 2 / workers
    return seconds


def matmul_speed(device: torch.device, dtype: torch.dtype) -> float:
    """Measure how many operations a second a product of two matrices makes; takes some hundredths of a second."""
    side = SIDE.get(device.type, 1024)
    return product_speed(torch.ones(side, side, device=device, dtype=dtype), TRIES)


def product_speed(matrix: Tensor, tries: int, products: int = 1) -> float:
    """Return the FLOP/s at which a device multiplies a matrix [S, S] with itself, the best of several tries of so many
    products; one more try goes before them."""
    fastest = float("inf")
    for _ in range(tries + 1):
        began = time.perf_counter()
        for _ in range(products):
            product = matrix @ matrix
        product[0, 0].item()  # waits for the device
        fastest = min(fastest, (time.perf_counter() - began) / products)
    return 2 * len(matrix) ** 3 / fastest


def expectation(seconds: float) -> str:
    """Return a sentence on a render of so many seconds; an empty one below MINUTES_SAID."""
    minutes = seconds / 60
    if minutes < MINUTES_SAID:
        return ""
    span = f"{minutes:.0f} minutes" if minutes < 120 else f"{minutes / 60:.0f} hours"
    return f"About {span} are expected."
