"""The model's configuration, and the named configurations that exist.

`PRESETS["mini"]` ships inside the package, `PRESETS["sd15"]` is the paper's scale, `PRESETS["tiny"]` is for tests.
A checkpoint carries its whole `ModelConfig` as JSON, so a file never depends on what a preset says today.
"""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, fields, replace

from .conventions import FPS
from .ranges import check_ranges

SCHEDULERS = ("dpmpp", "ddim", "lcm")  # names of the samplers in sampling/samplers.py


@dataclass(frozen=True)
class UNetConfig:
    """The denoising UNet. Names follow diffusers' `UNet2DConditionModel` and `UNetMotionModel`."""

    in_channels: int = 4  # latent channels, read and predicted
    block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)  # one a resolution level, finest first
    attention_levels: tuple[bool, ...] = (True, True, True, False)  # which levels have spatial transformers
    layers_per_block: int = 2
    num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)  # one a level, spatial and temporal alike
    cross_attention_dim: int = 768  # width of identity, audio and camera tokens
    norm_num_groups: int = 32
    lora_rank: int = 64  # of the self-attention adapters
    motion: bool = True  # temporal attention; False leaves an image model
    audio_and_camera: bool = True  # cross-attention to them as well; False knows who is shown and nothing else
    motion_max_seq_length: int = 32  # frames that temporal attention has positions for
    motion_num_attention_heads: tuple[int, ...] = (8, 8, 8, 8)


@dataclass(frozen=True)
class AutoencoderConfig:
    """Pixels <-> latents. `kind="patch"` is this project's small one, "sd" the Stable Diffusion VAE of diffusers."""

    kind: str = "sd"
    latent_channels: int = 4
    downscale: int = 8  # image side / latent side
    scaling_factor: float = 0.18215  # raw latents x this = what the UNet sees (unit variance)
    width: int = 64  # channels at full latent depth of the convolutional part ("patch" only)
    decoder_widths: tuple[int, ...] = ()  # channels after each doubling in the decoder ("patch" only)


@dataclass(frozen=True)
class ConditioningConfig:
    """The three streams that meet in cross-attention."""

    identity_backend: str = "arcface"  # which recogniser's embedding is understood
    identity_dim: int = 512
    identity_tokens: int = 77
    identity_encoder: str = "clip"  # "clip" = Arc2Face's text encoder, "mlp" = this project's small one
    speech_encoder: str = "wav2vec2-base"  # or "phonetic", this project's own
    wav2vec2_inside: bool = False  # whether the model brings wav2vec2 along, as it always does "phonetic"
    speech_dim: int = 9216  # features a video frame
    speech_window: int = 0  # frames seen on either side of a frame, besides what the encoder saw
    speech_tokens: int = 4  # audio tokens a frame
    speech_hidden: int = 1024
    camera_tokens: int = 2
    camera_hidden: int = 512


