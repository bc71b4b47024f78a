"""The whole model: UNet, autoencoder, and the encoders of the three streams, under one roof and one state dict."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import InputError
from ..presets import ModelConfig
from ..speech.prosody import with_loudness
from ..types import CameraPath, Identity, Speech
from .attention_cache import ConditionCache, cache_condition
from .attention_kernels import KeyValue
from .autoencoder import build_autoencoder
from .conditioning import CameraTokens, IdentityTokens, SpeechTokens
from .storage import store_in_float8
from .unet import StarcasterUNet

# Adapters are merged before use, and the ends and the clock are small and matter to every pixel.
UNTOUCHED = ("lora", "conv_in", "conv_out", "time_emb", "extensions")


class Starcaster(nn.Module):
    """The whole model: `unet`, `vae`, `identity_tokens`, `speech_tokens`, `camera_tokens`, `speech_encoder`,
    and, where the configuration has them, `reference_decoder` and `image_model`.

    Latents here are those the UNet sees, unit variance, [B, C, T, h, w]; `to_raw` turns them into what the
    autoencoder (and ComfyUI's VAE Decode) takes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.untrained: tuple[str, ...] = ()  # streams whose weights are still the initial ones: "audio", "camera", ...
        self.unet = StarcasterUNet(config.unet, config.extensions)
        self.vae = build_autoencoder(config.autoencoder)
        self.identity_tokens = build_identity_encoder(config)
        self.speech_tokens = SpeechTokens(config.conditioning, config.unet.cross_attention_dim)
        self.camera_tokens = CameraTokens(config.conditioning, config.unet.cross_attention_dim)
        self.speech_encoder: Any = build_speech_encoder(config)  # whatever has `encode(samples, fps)`
        self.reference_decoder = build_reference_decoder(config)
        self.image_model = build_image_model(config)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def set_precision(self, dtype: torch.dtype) -> Starcaster:
        """Compute in `dtype` from now on, all but the speech encoder, whose spectra need float32."""
        for name, part in self.named_children():
            if name != "speech_encoder":
                part.to(dtype)
        return self

    def store_in_float8(self) -> Starcaster:
        """Store the UNet's large weights in eight bits from now on; it computes as before. Not to be undone."""
        store_in_float8(self.unet, keep=UNTOUCHED)
        return self

    # Conditions -> cached keys and values -----------------------------------------------------------------------------

    def cache_identity(self, identity: Identity | None) -> list[KeyValue]:
        """Return K, V for every block, batch 1, of an identity, or of None for the guidance's null.

        Raises InputError for an identity made by another recogniser.
        """
        if identity is None:
            return self.unet.cache_identity(self.identity_tokens.unconditional(1))
        if identity.backend != self.config.identity_backend:
            raise InputError(
                f"an identity made by {self.config.identity_backend} for the model {self.config.name!r}",
                f"one made by {identity.backend}",
                "Load the photo again with this model's identity backend.",
            )
        embedding = torch.from_numpy(np.asarray(identity.embedding, np.float32))[None]
        return self.unet.cache_identity(self.identity_tokens(self.like_weights(embedding)))

    def cache_audio(self, speech: Speech, start: int, frames: int) -> list[KeyValue]:
        """Return K, V of frames start .. start + frames - 1; beyond the speech its first and last rows go on.

        Raises InputError for features of another encoder.
        """
        if speech.encoder != self.config.speech_encoder:
            raise InputError(
                f"speech features of {self.config.speech_encoder} for the model {self.config.name!r}",
                f"features of {speech.encoder}",
                "Connect this same model to the Audio Encoder.",
            )
        window = self.config.conditioning.speech_window
        rows = torch.arange(start - window, start + frames + window).clamp(0, speech.frames - 1)
        return self.unet.cache_audio(self.speech_tokens(self.like_weights(speech.features[rows][None])))

    def camera_vectors(self, camera: CameraPath, start: int, frames: int) -> Tensor:
        """Return [1, T, 25] of frames start .. start + frames - 1; after the path's end the camera stands still."""
        rows = np.arange(start, start + frames).clip(0, camera.frames - 1)
        return torch.from_numpy(camera.vectors()[rows])[None].to(self.device)

    def cache_camera(self, camera: CameraPath, start: int, frames: int) -> list[KeyValue]:
        """Return K, V of frames start .. start + frames - 1, of `camera_vectors`."""
        vectors = self.camera_vectors(camera, start, frames)
        return self.unet.cache_camera(self.camera_tokens(self.like_weights(vectors)))

    def cache_frames(self, latents: Tensor, identity: list[KeyValue]) -> list[KeyValue]:
        """Reference or context frames, latents [1, C, R, h, w] -> K, V for the bank of every block."""
        return self.unet.cache_frames(self.like_weights(latents), identity)

    @staticmethod
    def condition(identity: list[KeyValue], **streams) -> ConditionCache:
        """Return one condition out of cached streams; arguments as in `attention_cache.cache_condition`."""
        return cache_condition(identity, **streams)

    def like_weights(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)

    # Pixels <-> latents -----------------------------------------------------------------------------------------------

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode frames [T, H, W, 3] in 0..1, of any size, to latents [1, C, T, h, w] in float32."""
        images = rearrange(frames.float(), "t h w c -> t c h w")
        side = self.config.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        raw = self.vae.encode(self.like_weights(images * 2 - 1))
        return rearrange(self.from_raw(raw.float()), "t c h w -> 1 c t h w")

    def decode_frames(self, latents: Tensor) -> Tensor:
        """Decode latents [1, C, T, h, w] to frames [T, H, W, 3] in 0..1, float32 on the CPU."""
        raw = self.to_raw(rearrange(latents, "1 c t h w -> t c h w"))
        images = self.vae.decode(self.like_weights(raw)).float()
        return rearrange((images / 2 + 0.5).clamp(0, 1), "t c h w -> t h w c").cpu()

    def to_raw(self, latents: Tensor) -> Tensor:
        return latents / self.config.autoencoder.scaling_factor

    def from_raw(self, raw: Tensor) -> Tensor:
        return raw * self.config.autoencoder.scaling_factor

    # Sound ------------------------------------------------------------------------------------------------------------

    def encode_speech(self, samples: Tensor) -> Speech:
        """Encode 16 kHz mono samples [N] in -1..1 to speech features, one row a video frame.

        Raises InputError where the model brings no encoder.
        """
        if self.speech_encoder is None:
            raise InputError(
                f"features from {self.config.speech_encoder} for the model {self.config.name!r}",
                "sound without an encoder",
                "Connect an AUDIO_ENCODER (Load Audio Encoder with a wav2vec2-base file), name one with "
                "--audio-encoder, or assemble the model with one.",
            )
        return with_loudness(self.speech_encoder.encode(samples, self.config.fps), samples)

    # What to expect ---------------------------------------------------------------------------------------------------

    def warnings(self, speech: Speech | None, camera: CameraPath | None) -> list[str]:
        """Return what of the conditions this model cannot follow, one sentence each."""
        asked = {"audio": (speech, "the mouth will not follow the voice"), "camera": (camera, "the view will not move")}
        return [
            f"This model's {stream} stream is untrained, so {effect}: assemble it with a delta (docs/paper-scale.md)."
            for stream, (condition, effect) in asked.items()
            if condition is not None and stream in self.untrained
        ]


def build_identity_encoder(config: ModelConfig) -> nn.Module:
    if config.conditioning.identity_encoder == "clip":
        from .arc2face import Arc2FaceTokens

        return Arc2FaceTokens()
    return IdentityTokens(config.conditioning, config.unet.cross_attention_dim)


def build_speech_encoder(config: ModelConfig) -> nn.Module | None:
    if config.speech_encoder == "phonetic":
        from .phonetic import PhoneticEncoder

        return PhoneticEncoder()
    if config.conditioning.wav2vec2_inside:
        from ..speech.wav2vec2 import Wav2Vec2Encoder

        return Wav2Vec2Encoder()
    return None  # its features come from outside


def build_reference_decoder(config: ModelConfig) -> nn.Module | None:
    if config.reference_decoder is None:
        return None
    from .reference_decoder import ReferenceDecoder

    return ReferenceDecoder(config.reference_decoder)


def build_image_model(config: ModelConfig) -> nn.Module | None:
    if config.image_model is None:
        return None
    from .image_model import ImageModel

    return ImageModel(config.image_model, config.conditioning)
