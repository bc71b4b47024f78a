"""From a portrait, a voice and a camera path to a video: the one way through the package.

    model = load_model("mini")
    conditions = prepare(model, portrait="me.png", speech="hello.wav", camera="orbit")
    save_video("out.mp4", model, conditions)

Command line, nodes, evaluation, gallery and benchmarks all call this. The reading order from here to the network:
pipeline.py, sampling/rollout.py, models/starcaster.py, models/unet.py, models/attention.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .conventions import FPS, SAMPLE_RATE
from .errors import InputError
from .files import numbered, sweep_parts
from .identity_only import with_drawn_portrait
from .sampling.settings import Conditions, SamplerSettings, count_chunks
from .types import CameraPath, Identity, Speech

if TYPE_CHECKING:
    import torch

    from .camera import CameraMove
    from .frame_decoder import FrameDecoder
    from .models.extensions import FramePose
    from .models.starcaster import Starcaster
    from .presets import ModelConfig
    from .sampling.execution import Execution
    from .sampling.guards import FrameGuard
    from .sampling.journal import NoJournal
    from .sampling.rollout import Chunk, ChunkProgress
    from .video import VideoInfo, VideoWriter

FileName = str | os.PathLike
Sound = tuple["torch.Tensor", int]  # waveform [C, N] in -1..1 and its samples a second

CROP_SIZE = 512  # side of an identity's portrait, pixels; the model resizes it
DEFAULT_SECONDS = 4.0  # of a video that neither speech nor anything else gives a length
FRAMES_DECODED_AT_ONCE = 4  # between them a cancelled video ends
JOURNAL = ".starcaster-journal"  # folder beside a video for the chunks of renders that are not finished
UNFINISHED = ".unfinished"  # before the suffix of what a stopped render leaves


# What to load ---------------------------------------------------------------------------------------------------------


def load_model(
    name_or_path: FileName = "mini",
    device: str = "auto",
    *,
    float8: bool = False,
    offload: bool = False,
    audio_encoder: FileName | None = None,
) -> Starcaster:
    """Load a model onto a device, ready for sampling.

    name_or_path: "mini", or a STARCaster .safetensors file. device: auto, cpu, cuda, mps. float8: store the large
    weights in eight bits. offload: leave the UNet in main memory, for `save_video(offload=True)`. audio_encoder: a
    wav2vec2-base file for a model that brings no speech encoder.
    Raises CheckpointError for a file that is no whole model, InputError for a device that is not there.
    """
    from .models.checkpoint import load_checkpoint

    target = choose_device(device)
    model = load_checkpoint(name_or_path, choose_dtype(target), float8=float8)
    if audio_encoder:
        from .models.public.wav2vec2 import load_wav2vec2

        model.speech_encoder = load_wav2vec2(audio_encoder)
    for name, part in model.named_children():
        if name != "unet" or not offload:
            part.to(target)
    return model


def choose_device(name: str = "auto") -> torch.device:
    """Return the device of a name; "auto" is the best there is. Raises InputError where the machine has no such
    device."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0][:120]
        raise InputError(
            "a device that this machine has: auto, cpu, cuda or mps", f"{name!r} ({reason})", "Choose another."
        ) from None
    return device


def choose_dtype(device: torch.device) -> torch.dtype | None:
    """Return half precision on CUDA; elsewhere None, which leaves it to `load_checkpoint`."""
    import torch

    if device.type != "cuda":
        return None
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


# What the video is to show --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Voice:
    """A sound file that was read: samples [N] of 16 kHz, the sound as it is, and warnings."""

    samples: torch.Tensor
    sound: Sound
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return len(self.samples) / SAMPLE_RATE


@dataclass(frozen=True)
class Prepared(Conditions):
    """Conditions with the sound that belongs to them, and what the user should know, one sentence each."""

    sound: Sound | None = None
    warnings: tuple[str, ...] = ()


