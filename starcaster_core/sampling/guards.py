"""What a chunk must be: finite, moving, not black, the person's face. The user chooses what happens where one is not; a
sentence names the chunk and its time."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from ..errors import InputError, StarcasterError
from ..presets import ModelConfig
from .schedules import seeded_generator
from .settings import ON_FAULT

BLACK = 4 / 255  # no pixel of a black frame is brighter
RETRIES = 2  # times that a chunk is drawn again
DRIFT = 25  # grey levels of 255; a still camera moves the mean by less than 1, an orbit by 5
FIX = "What was made before is kept. Use another precision, seed or scheduler; if it stays, the model is damaged."
FACE_FIX = "What was made before is kept. Use another seed, or let on_fault warn and go on."


def place(config: ModelConfig, index: int) -> str:
    """Return where a chunk lies: "chunk 3 (1.28 to 1.92 s)"."""
    seconds = config.chunk_frames / config.fps
    return f"chunk {index + 1} ({index * seconds:.2f} to {(index + 1) * seconds:.2f} s)"


def is_finite(latents: Tensor) -> bool:
    """Return whether latents have neither NaN nor infinite numbers."""
    return bool(torch.isfinite(latents).all())


def stands_still(latents: Tensor) -> bool:
    """Return whether latents [1, C, T, h, w] are the same, bit for bit, in all of several frames."""
    return latents.shape[2] > 1 and bool((latents == latents[:, :, :1]).all())


def check_lit(frames: Tensor, where: str) -> None:
    """Raise StarcasterError for frames [T, H, W, 3] in 0..1 that are all black, or NaN."""
    if not frames.amax() > BLACK:  # so that NaN fails, too
        raise StarcasterError("visible frames", f"black ones in {where}", FIX)


class Faces(Protocol):
    """Looks at the faces of chunks, see `face_guard.FaceGuard`."""

    def fault(self, latents: Tensor, index: int) -> tuple[str, str] | None: ...


class Fault(NamedTuple):
    """What is wrong with a chunk. seen: the beginning of a sentence about it; None where nothing can be made of it."""

    wanted: str
    got: str
    seen: str | None
    fix: str = FIX


class LatentGuard:
    """Looks at every chunk of latents.

    on_fault: "stop" raises StarcasterError; "retry" draws the chunk again with other noise, RETRIES times at most,
    then stops; "warn" says a sentence and goes on. Latents that are not finite stop then, too: no picture can be made
    of them.
    say: told what happens, one sentence each. faces: looks at what the chunks show; None looks at numbers alone.
    Raises InputError for any other choice.
    """

    def __init__(
        self,
        config: ModelConfig,
        on_fault: str = "stop",
        say: Callable[[str], None] = lambda sentence: None,
        faces: Faces | None = None,
    ):
        check_choice(on_fault)
        self.config, self.on_fault, self.say, self.faces = config, on_fault, say, faces

    def draw(self, index: int, seed: int, denoise: Callable[[int], Tensor | None]) -> Tensor | None:
        """Return a chunk [1, C, T, h, w] that may be used; None where `denoise` was told to stop.

        denoise: from the seed of the chunk's own noise to its latents. seed: of the first attempt; those of the others
        follow from it, the chunk and the attempt, so that a render that is made again makes the same ones.
        """
        for attempt in range(RETRIES + 1):
            latents = denoise(retry_seed(seed, index, attempt))
            if latents is None:
                return None
            fault = self.fault(latents, index)
            if fault is None:
                return latents
            if attempt == RETRIES or self.on_fault != "retry":
                break
            where = place(self.config, index).capitalize()
            self.say(f"{where} has {fault.got}: it is drawn again, attempt {attempt + 1} of {RETRIES}.")
        self.report(fault, index)
        return latents

    def check(self, latents: Tensor, index: int) -> None:
        """Raise StarcasterError for a fault, or speak of it, as the user chose."""
        if fault := self.fault(latents, index):
            self.report(fault, index)

    def report(self, fault: Fault, index: int) -> None:
        """Raise StarcasterError, or say a sentence, as the user chose."""
        where = place(self.config, index)
        if self.on_fault != "warn" or fault.seen is None:
            raise StarcasterError(fault.wanted, f"{fault.got} in {where}", fault.fix)
        self.say(f"{fault.seen} in {where}; the render goes on.")

    def fault(self, latents: Tensor, index: int) -> Fault | None:
        """Return what is wrong with a chunk, None for a good one.

        Frames of a model whose noise is all shared may stand still.
        """
        if not is_finite(latents):
            return Fault("finite latents", "NaN or infinite numbers", None)
        if self.config.extensions.shared_noise < 1 and stands_still(latents):
            return Fault("a moving picture", "frames that are all the same", "The picture stands still")
        if self.faces is not None and (found := self.faces.fault(latents, index)):
            wanted, got = found
            return Fault(wanted, got, f"There is {got}", FACE_FIX)
        return None

    def keeps(self, index: int, latents: Tensor) -> bool:
        """Return whether a chunk from a journal is used as it is: not where a faulty one is to be drawn again."""
        return self.on_fault != "retry" or self.fault(latents, index) is None


class FrameGuard:
    """Looks at the decoded frames of a video, part after part in order.

    Black frames stop the render, or are spoken of once a chunk where on_fault is "warn". They are not drawn again:
    later chunks are under way by then. Where a chunk's mean colour is more than DRIFT grey levels from the first one's,
    a sentence says so, once a video, whatever the choice.
    """

    def __init__(self, config: ModelConfig, on_fault: str = "stop", say: Callable[[str], None] = lambda sentence: None):
        check_choice(on_fault)
        self.config, self.on_fault, self.say = config, on_fault, say
        self.dark = -1  # the last chunk whose black frames were spoken of
        self.sum, self.frames = torch.zeros(3), 0  # of the chunk under way
        self.first: Tensor | None = None  # mean colour of the first chunk
        self.drifted = False

    def check(self, frames: Tensor, index: int, last: bool) -> None:
        """Look at frames [T, H, W, 3] in 0..1 of a chunk. last: they are its end. Raises StarcasterError."""
        try:
            check_lit(frames, place(self.config, index))
        except StarcasterError:
            if self.on_fault != "warn" or not is_finite(frames):
                raise
            if self.dark != index:
                self.say(f"Frames are black in {place(self.config, index)}; the render goes on.")
            self.dark = index
        self.sum, self.frames = self.sum + frames.mean(dim=(1, 2)).sum(0).cpu(), self.frames + len(frames)
        if last:
            self.compare(self.sum / self.frames, index)
            self.sum, self.frames = torch.zeros(3), 0

    def compare(self, colour: Tensor, index: int) -> None:
        """Speak of a chunk's mean colour [3] in 0..1 if it is the first that is far from the first chunk's."""
        if self.first is None:
            self.first = colour
        away = float((colour - self.first).abs().amax()) * 255
        if away > DRIFT and not self.drifted:
            self.drifted = True
            self.say(f"The colour of {place(self.config, index)} is {away:.0f} grey levels from the first chunk's.")


def retry_seed(seed: int, index: int, attempt: int) -> int:
    """Return the seed of a chunk's own noise: `seed` for attempt 0, an unrelated one for each other."""
    return seeded_generator(seed, index, f"attempt {attempt}").initial_seed() if attempt else seed


def check_choice(on_fault: str) -> None:
    """Raise InputError unless the choice is one of ON_FAULT."""
    if on_fault not in ON_FAULT:
        raise InputError(f"on_fault out of {', '.join(ON_FAULT)}", repr(on_fault), "Choose one of them.")
