"""The journal of a render: every finished chunk on the disk, so that a later run goes on after the last whole one.

    with open_journal(folder, key, chunks, size, say=print) as journal:
        for chunk in rollout(model, conditions, settings, journal=journal): ...
        journal.remove()        # or journal.finish(), to keep it

A journal is the folder `<folder>/<key>`; `render_key` makes the key, so a changed input or setting is another journal.
A chunk is a file of its latents, with the digest of the chunk before: torn, foreign and outdated files break this chain
and are made again. What the next chunk needs besides latents follows from the conditions. A journal never stops a
render: where the disk fails, the render goes on without.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import Tensor

from ..files import atomic_write, sweep_parts
from ..locks import LOCK, FolderLock
from .render_key import bytes_of

FORMAT = "starcaster-journal-1"
BUDGET = 8 * 2**30  # bytes of all journals in a folder
SPARE = 256 * 2**20  # bytes of the disk that are left free
TWINS = 4  # renders of the same video at once that have a journal
FINISHED = "finished"  # a file that says so
NAME = re.compile(r"[0-9a-f]{32}(_\d)?")  # of a journal's folder


class NoJournal:
    """Keeps nothing."""

    def read(self, index: int, keeps: Callable[[Tensor], bool] = lambda latents: True) -> Tensor | None:
        """Return the latents of a finished chunk [1, C, T, h, w], float32 on the CPU.

        None where there are none, or `keeps` refuses them: then they count as never made.
        """
        return None

    def holds(self, index: int) -> bool:
        """Return whether there is a chunk, good or not."""
        return False

    def write(self, index: int, latents: Tensor) -> None:
        """Keep the latents of a finished chunk [1, C, T, h, w]."""

    def finish(self, again: int = 0) -> None:
        """Say that all chunks are kept. again: how many were made again beside them."""

    def stopped(self) -> None:
        """Say what is kept of a render that did not come to its end."""

    def remove(self) -> None:
        """Forget all chunks."""

    def close(self) -> None:
        """Let others have the journal."""


class Journal(NoJournal):
    """The chunks of one render in a folder that nobody else writes to. Chunks are read and written in order."""

    def __init__(self, folder: Path, lock: FolderLock, key: str, chunks: int, say: Callable[[str], None]):
        self.folder, self.lock, self.key, self.chunks, self.say = folder, lock, key, chunks, say
        self.last = ""  # digest of the chunk before
        self.found = self.kept = 0  # chunks read; chunks from the beginning on that are on the disk
        self.broken = False  # whether the disk failed
        self.told = False  # whether a damaged chunk was spoken of

    def read(self, index: int, keeps: Callable[[Tensor], bool] = lambda latents: True) -> Tensor | None:
        path = self.path(index)
        latents = None if self.broken or not path.exists() else self.load(path, index, keeps)
        if latents is not None:
            self.found, self.kept = self.found + 1, index + 1
        elif self.found == index > 0:
            self.say(f"Resumed at chunk {index + 1} of {self.chunks}.")
        return latents

    def load(self, path: Path, index: int, keeps: Callable[[Tensor], bool]) -> Tensor | None:
        """Return a chunk that is whole, follows the one before and may be kept; None for any other file."""
        from safetensors import SafetensorError, safe_open

        with suppress(SafetensorError, OSError, ValueError), safe_open(path, framework="pt") as file:
            facts = file.metadata() or {}
            if (facts.get("format"), facts.get("key"), facts.get("after")) == (FORMAT, self.key, self.last):
                latents = file.get_tensor("latents").clone()  # out of the file's memory map
                if facts.get("digest") == (digest := chained(self.last, latents)) and keeps(latents):
                    self.last = digest
                    return latents
        if not self.told:
            self.say(f"The journal's chunk {index + 1} is damaged, faulty or of another render: it is made again.")
            self.told = True
        return None

    def holds(self, index: int) -> bool:
        return self.path(index).exists()

    def write(self, index: int, latents: Tensor) -> None:
        from safetensors.torch import save_file

        latents = latents.detach().cpu().contiguous()
        after, self.last = self.last, chained(self.last, latents)
        if self.broken:
            return
        facts = {"format": FORMAT, "key": self.key, "after": after, "digest": self.last}
        try:
            with atomic_write(self.path(index), durable=True) as part:
                save_file({"latents": latents}, part, facts)
            self.kept = index + 1
        except Exception as error:  # safetensors raises its own kinds for a full disk
            self.broken = True
            self.say(f"The journal cannot be written ({error}): what is made from here on is lost if the render stops.")

    def finish(self, again: int = 0) -> None:
        if again:
            self.say(f"{again} of {self.chunks} chunks were made again; the journal keeps them as they were.")
        elif self.found == self.chunks:
            self.say(f"All {self.chunks} chunks were in the journal.")
        with suppress(OSError):
            (self.folder / FINISHED).touch()

    def stopped(self) -> None:
        if self.kept:
            self.say(f"{self.kept} of {self.chunks} chunks are kept: the same render goes on from there.")

    def remove(self) -> None:
        remove_journal(self.folder, self.lock)
        with suppress(OSError):
            self.folder.parent.rmdir()  # where it was the only one

    def close(self) -> None:
        self.lock.release()

    def path(self, index: int) -> Path:
        return self.folder / f"chunk_{index:05}.safetensors"


def chained(after: str, latents: Tensor) -> str:
    """Return a digest of a chunk's latents and, by the digest of the one before, of all before it."""
    digest = hashlib.blake2b(json.dumps([after, str(latents.dtype), *latents.shape]).encode(), digest_size=16)
    digest.update(bytes_of(latents))
    return digest.hexdigest()


