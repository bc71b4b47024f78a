"""Everything the pack asks of ComfyUI, in one place: devices, folders, models, progress, interruption, errors.

The other node files import ComfyUI's names from here, so a change of its interface is met here only.
"""

from __future__ import annotations

import copy
import functools
import json
import logging
import math
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import comfy.model_management as management
import comfy.model_patcher
import comfy.sd
import comfy.utils
import folder_paths
import numpy as np
import torch
from comfy.cli_args import args
from comfy_api.latest import ComfyExtension, Input, InputImpl, Types, io, ui
from PIL import Image

from ..starcaster_core.errors import InputError, explained, shown
from ..starcaster_core.sampling.execution import Execution
from ..starcaster_core.video import check_name
from .names import fill_in
from .operations import adopt, move_the_rest

intermediate_device = management.intermediate_device

__all__ = ["ComfyExtension", "Input", "InputImpl", "Types", "intermediate_device", "io", "ui"]

CATEGORY = "STARCaster"
MODEL_FOLDER = "starcaster"
MOTION_FOLDER = "animatediff_models"
IDENTITY_SUFFIX = ".identity.safetensors"
WEIGHTS = (".safetensors", ".ckpt", ".pt", ".pth", ".bin")
ASSETS = Path(__file__).resolve().parent.parent / "starcaster_core" / "assets"
# What the shipped workflows load, by the name it has in ComfyUI's input folder.
SAMPLE_INPUTS = {
    "starcaster_photo.webp": "photo.webp",
    "starcaster_portrait.png": "portrait.png",
    "starcaster_voice.flac": "voice.flac",
}


# Errors and interruption


def user_errors(execute):
    """Let errors the user can mend reach ComfyUI as their message alone, without the chain that led to them, and stand
    below the node. Running out of the device's memory is left to ComfyUI, which knows what to unload."""

    @functools.wraps(execute)
    def wrapped(*arguments, **inputs):
        try:
            return execute(*arguments, **inputs)
        except management.OOM_EXCEPTION:
            raise
        except Exception as error:
            mended = explained(error)
            if mended is None:
                raise
            if mended is not error:
                logging.info("STARCaster: what the sentence below stands for", exc_info=error)
        hidden = getattr(arguments[0], "hidden", None) if arguments else None
        show_below(getattr(hidden, "unique_id", None), str(mended))
        raise without_module(mended) from None

    return wrapped


def without_module(error: Exception) -> Exception:
    """Return the error without its traceback, of a class of the same name that ComfyUI shows without a module's
    path."""
    kind = type(error)
    error.__class__ = type(kind.__name__, (kind,), {"__module__": "builtins"})
    return error.with_traceback(None)


def stop_if_interrupted() -> bool:
    """Raise ComfyUI's interruption (a BaseException) if the user pressed Cancel; otherwise False."""
    management.throw_exception_if_processing_interrupted()
    return False


def tell_user(node_id: str | None, sentence: str) -> None:
    """Show a sentence below a node while it is the latest thing that happened to it, and log it."""
    if not sentence:
        return
    sentence = shown(sentence, longest=2000)
    logging.warning("STARCaster: %s", sentence)
    show_below(node_id, sentence)


def show_below(node_id: str | None, sentence: str) -> None:
    """Show a sentence below a node; nothing where there is no server."""
    try:
        from server import PromptServer  # not at the top: it is set up only inside a running ComfyUI
    except ImportError:
        return
    if node_id and getattr(PromptServer, "instance", None):
        PromptServer.instance.send_progress_text(sentence, node_id)


# Machine


def free_memory() -> int:
    """Bytes of main memory that are free."""
    return management.get_free_memory(torch.device("cpu"))  # pyright: ignore[reportReturnType]


# Folders


def register_model_folder() -> None:
    folder = Path(folder_paths.models_dir) / MODEL_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    folder_paths.add_model_folder_path(MODEL_FOLDER, str(folder), is_default=True)
    if MOTION_FOLDER not in folder_paths.folder_names_and_paths:  # AnimateDiff packs add it as well
        folder_paths.add_model_folder_path(MOTION_FOLDER, str(Path(folder_paths.models_dir) / MOTION_FOLDER))