@dataclass(frozen=True)
class NoiseConfig:
    """The diffusion process, in diffusers' scheduler terms."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    beta_schedule: str = "scaled_linear"
    prediction_type: str = "epsilon"
    rescale_betas_zero_snr: bool = False
    timestep_spacing: str = "leading"


@dataclass(frozen=True)
class ExtensionsConfig:
    """What a model has beyond the paper (`models/extensions`). The defaults are the paper: nothing."""

    head_motion_channels: int = 0  # of the head motion it is given, 0 or len(head_motion.CHANNELS) (decisions/0004)
    copy_portrait: bool = False  # may copy the portrait's latents; for clean-latents prediction (decisions/0004)
    warp_portrait: bool = False  # what may be copied is warped to the pose and camera of each frame (decisions/0004)
    shared_noise: float = 0.0  # fraction of the noise's variance that all frames of a video share (decisions/0004)


@dataclass(frozen=True)
class ReferenceDecoderConfig:
    """Widths of the reference decoder (`models/reference_decoder.py`)."""

    feature_widths: tuple[int, ...] = (16, 32, 48)  # of the pyramid, at 64, 32 and 16
    hidden: int = 24  # of the flow's levels
    appearance: int = 12  # of the photo's features at 128
    fill_width: int = 20
    region_width: int = 48  # of the networks for mouth and eyes
    reader_width: int = (
        0  # of the network that reads how far the drawn mouth is open; 0: the photo's lips keep their opening
    )
    geometry: bool = True  # pose, camera and lips say how the photo moves; False, for an ablation: it is learned alone
    lip_layers: bool = False  # lips and teeth move as layers; False: as one surface, as in files before 2026-11-27


@dataclass(frozen=True)
class ModelConfig:
    """Everything that determines the network and how it is to be driven."""

    name: str
    unet: UNetConfig
    autoencoder: AutoencoderConfig
    conditioning: ConditioningConfig
    noise: NoiseConfig = NoiseConfig()
    extensions: ExtensionsConfig = ExtensionsConfig()
    reference_decoder: ReferenceDecoderConfig | None = None  # None: pixels come from the autoencoder alone
    image_model: UNetConfig | None = None  # draws a portrait from an embedding; None: identity-only needs no portrait
    image_size: int = 512  # side of the square frames, pixels
    fps: float = FPS
    chunk_frames: int = 16  # N: frames denoised together
    context_frames: int = 2  # n: last frames of the previous chunk that are looked back at
    steps: int = 25  # default number of sampling steps
    guidance_scale: float = 3.0  # default strength of guidance
    guidance_end: float = 1.0  # default fraction of the steps, the noisiest first, that are guided
    scheduler: str = "dpmpp"  # default sampler, one of SCHEDULERS

    @property
    def sampling_defaults(self) -> dict[str, float | str]:
        """How to sample unless asked otherwise; found out after training, so no part of what the weights are"""
        return {name: getattr(self, name) for name in ("steps", "guidance_scale", "guidance_end", "scheduler")}

    @property
    def latent_size(self) -> int:
        return self.image_size // self.autoencoder.downscale

    @property
    def identity_backend(self) -> str:
        return self.conditioning.identity_backend

    @property
    def speech_encoder(self) -> str:
        return self.conditioning.speech_encoder

    def to_dict(self) -> dict:
        """Return plain numbers for JSON, with the version of their layout."""
        return {"version": CONFIG_VERSION, **asdict(self)}

    @staticmethod
    def from_dict(data: dict) -> ModelConfig:
        """Return the configuration that `to_dict` wrote, of this or an earlier version.

        Raises TypeError for unknown or missing keys, ValueError for a version that is newer than this package and for
        values of another type or outside their range (`ranges.py`).
        """
        data = upgrade(data)
        parts = {f.name: f.default for f in fields(ModelConfig) if f.default is not MISSING}
        types = {
            "unet": UNetConfig,
            "autoencoder": AutoencoderConfig,
            "conditioning": ConditioningConfig,
            "noise": NoiseConfig,
            "extensions": ExtensionsConfig,
            "reference_decoder": ReferenceDecoderConfig,
            "image_model": UNetConfig,
        }
        parts.update(data)
        for name, kind in types.items():
            if isinstance(parts.get(name), dict):
                parts[name] = kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in parts[name].items()})
            elif not isinstance(parts.get(name), kind) and not (name in OPTIONAL and parts.get(name) is None):
                raise ValueError(f"{name} is missing")
        config = ModelConfig(**parts)
        check_ranges(config)
        return config


OPTIONAL = ("reference_decoder", "image_model")  # parts that a model may lack
CONFIG_VERSION = 2


def upgrade(data: dict) -> dict:
    """Bring a configuration of an earlier version to the present layout, without its version number.

    Version 1 (it had no number) kept the extensions in three places, under other names.
    """
    if not isinstance(data, dict) or not isinstance(version := data.get("version", 1), int):
        raise ValueError("no configuration")
    data = {name: value for name, value in data.items() if name != "version"}
    if version > CONFIG_VERSION:
        raise ValueError(f"version {version}, and this package knows {CONFIG_VERSION}")
    if version == 1:
        unet, noise = (dict(part) if isinstance(part := data.get(name), dict) else {} for name in ("unet", "noise"))
        data["extensions"] = {
            "head_motion_channels": unet.pop("idle_dim", 0),
            "copy_portrait": unet.pop("copy_reference", False),
            "warp_portrait": data.pop("turn_portrait", False),
            "shared_noise": noise.pop("shared_noise", 0.0),
        }
        data |= {name: part for name, part in (("unet", unet), ("noise", noise)) if name in data}
    return data


# Parameter names of version 1, by how they begin, and what they are called now.
RENAMED_WEIGHTS = {
    "unet.idle_embedding.": "unet.extensions.head_motion.embedding.",
    "unet.reference_in.": "unet.extensions.portrait_copy.reference_in.",
    "unet.copy_gate.": "unet.extensions.portrait_copy.gate.",
}


def upgrade_name(name: str) -> str:
    """Return the present name of a weight."""
    for old, new in RENAMED_WEIGHTS.items():
        if name.startswith(old):
            return new + name.removeprefix(old)
    return name


SD15 = ModelConfig(
    name="sd15",
    unet=UNetConfig(),
    autoencoder=AutoencoderConfig(),
    conditioning=ConditioningConfig(),
)

MINI = ModelConfig(
    name="mini",
    unet=UNetConfig(
        in_channels=16,
        block_out_channels=(64, 128, 192),
        attention_levels=(True, True, False),
        layers_per_block=1,
        num_attention_heads=(2, 4, 6),
        cross_attention_dim=128,
        lora_rank=16,
        motion_max_seq_length=16,
        motion_num_attention_heads=(2, 4, 6),
    ),
    autoencoder=AutoencoderConfig(
        kind="patch", latent_channels=16, scaling_factor=1.0, width=128, decoder_widths=(64, 32)
    ),
    conditioning=ConditioningConfig(
        identity_backend="dlib",
        identity_dim=128,
        identity_tokens=8,
        identity_encoder="mlp",
        speech_encoder="phonetic",
        speech_dim=64,
        speech_window=2,
        speech_tokens=4,
        speech_hidden=256,
        camera_tokens=2,
        camera_hidden=128,
    ),
    # The clean latents are predicted, down to zero signal: where a network this small is unsure it then blurs, while
    # predicting the noise it would leave noise in the picture (docs/decisions/0004).
    noise=NoiseConfig(
        prediction_type="sample",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    ),
    extensions=ExtensionsConfig(
        head_motion_channels=7,
        copy_portrait=True,
        warp_portrait=True,
        shared_noise=0.5,  # neighbours begin alike, in training and sampling
    ),
    image_size=128,
    steps=8,
    guidance_scale=2.5,
    guidance_end=0.5,
)

TINY = replace(
    MINI,
    name="tiny",
    unet=replace(
        MINI.unet,
        block_out_channels=(32, 64),
        attention_levels=(True, True),
        num_attention_heads=(2, 2),
        motion_num_attention_heads=(2, 2),
        cross_attention_dim=32,
        lora_rank=4,
        norm_num_groups=8,
    ),
    autoencoder=replace(MINI.autoencoder, width=16, decoder_widths=(8, 8)),
    conditioning=replace(MINI.conditioning, identity_tokens=2, speech_hidden=16, camera_hidden=16),
    image_size=64,
    steps=2,
)

PRESETS: dict[str, ModelConfig] = {config.name: config for config in (MINI, SD15, TINY)}
