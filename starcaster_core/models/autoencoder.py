"""Pixels <-> latents: this project's small autoencoder, and the Stable Diffusion one behind the same two methods.

Both speak *raw* latents (what ComfyUI's VAE Decode takes); raw latents x `scaling_factor` is what the UNet sees.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..presets import AutoencoderConfig
from .frozen import load_frozen, save_frozen


def build_autoencoder(config: AutoencoderConfig) -> nn.Module:
    return {"patch": PatchAutoencoder, "sd": StableDiffusionAutoencoder}[config.kind](config)


class ResidualBlock(nn.Module):
    """x + conv(conv(x)); the second convolution starts at zero.

    No normalisation: it would tie every pixel to the whole picture, and cost a third of the training time.
    """

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class PatchAutoencoder(nn.Module):
    """A linear patch code (principal components) plus what convolutions know better.

    encode(x) = patch_in(x) + refine_in(patches of x);  decode(z) = patch_out(z) + refine_out(z).
    The linear parts are solved, not trained, before training starts (`set_principal_components`); the convolutional
    parts end in zero weights, so training begins at the quality of the linear code and can only add detail.
    Convolutions run at the latent's resolution and a little above, never at the image's: the decoder is paid for
    every frame.
    """

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        self.config = config
        patch, channels, width = config.downscale, config.latent_channels, config.width
        self.patch_in = nn.Conv2d(3, channels, patch, stride=patch)
        self.patch_out = nn.ConvTranspose2d(channels, 3, patch, stride=patch)

        self.refine_in = nn.Sequential(
            nn.PixelUnshuffle(patch),
            nn.Conv2d(3 * patch * patch, width, 1),
            ResidualBlock(width),
            ResidualBlock(width),
            nn.Conv2d(width, channels, 3, padding=1),
        )
        layers: list[nn.Module] = [nn.Conv2d(channels, width, 3, padding=1), ResidualBlock(width), ResidualBlock(width)]
        for narrower in config.decoder_widths:
            layers += [
                nn.Conv2d(width, 4 * narrower, 1),
                nn.PixelShuffle(2),
                ResidualBlock(narrower),
                ResidualBlock(narrower),
            ]
            width = narrower
        remaining = patch // 2 ** len(config.decoder_widths)
        layers += [nn.SiLU(), nn.Conv2d(width, 3 * remaining * remaining, 3, padding=1), nn.PixelShuffle(remaining)]
        self.refine_out = nn.Sequential(*layers)
        for last in (self.refine_in[-1], self.refine_out[-2]):
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def encode(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in -1..1, H and W divisible by 8 -> raw latents [B, C, H / 8, W / 8]"""
        return self.patch_in(images) + self.refine_in(images)

    def decode(self, latents: Tensor) -> Tensor:
        """raw latents [B, C, h, w] -> images [B, 3, 8 h, 8 w], about -1..1 (not clamped)"""
        return self.patch_out(latents) + self.refine_out(latents)

    @torch.no_grad()
    def set_principal_components(self, images: Tensor, power: float = 0.5) -> Tensor:
        """Solves the linear parts from images [B, 3, H, W] in -1..1; returns the variances kept, [C].

        Each component is divided by its standard deviation to the given power, and all of them by one number that
        makes the mean variance 1. power = 1 would make the faintest details as loud as skin colour, power = 0 would
        drown them in the noise of the diffusion.
        """
        patch, channels = self.config.downscale, self.config.latent_channels
        patches = F.unfold(images, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch).double()
        mean = patches.mean(dim=0)
        centred = patches - mean
        variance, basis = torch.linalg.eigh(centred.T @ centred / len(centred))
        variance, basis = variance.flip(0)[:channels], basis.flip(1)[:, :channels]  # largest first
        scale = variance.sqrt() ** -power
        scale = scale / (variance * scale**2).mean().sqrt()
        encoder, decoder = (basis * scale).T, (basis / scale).T
        self.patch_in.weight.copy_(encoder.reshape(self.patch_in.weight.shape))
        self.patch_in.bias.copy_(-encoder @ mean)
        self.patch_out.weight.copy_(decoder.reshape(self.patch_out.weight.shape))
        # A transposed convolution has one bias a colour; the patch's mean colour is what it can hold.
        self.patch_out.bias.copy_(mean.reshape(3, -1).mean(dim=1))
        return variance.float()


class StableDiffusionAutoencoder(nn.Module):
    """diffusers' `AutoencoderKL` in Stable Diffusion's shape; its parameters keep their own names under `kl.`"""

    def __init__(self, config: AutoencoderConfig):
        super().__init__()
        from diffusers import AutoencoderKL

        self.config = config
        self.kl = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=config.latent_channels,
            scaling_factor=config.scaling_factor,
        )
        self.kl.enable_slicing()  # one frame at a time: a frame of 512x512 takes half a gigabyte on its way through

    def encode(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in -1..1 -> raw latents [B, 4, H / 8, W / 8], the mean of the posterior"""
        return self.kl.encode(images).latent_dist.mode()

    def decode(self, latents: Tensor) -> Tensor:
        """raw latents [B, 4, h, w] -> images [B, 3, 8 h, 8 w], about -1..1"""
        return self.kl.decode(latents).sample


def save_autoencoder(path: Path, autoencoder: PatchAutoencoder, facts: dict) -> None:
    """Write the autoencoder; facts: how it was trained, and what was measured."""
    save_frozen(path, "autoencoder", autoencoder, asdict(autoencoder.config), facts)


def load_autoencoder(path: str | Path, config: AutoencoderConfig) -> PatchAutoencoder:
    """Read an autoencoder of this configuration, frozen. Raises CheckpointError for any other file."""
    network = load_frozen(path, "autoencoder", lambda _: PatchAutoencoder(config), default={})
    return network.to(memory_format=torch.channels_last)