def install_sample_inputs() -> None:
    """Copy the shipped portrait and voice where Load Image and Load Audio find them, once."""
    folder = Path(folder_paths.get_input_directory())
    for name, asset in SAMPLE_INPUTS.items():
        source, target = ASSETS / asset, folder / name
        if not source.exists() or target.exists():
            continue
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            logging.warning("STARCaster could not put its sample %s into %s: %s", name, folder, error)


def model_files() -> list[str]:
    return [name for name in files_in(MODEL_FOLDER) if name.endswith(".safetensors")]


def model_path(name: str) -> str | None:
    return folder_paths.get_full_path(MODEL_FOLDER, name)


def files_in(folder: str) -> list[str]:
    """Names of what lies in one of ComfyUI's model folders; none where this ComfyUI has no such folder."""
    return folder_paths.get_filename_list(folder) if folder in folder_paths.folder_names_and_paths else []


def public_files(folders: tuple[str, ...]) -> list[str]:
    """Weights that could be parts of a model, as "folder/name"."""
    return [f"{folder}/{name}" for folder in folders for name in files_in(folder) if Path(name).suffix in WEIGHTS]


def public_path(name: str) -> Path:
    """The file a name from `public_files` stands for."""
    folder, _, inside = name.partition("/")
    path = folder_paths.get_full_path(folder, inside) if folder in folder_paths.folder_names_and_paths else None
    if path is None:
        raise InputError("a file in ComfyUI's model folders", f"{name}, which is not there", "Refresh the list.")
    return Path(path)


def face_model_folders() -> list[Path]:
    """Where SCRFD and ArcFace may lie: our own folder, and those that other packs keep InsightFace's models in."""
    own = folder_paths.get_folder_paths(MODEL_FOLDER)
    models = Path(folder_paths.models_dir)
    return [*map(Path, own), models / "insightface", models / "insightface" / "models" / "antelopev2"]


def model_output_path(name: str) -> tuple[Path, str]:
    """Where a model named by the user is written, below models/starcaster and never outside; its name in that
    folder."""
    name = check_name(name).removesuffix(".safetensors") + ".safetensors"
    folder = Path(folder_paths.get_folder_paths(MODEL_FOLDER)[0])
    refuse_way_out((folder / name).parent, folder)
    return folder / name, name


def identity_files() -> list[str]:
    """Saved identities, as names that `input_path` understands: those in the input folder, then our own output."""
    inputs = sorted(path.name for path in Path(folder_paths.get_input_directory()).glob(f"*{IDENTITY_SUFFIX}"))
    saved = Path(folder_paths.get_output_directory()) / MODEL_FOLDER
    return inputs + [
        f"{MODEL_FOLDER}/{path.relative_to(saved).as_posix()} [output]"
        for path in sorted(saved.rglob(f"*{IDENTITY_SUFFIX}"))
    ]


def input_path(name: str) -> Path:
    """The file a name from `identity_files` stands for."""
    path = Path(folder_paths.get_annotated_filepath(name))
    if not path.is_file():
        raise InputError("an identity file", f"{name}, which is not there", "Refresh the list and choose another.")
    return path


def identity_output_path(name: str) -> Path:
    """Where an identity named by the user is saved: below output/starcaster, never outside."""
    folder = Path(folder_paths.get_output_directory()) / MODEL_FOLDER
    path = folder / (check_name(name).removesuffix(IDENTITY_SUFFIX) + IDENTITY_SUFFIX)
    refuse_way_out(path.parent, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def refuse_way_out(path: Path, folder: Path) -> None:
    """Raise InputError where a path leads out of a folder through a link."""
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"a place inside {folder}", f"{path}, a link that leads out of it", "Choose another name.")


def journal_folder() -> Path:
    """Where finished chunks of renders are kept, below the output folder."""
    return Path(folder_paths.get_output_directory()) / MODEL_FOLDER / "journal"


def name_fault(prefix: str) -> str | None:
    """Say why a prefix cannot be a file's name, before anything runs; what stands between % is not known yet."""
    try:
        check_name(re.sub(r"%[^%]+%", "_", prefix))
    except InputError as error:
        return str(error)
    return None


