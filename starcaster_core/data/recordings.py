"""Recorded speech with its words, and when each sound is heard.

A folder holds sound files and `speech.tsv`: tab-separated columns file, speaker, text and, where texts are a
recogniser's, qc, how sure of one it was (0..1). Speakers are held out by a hash of their name (`splits.py`).
"""

from __future__ import annotations

import csv
import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..errors import InputError
from ..files import atomic_write
from ..speech import load_audio, mono16k
from .aligner import STEP, align_steps
from .phonemes import CLASS_NAMES
from .splits import split_of
from .tts import ARPABET_SYMBOLS, Utterance, utterance

TABLE = "speech.tsv"
SURE = 0.9  # texts of less are left out


@dataclass(frozen=True)
class Recording:
    """samples: 16 kHz, mono, float32 [N], in -1..1. steps: the phoneme class of each hundredth of a second, int64
    [N // STEP]."""

    samples: np.ndarray
    steps: np.ndarray
    speaker: str
    text: str

    @property
    def starts(self) -> np.ndarray:
        """The steps at which another class begins, int64 [P]."""
        return np.flatnonzero(np.diff(self.steps, prepend=-1))

    def utterance(self) -> Utterance:
        """Return it as a synthesizer would say it."""
        names = [CLASS_NAMES[number] for number in self.steps[self.starts]]
        symbols = [ARPABET_SYMBOLS.get(name, name) for name in names]
        pcm = (self.samples * 32767).clip(-32768, 32767).astype(np.int16)
        return utterance(pcm, 100 * STEP, list(zip((self.starts / 100).tolist(), symbols)))


def table_rows(folder: Path) -> list[dict[str, str]]:
    """Read the table of a folder of recorded speech. Raises InputError where there is none, or it lacks columns."""
    path = folder / TABLE
    if not path.is_file():
        raise InputError("a folder of recorded speech", f"{folder} without {TABLE}", "Check the path.")
    with path.open(encoding="utf8", newline="") as file:
        found = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    missing = {"file", "speaker", "text"} - set(found[0] if found else ())
    if missing:
        raise InputError(
            f"{TABLE} with columns file, speaker and text", f"no {', '.join(sorted(missing))}", "Add them."
        )
    return found


def speakers_rows(folder: Path, held_out: bool) -> list[dict[str, str]]:
    """Return the rows of training speakers, or of held-out ones, whose texts are sure."""
    return [
        row
        for row in table_rows(folder)
        if (split_of("speaker", row["speaker"]) != "train") == held_out and float(row.get("qc") or 1) >= SURE
    ]


def read_recording(folder: Path, row: dict[str, str], cache: Path | None = None) -> Recording | None:
    """Read and align a row's utterance; None where its words do not fit.

    cache: folder that keeps the alignments for the next time. Raises MissingDependencyError without pocketsphinx,
    AudioError for a file that is no sound.
    """
    samples = mono16k(*load_audio(folder / row["file"])).numpy()
    steps = _aligned(samples, row["text"], cache)
    return None if steps is None else Recording(samples, steps, row["speaker"], row["text"])


def _aligned(samples: np.ndarray, text: str, cache: Path | None) -> np.ndarray | None:
    """`align_steps`, from the folder `cache` if it has been aligned before; what does not fit is kept as empty."""
    if cache is None:
        return align_steps(samples, text)
    path = cache / f"{hashlib.sha256(samples.tobytes() + text.encode()).hexdigest()[:24]}.npy"
    if not path.exists():
        steps = align_steps(samples, text)
        with atomic_write(path) as part, part.open("wb") as file:
            np.save(file, np.zeros(0, np.int8) if steps is None else steps.astype(np.int8))
    steps = np.load(path).astype(np.int64)
    return steps if len(steps) else None