def prepare(
    model: Starcaster,
    portrait: FileName | Sequence[FileName] | Identity,
    speech: FileName | Voice | None = None,
    camera: str | CameraMove | CameraPath | None = None,
    seconds: float | None = None,
    *,
    face: str = "single",
    face_models: Sequence[FileName] = (),
) -> Prepared:
    """Read a portrait, a voice and a camera path as conditions for a model.

    portrait: one or several photos of one person, or an identity. speech: a sound file, or one that `read_voice`
    has read; without one the mouth is free.
    camera: a preset's name, a move, a JSON keyframe file, or a path; None: a still camera and a head that moves freely.
    seconds: length of the video, see `video_length`. face: single, largest, leftmost, rightmost.
    Raises InputError and its kinds for what cannot be used.
    """
    warnings: list[str] = []
    identity = portrait if isinstance(portrait, Identity) else read_identity(model.config, portrait, face, face_models)
    from .identity import portrait_warnings

    warnings += portrait_warnings(identity)
    encoded = sound = None
    if speech is not None:
        voice = speech if isinstance(speech, Voice) else read_voice(speech, seconds)
        encoded, sound = model.encode_speech(voice.samples.to(model.device)), voice.sound
        warnings += voice.warnings
    frames, said = video_length(model.config.fps, encoded, None, seconds)
    path = camera if camera is None or isinstance(camera, CameraPath) else read_camera(camera, frames, model.config.fps)
    if path is not None:
        warnings += path.warnings
    warnings += [*said, *model.warnings(encoded, path)]
    return Prepared(identity, encoded, path, frames, sound=sound, warnings=tuple(warnings))


def read_identity(
    config: ModelConfig,
    photos: FileName | Sequence[FileName],
    face: str = "single",
    face_models: Sequence[FileName] = (),
) -> Identity:
    """Find the person in one or several photos. Raises FaceError where there is no face, or more than one to choose."""
    from .identity import load_recogniser, make_identity, read_picture

    paths = [photos] if isinstance(photos, (str, os.PathLike)) else list(photos)
    recogniser = load_recogniser(config.identity_backend, [Path(folder) for folder in face_models])
    return make_identity([read_picture(path) for path in paths], CROP_SIZE, which=face, recogniser=recogniser)


def read_voice(file: FileName, seconds: float | None = None) -> Voice:
    """Read a sound file. seconds: use only so many. Raises AudioError for sound that cannot be used."""
    from .speech import LIMIT_SECONDS, audio_warnings, decode_audio, mono16k

    # More than may be used is not read: an hour would cost gigabytes and be refused.
    waveform, rate, warnings = decode_audio(file, LIMIT_SECONDS + 1 if seconds is None else seconds)
    samples = mono16k(waveform, rate, seconds)
    return Voice(samples, (waveform, rate), (*warnings, *audio_warnings(samples)))


def read_camera(camera: str | CameraMove, frames: int, fps: float = FPS) -> CameraPath:
    """Return the path of a preset, a move or a JSON keyframe file. Raises CameraError and InputError."""
    from .camera import PRESETS, CameraMove, keyframe_path, preset_path, read_keyframes

    if isinstance(camera, CameraMove):
        return preset_path(camera, frames, fps)
    if camera in PRESETS:
        return preset_path(CameraMove(camera), frames, fps)
    try:
        text = read_keyframes(camera)
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
    else:
        return keyframe_path(text, frames, fps)
    raise InputError(f"{', '.join(PRESETS)} or a keyframe file", repr(camera), "Check the camera's name.")


def video_length(
    fps: float, speech: Speech | None = None, camera: CameraPath | None = None, seconds: float | None = None
) -> tuple[int, list[str]]:
    """Decide how many frames a video has -> frames, warnings. The one rule for all callers.

    seconds given: that long. Longer than the speech, silence follows and a warning says so; shorter, the speech is cut.
    None: as long as the speech, else as the camera path, else DEFAULT_SECONDS.
    Raises InputError unless seconds is a positive, finite number.
    """
    if seconds is None:
        source = speech or camera
        return (source.frames if source else max(1, round(DEFAULT_SECONDS * fps))), []
    if not 0 < seconds < math.inf:
        raise InputError("a length above 0 seconds", str(seconds), "Leave it out to follow the speech.")
    frames = max(1, round(seconds * fps))
    if speech is not None and frames > speech.frames:
        return frames, [
            f"The video is to last {seconds:g} s and the speech lasts {speech.seconds:.2f} s: silence follows it."
        ]
    return frames, []


# Frames and files -----------------------------------------------------------------------------------------------------