def next_outputs(
    prefix: str, suffix: str, size: tuple[int, int] = (0, 0), node: type[io.ComfyNode] | None = None
) -> Iterator[tuple[Path, str]]:
    """Yield the next free files for a prefix such as "starcaster/video": path, subfolder below the output folder. The
    second and later ones are for whom somebody else comes first.

    suffix: with its dot; "" for a folder. size: width and height, for %width% and %height%. node: whose prompt and
    workflow stand behind %Node name.widget%.
    """
    hidden = getattr(node, "hidden", None)
    workflow = (getattr(hidden, "extra_pnginfo", None) or {}).get("workflow")
    prefix = fill_in(prefix, getattr(hidden, "prompt", None), workflow) if isinstance(prefix, str) else prefix
    root = Path(folder_paths.get_output_directory())
    refuse_way_out((root / check_name(prefix)).parent, root)
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, str(root), *size)
    for number in count(counter):
        yield Path(folder) / f"{name}_{number:05}_{suffix}", subfolder


def temporary_output(suffix: str) -> Path:
    """A new file's path in the temp folder, which ComfyUI empties when it starts. suffix: with its dot."""
    return Path(folder_paths.get_temp_directory()) / f"starcaster_{uuid.uuid4().hex}{suffix}"


def workflow_metadata(node: type[io.ComfyNode]) -> dict[str, str]:
    """The prompt and the workflow as JSON, for embedding; empty where the user told ComfyUI not to."""
    if args.disable_metadata:
        return {}
    metadata = {key: as_json(value) for key, value in (node.hidden.extra_pnginfo or {}).items()}
    if node.hidden.prompt is not None:
        metadata["prompt"] = as_json(node.hidden.prompt)
    return metadata


