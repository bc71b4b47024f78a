"""The whole model: UNet, autoencoder, and the encoders of the three streams, under one roof and one state dict."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..errors import InputError
from ..idle import turns
from ..presets import ModelConfig
from ..types import CameraPath, Identity, Speech
from .attention import ConditionCache, KeyValue
from .autoencoder import build_autoencoder
from .conditioning import CameraTokens, IdentityTokens, SpeechTokens
from .storage import store_in_float8
from .turn import turn_portrait
from .unet import StarcasterUNet, cache_condition

# Adapters are merged before use, and the ends and the clock are small and matter to every pixel.
UNTOUCHED = ("lora", "conv_in", "conv_out", "time_emb", "idle_emb", "reference_in", "copy_gate")


class Starcaster(nn.Module):
    """Parts: `unet`, `vae`, `identity_tokens`, `speech_tokens`, `camera_tokens`, `speech_encoder`.

    Latents here are those the UNet sees, unit variance, [B, C, T, h, w]; `to_raw` turns them into what the
    autoencoder (and ComfyUI's VAE Decode) takes.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.untrained: tuple[str, ...] = ()  # streams whose weights are still the initial ones: "audio", "camera", ...
        self.unet = StarcasterUNet(config.unet)
        self.vae = build_autoencoder(config.autoencoder)
        self.identity_tokens = build_identity_encoder(config)
        self.speech_tokens = SpeechTokens(config.conditioning, config.unet.cross_attention_dim)
        self.camera_tokens = CameraTokens(config.conditioning, config.unet.cross_attention_dim)
        self.speech_encoder = build_speech_encoder(config)

    @property
    def device(self) -> torch.device:
        return self.unet.conv_in.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.unet.conv_in.weight.dtype

    def set_precision(self, dtype: torch.dtype) -> Starcaster:
        """Everything but the speech encoder, whose spectra need float32, computes in `dtype` from now on."""
        for name, part in self.named_children():
            if name != "speech_encoder":
                part.to(dtype)
        return self

    def store_in_float8(self) -> Starcaster:
        """The UNet's large weights take eight bits from now on; it computes as before. Not to be undone."""
        store_in_float8(self.unet, keep=UNTOUCHED)
        return self

    # Conditions -> cached keys and values ------------------------------------------------------------------------------

    def cache_identity(self, identity: Identity | None) -> list[KeyValue]:
        """Who is shown, or None for the guidance's null -> K, V for every block, batch 1."""
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
        """K, V of frames start .. start + frames - 1; before and after the speech its first and last rows go on."""
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
        """[1, T, 25] of frames start .. start + frames - 1; after the path's end the camera stays where it is"""
        rows = np.arange(start, start + frames).clip(0, camera.frames - 1)
        return torch.from_numpy(camera.vectors()[rows])[None].to(self.device)

    def cache_camera(self, camera: CameraPath, start: int, frames: int) -> list[KeyValue]:
        """K, V of frames start .. start + frames - 1, as `camera_vectors` are"""
        vectors = self.camera_vectors(camera, start, frames)
        return self.unet.cache_camera(self.camera_tokens(self.like_weights(vectors)))

    def cache_idle(self, idle: Tensor) -> Tensor | None:
        """How the head moves besides speaking (`idle.py`), [1, T, K], as `unet.cache_idle` gives it; None for a network that
        is not told, and leaves it to chance."""
        return self.unet.cache_idle(self.like_weights(idle))

    def cache_frames(self, latents: Tensor, identity: list[KeyValue]) -> list[KeyValue]:
        """Reference or context frames, latents [1, C, R, h, w] -> K, V for the bank of every block."""
        return self.unet.cache_frames(self.like_weights(latents), identity)

    def cache_reference(
        self,
        portrait: Tensor,
        idle: Tensor,
        camera: Tensor | None = None,
        portrait_camera: Tensor | None = None,
    ) -> tuple[Tensor, Tensor] | None:
        """The portrait, from `open_portrait`, as `unet.cache_reference` makes it ready for every frame: turned as the
        head (idle [B, T, K]) and seen from the cameras [B, T, 25], in a model that does so. portrait_camera: as
        `turn_portrait` takes it. Once a chunk."""
        if self.config.turn_portrait:
            portrait = self.turned(portrait, idle, camera, portrait_camera)
        return self.unet.cache_reference(self.like_weights(portrait))

    @torch.no_grad()
    def open_portrait(self, latents: Tensor) -> Tensor:
        """[B, C, 1, h, w] -> what `cache_reference` takes: the picture [B, 3, S, S], -1..1, in a model that turns it, else the
        latents. Once a clip."""
        if not self.config.turn_portrait:
            return latents
        return self.vae.decode(self.like_weights(self.to_raw(latents[:, :, 0])))

    @torch.no_grad()
    def turned(self, picture: Tensor, idle: Tensor, camera: Tensor | None, portrait_camera: Tensor | None) -> Tensor:
        """[B, 3, S, S] -> latents [B, C, T, h, w]"""
        pictures = turn_portrait(picture, turns(idle), camera, portrait_camera)
        raw = self.vae.encode(self.like_weights(rearrange(pictures, "b t c h w -> (b t) c h w")))
        return self.from_raw(rearrange(raw.float(), "(b t) c h w -> b c t h w", t=idle.shape[1]))

    @staticmethod
    def condition(identity: list[KeyValue], **streams) -> ConditionCache:
        """One guidance branch out of cached streams; arguments as in `unet.cache_condition`."""
        return cache_condition(identity, **streams)

    def like_weights(self, x: Tensor) -> Tensor:
        return x.to(self.device, self.dtype)

    # Pixels <-> latents ------------------------------------------------------------------------------------------------

    def encode_frames(self, frames: Tensor) -> Tensor:
        """frames [T, H, W, 3] in 0..1, any size -> latents [1, C, T, h, w] in float32"""
        images = rearrange(frames.float(), "t h w c -> t c h w")
        side = self.config.image_size
        if images.shape[-2:] != (side, side):
            images = F.interpolate(images, (side, side), mode="bicubic", antialias=True).clamp(0, 1)
        raw = self.vae.encode(self.like_weights(images * 2 - 1))
        return rearrange(self.from_raw(raw.float()), "t c h w -> 1 c t h w")

    def decode_frames(self, latents: Tensor) -> Tensor:
        """latents [1, C, T, h, w] -> frames [T, H, W, 3] in 0..1, float32 on the CPU"""
        raw = self.to_raw(rearrange(latents, "1 c t h w -> t c h w"))
        images = self.vae.decode(self.like_weights(raw)).float()
        return rearrange((images / 2 + 0.5).clamp(0, 1), "t c h w -> t h w c").cpu()

    def to_raw(self, latents: Tensor) -> Tensor:
        return latents / self.config.autoencoder.scaling_factor

    def from_raw(self, raw: Tensor) -> Tensor:
        return raw * self.config.autoencoder.scaling_factor

    # Sound -------------------------------------------------------------------------------------------------------------

    def encode_speech(self, samples: Tensor) -> Speech:
        """16 kHz mono samples [N] in -1..1 -> this model's speech features, one row a video frame."""
        if self.speech_encoder is None:
            raise InputError(
                f"features from {self.config.speech_encoder} for the model {self.config.name!r}",
                "sound without an encoder",
                "Connect an AUDIO_ENCODER (Load Audio Encoder with a wav2vec2-base file), name one with --audio-encoder, "
                "or assemble the model with one.",
            )
        return self.speech_encoder.encode(samples, self.config.fps)

    # What to expect ----------------------------------------------------------------------------------------------------

    def warnings(self, speech: Speech | None, camera: CameraPath | None) -> list[str]:
        """What of the conditions this model cannot follow, one sentence each."""
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
