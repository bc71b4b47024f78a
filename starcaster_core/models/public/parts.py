"""The public files a paper-scale checkpoint is made of: what each is called, where ComfyUI keeps it, whose it is."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PublicFile:
    """name: of the option that takes it. folders: of ComfyUI's model folders, the usual one first. file: what its
    project calls it. needed: nothing can be assembled without it. gives: what it is for."""

    name: str
    gives: str
    file: str
    source: str
    folders: tuple[str, ...]
    licence: str
    needed: bool = False

    @property
    def where(self) -> str:
        return f"{self.file} of {self.source}, in ComfyUI/models/{self.folders[0]}"


PUBLIC_FILES = (
    PublicFile(
        "unet",
        "faces from an identity",
        "arc2face/diffusion_pytorch_model.safetensors",
        "Arc2Face",
        ("diffusion_models", "starcaster"),
        "MIT, on Stable Diffusion 1.5 (CreativeML OpenRAIL-M) and research data (WebFace42M): check before commercial "
        "use",
        needed=True,
    ),
    PublicFile(
        "identity_encoder",
        "identity tokens",
        "encoder/pytorch_model.bin",
        "Arc2Face",
        ("text_encoders", "starcaster"),
        "as above",
        needed=True,
    ),
    PublicFile(
        "vae",
        "pixels to latents and back",
        "diffusion_pytorch_model.safetensors or vae-ft-mse-840000-ema-pruned.safetensors",
        "sd-vae-ft-mse",
        ("vae", "starcaster"),
        "MIT",
        needed=True,
    ),
    PublicFile(
        "motion",
        "frames that belong together",
        "mm_sd_v15_v2.ckpt, v3_sd15_mm.ckpt or diffusion_pytorch_model.safetensors of a diffusers adapter",
        "AnimateDiff",
        ("animatediff_models", "starcaster"),
        "Apache-2.0 by its model card; trained on WebVid-10M: check before commercial use",
    ),
    PublicFile(
        "audio_encoder",
        "speech features",
        "model.safetensors or pytorch_model.bin",
        "wav2vec2-base",
        ("audio_encoders", "starcaster"),
        "Apache-2.0",
    ),
    PublicFile(
        "lcm_lora",
        "2 to 8 steps instead of 25",
        "pytorch_lora_weights.safetensors",
        "lcm-lora-sdv1-5",
        ("loras", "starcaster"),
        "CreativeML OpenRAIL++-M",
    ),
    PublicFile(
        "delta",
        "speech, camera, self-attention adapters",
        "what `train --recipe sd15` leaves",
        "STARCaster training",
        ("starcaster",),
        "that of whoever trained it",
    ),
)
FILES = {file.name: file for file in PUBLIC_FILES}
