"""STARCaster_IdentityLoader: photos, or a saved file -> who is to be shown."""

from __future__ import annotations

import os

import torch

from ..starcaster_core.errors import FaceError, InputError
from . import sockets
from .comfy_bridge import (
    CATEGORY,
    face_model_folders,
    identity_files,
    identity_output_path,
    input_path,
    io,
    name_fault,
    tell_user,
    user_errors,
)

NONE = "none"
DEFAULT_BACKEND = "dlib"
FACES = ["single", "largest", "leftmost", "rightmost"]
MASK_HELPS = ("a photo with a face", "a photo of one person")
PORTRAIT_SIZE = 512  # pixels; the largest that a model reads, smaller models scale it down


class IdentityLoader(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="STARCaster_IdentityLoader",
            display_name="STARCaster Identity Loader",
            category=CATEGORY,
            description="Finds the face in one or several photos of a person, or reads a saved identity, and tells the "
            "Sampler who to show.",
            search_aliases=["face loader", "reference face", "portrait", "face embedding", "who"],
            inputs=[
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="One photo, or a batch of photos of the same person. The whole face should be visible and "
                    "at least 40 pixels wide; more than one photo makes the likeness steadier.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Paint over the face that is meant, where a photo shows several or none is found.",
                ),
                io.Combo.Input(
                    "identity_file",
                    options=[NONE, *identity_files()],
                    default=NONE,
                    tooltip="A saved identity (*.identity.safetensors in ComfyUI's input folder or in "
                    "output/starcaster), used when no image is connected.",
                ),
                io.Combo.Input(
                    "face",
                    options=FACES,
                    default=FACES[0],
                    tooltip="Which face to take. 'single' refuses photos that show more than one.",
                ),
                io.String.Input(
                    "save_as",
                    default="",
                    tooltip="Save this identity in output/starcaster under a name; a taken one gets a number. Empty: "
                    "do not.",
                ),
                sockets.Model.Input(
                    "model",
                    optional=True,
                    tooltip="The model that will show the person; it decides which face recogniser is asked. Without "
                    "one it is that of 'mini'.",
                ),
                sockets.FaceLandmarks.Input(
                    "face_landmarks",
                    optional=True,
                    tooltip="From core's Detect Face Landmarks, of the same photo, where the built-in landmarks miss "
                    "the mouth. Of several photos, the first one's.",
                ),
            ],
            outputs=[
                sockets.Identity.Output(display_name="identity", tooltip="For the Sampler."),
                io.Image.Output(display_name="portrait", tooltip="The aligned crop, as the model sees it."),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def fingerprint_inputs(cls, identity_file=NONE, **inputs):
        path = input_path(identity_file) if identity_file in identity_files() else None
        return os.path.getmtime(path) if path else None

    @classmethod
    def validate_inputs(cls, save_as) -> bool | str:
        return (isinstance(save_as, str) and save_as.strip() and name_fault(save_as.strip())) or True

    @classmethod
    @user_errors
    def execute(
        cls, identity_file, face, save_as, image=None, mask=None, model=None, face_landmarks=None
    ) -> io.NodeOutput:
        from ..starcaster_core.identity import (
            load_identity,
            load_recogniser,
            make_identity,
            portrait_warnings,
            save_new_identity,
        )
        from ..starcaster_core.identity.landmarks import core_landmarks, find_landmarks

        target = identity_output_path(save_as.strip()) if save_as.strip() else None
        if image is not None:
            photos = pictures_of(image)
            backend = model.core.config.identity_backend if model is not None else DEFAULT_BACKEND
            recogniser = load_recogniser(backend, face_model_folders())
            masks = _masks(mask, len(photos))

            def landmarks(photo, box):
                return find_landmarks(photo, box) if face_landmarks is None else core_landmarks(face_landmarks, box=box)

            try:
                identity = make_identity(
                    photos, PORTRAIT_SIZE, which=face, masks=masks, recogniser=recogniser, landmarks=landmarks
                )
            except FaceError as error:
                if mask is not None or not error.wanted.startswith(MASK_HELPS):
                    raise
                fix = f"{error.fix} Or paint over the face in Load Image's mask editor and connect the mask."
                raise FaceError(error.wanted, error.got, fix) from error
        elif identity_file != NONE:
            identity = load_identity(input_path(identity_file))
        else:
            raise InputError("a photo or a saved identity", "neither", "Connect an image or choose an identity file.")
        warnings = portrait_warnings(identity)
        if target and (saved := save_new_identity(target, identity)) != target:
            warnings.append(f"{target.name} exists, so it was saved as {saved.name}.")
        tell_user(cls.hidden.unique_id, " ".join(warnings))
        return io.NodeOutput(identity, _as_image(identity.portrait))


def pictures_of(image: torch.Tensor) -> list:
    """IMAGE [B, H, W, C], or [H, W, C] as some packs send it, of any float type -> float32 arrays, one a photo."""
    images = image[None] if image.ndim == 3 else image
    return list(images.float().cpu().numpy() if images.is_floating_point() else images.cpu().numpy())


def _masks(mask: torch.Tensor | None, count: int) -> list | None:
    """One mask a photo. ComfyUI's Load Image gives an empty mask with pictures that have none: that counts as none."""
    if mask is None:
        return None
    masks = list(mask.float().cpu().numpy()) if mask.ndim == 3 else [mask.float().cpu().numpy()]
    masks = masks * count if len(masks) == 1 else masks
    return [one if one.max() > 0.5 else None for one in masks]


def _as_image(portrait) -> torch.Tensor:
    """float32 [1, S, S, 3] in 0..1; black where the identity has no picture."""
    if portrait is None:
        return torch.zeros(1, PORTRAIT_SIZE, PORTRAIT_SIZE, 3)
    return torch.from_numpy(portrait.copy()).float()[None] / 255