def generate_frames(
    model: Starcaster,
    conditions: Conditions,
    settings: SamplerSettings | None = None,
    *,
    progress: Callable[[ChunkProgress], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
    execution: Execution | None = None,
    frame: str = "face",
    size: int | None = None,
) -> Iterator[torch.Tensor]:
    """Yield frames as they are made, a chunk at a time: float32 [T, H, W, 3] in 0..1, on the CPU.

    settings: None is the model's own. progress, should_stop, execution: as in `sampling.rollout.rollout`. frame: "face"
    shows the face's crop, "picture" the whole photo with the face in its place. size: side of the face's frames; None:
    512, or the model's own where it has no reference decoder.
    """
    settings = settings or SamplerSettings.of(model.config)
    conditions, settings = with_drawn_portrait(model, conditions, settings, should_stop)
    decode = frame_decoder(model, conditions, settings, frame, size)
    for chunk in generate_latents(
        model, conditions, settings, progress=progress, should_stop=should_stop, execution=execution
    ):
        yield decode(chunk.latents, chunk.pose)


def frame_decoder(
    model: Starcaster, conditions: Conditions, settings: SamplerSettings, frame: str = "face", size: int | None = None
) -> FrameDecoder:
    """Return what decodes a video's latents: by the photo, unless the network is not to see it either."""
    from .frame_decoder import FrameDecoder

    return FrameDecoder(model, conditions.identity if settings.use_reference else None, frame, size)


def generate_latents(
    model: Starcaster,
    conditions: Conditions,
    settings: SamplerSettings | None = None,
    *,
    on_fault: str = "stop",
    faces: bool = False,
    say: Callable[[str], None] = lambda sentence: None,
    **options,
) -> Iterator[Chunk]:
    """Yield chunks of latents of unit variance; arguments as in `generate_frames`, and a `journal`.

    journal: from `open_render_journal`. on_fault: stop, retry or warn, see `sampling.guards.LatentGuard`.
    faces: whether a chunk without the person's face is a fault, too. say: told of faults.
    Raises StarcasterError for a faulty chunk, InputError for another on_fault.
    """
    from .face_guard import FaceGuard
    from .sampling.guards import LatentGuard
    from .sampling.rollout import rollout

    look = FaceGuard(model, conditions.identity, conditions.camera) if faces else None
    guard = LatentGuard(model.config, on_fault, say, look)
    return rollout(model, conditions, settings or SamplerSettings.of(model.config), guard=guard, **options)


def open_render_journal(
    folder: FileName | None,
    model: Starcaster,
    conditions: Conditions,
    settings: SamplerSettings,
    execution: Execution | None = None,
    say: Callable[[str], None] = lambda sentence: None,
) -> AbstractContextManager[NoJournal]:
    """Return a render's journal for a `with` block, see `sampling.journal.open_journal`. folder: None keeps none."""
    from .sampling.journal import NoJournal, open_journal
    from .sampling.render_key import render_key

    if folder is None:
        return nullcontext(NoJournal())
    config = model.config
    chunks = count_chunks(conditions.frames, config.chunk_frames)
    size = chunks * (4 * config.unet.in_channels * config.chunk_frames * config.latent_size**2 + 1024)
    return open_journal(folder, render_key(model, conditions, settings, execution), chunks, size, say)


def save_video(
    path: FileName,
    model: Starcaster,
    conditions: Conditions,
    settings: SamplerSettings | None = None,
    *,
    offload: bool = False,
    frame: str = "face",
    size: int | None = None,
    decode: FrameDecoder | None = None,
    journal: FileName | None = None,
    keep_journal: bool = False,
    on_fault: str = "stop",
    say: Callable[[str], None] = lambda sentence: None,
    **options,
) -> VideoInfo:
    """Generate a video and write it with its sound; the format follows the file's ending.

    offload: keep the UNet in main memory and one block at a time on the device. decode: a `frame_decoder` made before;
    frame and size then say nothing. journal: a folder for the finished chunks, with which the same call goes on if this
    one stops; they are removed once the video is whole, unless keep_journal. on_fault: what happens where a chunk is
    faulty: "stop", "retry" or "warn", see `sampling.guards`. say: told in a sentence where a render resumes, what a
    stopped one leaves and which chunk is faulty or of another colour. The others: as in `generate_frames`, and `redo`
    as in `rollout`.

    A render that stops leaves its frames beside `path` as a video, `name.unfinished.mp4` for `name.mp4`.
    """
    from .models.offload import BlockOffload

    with BlockOffload(model.unet, model.device) if offload else nullcontext():
        settings = settings or SamplerSettings.of(model.config)
        conditions, settings = with_drawn_portrait(model, conditions, settings, options.get("should_stop"))
        decode = decode or frame_decoder(model, conditions, settings, frame, size)
        sweep_parts(Path(path).parent)
        with open_render_journal(journal, model, conditions, settings, options.get("execution"), say) as kept:
            chunks = generate_latents(
                model, conditions, settings, journal=kept, on_fault=on_fault, faces=True, say=say, **options
            )
            info = write_chunks(path, model, chunks, getattr(conditions, "sound", None), decode, say, on_fault)
            if info.frames == conditions.frames:  # not where `should_stop` ended it
                kept.finish(len(options.get("redo") or ())) if keep_journal else kept.remove()
            return info


def write_chunks(
    path: FileName,
    model: Starcaster,
    chunks: Iterable[Chunk],
    sound: Sound | None = None,
    decode: FrameDecoder | None = None,
    say: Callable[[str], None] = lambda sentence: None,
    on_fault: str = "stop",
) -> VideoInfo:
    """Write chunks as a video; while one is sampled, threads decode and encode the one before.

    decode: `frame_decoder`; None is the autoencoder alone. Where the chunks or the work fail, the frames written until
    then become a video of their own, and `say` is told. Raises StarcasterError for black frames, unless on_fault is
    "warn".
    """
    from .frame_decoder import FrameDecoder
    from .sampling.guards import FrameGuard
    from .video import Background, VideoWriter

    decoder = Decoder(model, decode or FrameDecoder(model, None), FrameGuard(model.config, on_fault, say))
    with VideoWriter(Path(path), model.config.fps, sound) as writer:
        try:
            with (
                Background(writer.writing, finish=True) as encoding,
                Background(lambda item: encoding.put(decoder.show(*item))) as composing,
                Background(lambda item: composing.put(decoder.find(*item))) as decoding,
            ):
                for chunk in chunks:
                    for start in range(0, chunk.latents.shape[2], FRAMES_DECODED_AT_ONCE):
                        decoding.put(decoder.hand_over(chunk, slice(start, start + FRAMES_DECODED_AT_ONCE)))
        except BaseException:
            keep_unfinished(writer, Path(path), say)
            raise
    return writer.info


def keep_unfinished(writer: VideoWriter, path: Path, say: Callable[[str], None]) -> None:
    """Turn what a stopped render has written into a playable video beside the one that was wanted, of a free name."""
    with suppress(Exception):  # where nothing was written, or the disk failed; what stopped the render matters more
        names = numbered(path.with_name(f"{path.stem}{UNFINISHED}{path.suffix}"))
        beside = next(name for name in names if not os.path.lexists(name))
        info = writer.close(beside)
        say(f"What was finished is in {beside}: {info.seconds:.2f} s.")


class Decoder:
    """Decode latents in a second thread, on CUDA in a stream of its own beside the sampling."""

    def __init__(self, model: Starcaster, decode: FrameDecoder, guard: FrameGuard):
        import torch

        self.model, self.decode, self.guard, self.cuda = model, decode, guard, torch.cuda
        self.stream = torch.cuda.Stream(model.device) if model.device.type == "cuda" else None

    def hand_over(self, chunk: Chunk, frames: slice):
        """In the sampling thread: return latents [1, C, T, h, w], their pose, place and when they are ready."""
        pose = None if chunk.pose is None else chunk.pose[frames]
        ready = None if self.stream is None else self.cuda.current_stream(self.model.device).record_event()
        place = chunk.index, frames.stop >= chunk.latents.shape[2]
        return chunk.latents[:, :, frames], pose, place, ready

    def find(self, latents: torch.Tensor, pose: FramePose | None, place: tuple[int, bool], ready):
        """In another thread: return what `FrameDecoder.find` found, and the place."""
        with self.streaming():
            if self.stream is not None:
                self.stream.wait_event(ready)
                latents.record_stream(self.stream)
            return self.decode.find(latents, pose), place

    def show(self, found, place: tuple[int, bool]) -> np.ndarray:
        """In a third one: return frames float32 [T, H, W, 3] in 0..1."""
        with self.streaming():
            frames = self.decode.show(found)
        self.guard.check(frames, *place)
        return frames.numpy()

    def streaming(self):
        return nullcontext() if self.stream is None else self.cuda.stream(self.stream)