@contextmanager
def open_journal(
    root: str | os.PathLike,
    key: str,
    chunks: int,
    size: int,
    say: Callable[[str], None] = lambda sentence: None,
    budget: int = BUDGET,
) -> Iterator[NoJournal]:
    """Yield the journal of a render.

    root: folder of all journals, made where it is missing. key: from `render_key`. chunks, size: of the whole render,
    size in bytes. say: told in a sentence where the render resumes and what could not be kept. budget: bytes of all
    journals in `root`; to keep to it others are removed, see `prune`.
    Where there is no room, or the folder cannot be written to, the render has none, and `say` is told.
    """
    journal = NoJournal()
    try:
        for folder in twins(Path(root), key):
            folder.mkdir(parents=True, exist_ok=True)
            if lock := FolderLock.take(folder):
                journal = Journal(folder, lock, key, chunks, say)
                make_room(folder, size, budget)
                break
        else:
            say("The same video is being made elsewhere: this render is lost if it stops.")
    except OSError as error:
        journal.close()
        journal = NoJournal()
        say(f"No journal is kept ({error}): the render is lost if it stops.")
    try:
        yield journal
    except BaseException:
        journal.stopped()
        raise
    finally:
        journal.close()


def twins(root: Path, key: str) -> list[Path]:
    """Return the folders that renders of one video may have: one each, where several run at once."""
    return [root / key, *(root / f"{key}_{number}" for number in range(2, TWINS + 1))]


def make_room(folder: Path, size: int, budget: int) -> None:
    """Remove leftovers and older journals. Raises OSError where there is no room for `size` bytes nevertheless."""
    sweep_parts(folder)
    (folder / FINISHED).unlink(missing_ok=True)
    if size > budget:
        raise OSError(f"it would take {size / 1e9:.1f} GB, and all journals may take {budget / 1e9:.1f} GB")
    prune(folder.parent, budget - size, keep=folder)
    missing = size - used(folder)
    if missing + SPARE > (free := shutil.disk_usage(folder).free):
        raise OSError(f"it would take {missing / 1e9:.1f} GB, and the disk has {free / 1e9:.1f} GB left")


def prune(root: Path, budget: int, keep: Path) -> None:
    """Remove journals until all but `keep` take at most `budget` bytes.

    Finished ones go first, then those that a render could still go on with; of each kind the oldest first. What another
    process holds stays.
    """
    others = [folder for folder in root.iterdir() if NAME.fullmatch(folder.name) and folder.is_dir() and folder != keep]
    others.sort(key=lambda folder: (not (folder / FINISHED).exists(), folder.stat().st_mtime))
    sizes = {folder: used(folder) for folder in others}
    for folder in others:
        if sum(sizes.values()) <= budget:
            return
        if lock := FolderLock.take(folder):
            remove_journal(folder, lock)
            del sizes[folder]


def remove_journal(folder: Path, lock: FolderLock) -> None:
    """Remove a journal as far as the system lets one, and release its lock, at last, since Windows keeps open files."""
    for path in folder.iterdir():
        if path.name != LOCK:
            with suppress(OSError):
                path.unlink()
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def used(folder: Path) -> int:
    """Return the bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir() if path.is_file())