def as_json(value) -> str:
    """JSON that every reader takes: NaN and infinity, which JSON does not know, become null."""

    def known(value):
        if isinstance(value, dict):
            return {key: known(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [known(inner) for inner in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(known(value), allow_nan=False)


# Models


class LoadedModel:
    """A STARCaster model in ComfyUI's care: what travels on a STARCASTER_MODEL socket."""

    def __init__(self, core: torch.nn.Module):
        self.core = core.eval()
        self.execution = Execution()
        self._held = _Held(core)
        management.archive_model_dtypes(self._held)
        # All but the small parts, which tell the core its device and are always there.
        for part in (*core.unet.blocks(), core.vae, core.identity_tokens, core.speech_encoder):
            if part is not None:
                adopt(part)
        # Not CoreModelPatcher, which decides weight by weight and anew for every call: fused projections and recorded
        # graphs want to know for a whole clip where weights are.
        self.patcher = comfy.model_patcher.ModelPatcher(
            self._held, load_device=management.get_torch_device(), offload_device=management.unet_offload_device()
        )

    def executed(self, execution: Execution) -> LoadedModel:
        """The same model, whose network is called as `execution` says"""
        other = copy.copy(self)
        other.execution = execution
        return other

    def on_device(self) -> torch.nn.Module:
        """The core model, ready to compute. Other models make room as ComfyUI decides; of what does not fit, or where
        the user asked to save VRAM, the large layers' weights stay in main memory and come when it is their turn."""
        management.load_models_gpu([self.patcher], memory_required=self._activations)
        move_the_rest(self.core, self.patcher.load_device)
        return self.core

    @property
    def _activations(self) -> int:
        """Bytes that a chunk with both branches of the guidance in one call keeps alive at most, as counted by
        `benchmark/account.py`, forward pass only"""
        config = self.core.config
        return 256 * config.chunk_frames * config.image_size**2 * self.core.dtype.itemsize


class _Held(torch.nn.Module):
    """ComfyUI's patcher writes its own notes, `device` among them, onto the module it manages; they land here."""

    def __init__(self, core: torch.nn.Module):
        super().__init__()
        self.core = core
        self.device = None


def choose_dtype(precision: str) -> torch.dtype | None:
    """The dtype for a precision named by the user; None for "auto" on a CPU, where the core knows best."""
    named = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if precision in named:
        return named[precision]
    device = management.get_torch_device()
    if management.is_device_cpu(device):
        return None
    return management.unet_dtype(device=device, supported_dtypes=[torch.bfloat16, torch.float16, torch.float32])


class StarcasterVAE(comfy.sd.VAE):
    """The model's autoencoder as ComfyUI's own VAE type, for core's VAE Decode, VAE Encode and their tiled kin."""

    def __init__(self, autoencoder: torch.nn.Module):
        # ComfyUI picks an architecture from a state dict. Its identity VAE has no weights to speak of and sets every
        # attribute that this version of ComfyUI knows; then the real one takes its place.
        super().__init__(sd={"pixel_space_vae": torch.tensor(1.0)})
        # A copy: two patchers moving the same weights to different devices would pull them from under each other.
        self.first_stage_model = copy.deepcopy(autoencoder).eval()
        config = autoencoder.config
        self.latent_channels = config.latent_channels
        self.downscale_ratio = self.upscale_ratio = config.downscale
        area = config.downscale**2
        self.memory_used_encode = lambda shape, dtype: 1767 * shape[2] * shape[3] * management.dtype_size(dtype)
        self.memory_used_decode = lambda shape, dtype: 2178 * shape[2] * shape[3] * area * management.dtype_size(dtype)
        self.vae_dtype = next(autoencoder.parameters()).dtype
        self.size = None
        management.archive_model_dtypes(self.first_stage_model)
        self.patcher = comfy.model_patcher.ModelPatcher(
            self.first_stage_model, load_device=self.device, offload_device=management.vae_offload_device()
        )
        self.model_size()

    def decode(self, samples_in, *arguments, **settings):
        check_channels(samples_in, self)
        return super().decode(samples_in, *arguments, **settings)

    def decode_tiled(self, samples, *arguments, **settings):
        check_channels(samples, self)
        return super().decode_tiled(samples, *arguments, **settings)


def check_channels(samples: torch.Tensor, vae) -> None:
    """Raise InputError for latents [B, C, ...] of another model than a VAE's."""
    channels = getattr(vae, "latent_channels", None)
    if channels is not None and samples.shape[1] != channels:
        raise InputError(
            f"samples of the VAE's model, with {channels} channels",
            f"some with {samples.shape[1]}",
            "Connect the VAE of the model that made them.",
        )


def core_wav2vec2(encoder):
    """Core's AUDIO_ENCODER on the computing device, as the two halves that `speech.wav2vec2.encode_with` asks for."""
    from ..starcaster_core.speech.wav2vec2 import outputs_of

    network = getattr(encoder, "model", None)
    parts = ("feature_extractor", "feature_projection", "encoder")
    if not all(hasattr(network, part) for part in parts):
        raise InputError(
            "an AUDIO_ENCODER of the wav2vec2 kind",
            f"a {type(network).__name__}",
            "Load a wav2vec2-base file with core's Load Audio Encoder.",
        )
    management.load_model_gpu(encoder.patcher)

    def rows_of(sound: torch.Tensor) -> torch.Tensor:
        return network.feature_extractor(sound.to(encoder.load_device))[0]

    def layers_of(rows: torch.Tensor) -> list[torch.Tensor]:
        hidden = network.feature_projection(rows)
        return outputs_of(network.encoder.layers, lambda: network.encoder(hidden))

    return rows_of, layers_of


# Progress


class SamplingProgress:
    """ComfyUI's progress bar with a small picture, fed by the core's progress reports."""

    PREVIEW_SECONDS = 2.0

    def __init__(self, node_id: str | None):
        self.bar = comfy.utils.ProgressBar(1, node_id=node_id)
        self._clock = _Interval(self.PREVIEW_SECONDS)

    def __call__(self, report) -> None:
        """report: a `ChunkProgress` of `starcaster_core.sampling`."""
        stop_if_interrupted()
        done, total = report.chunk * report.steps + report.step, report.chunks * report.steps
        preview = None
        if self._clock.is_over() or done == total:
            preview = ("JPEG", Image.fromarray(np.asarray(report.preview())), 512)
        self.bar.update_absolute(done, total, preview)


class _Interval:
    """Says yes at most once in so many seconds."""

    def __init__(self, seconds: float):
        self._seconds, self._last = seconds, -seconds

    def is_over(self) -> bool:
        now = time.monotonic()
        if now - self._last < self._seconds:
            return False
        self._last = now
        return True


def progress_bar(total: int, node_id: str | None) -> comfy.utils.ProgressBar:
    return comfy.utils.ProgressBar(total, node_id=node_id)
