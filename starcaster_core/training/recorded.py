"""Recorded speech with its words, aligned, to train and to measure the phonetic encoder.

A folder holds sound files and `speech.tsv`: tab-separated columns file, speaker, text and, where texts are a
recogniser's, qc, how sure of one it was (0..1). Speakers are held out by a hash of their name (`data/splits.py`).
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import torch

from ..data.aligner import STEP, align_steps
from ..data.phonemes import AH_OR_AX, CLASS_NAMES
from ..data.splits import split_of
from ..errors import InputError
from ..files import atomic_write
from ..speech import load_audio, mono16k
from ..speech.spectrum import levelling_gain
from .utterances import LabelledUtterance

TABLE = "speech.tsv"
SURE = 0.9  # texts of less are left out


def recorded(folder: Path, held_out: bool, cache: Path | None = None) -> list[LabelledUtterance]:
    """Read and align the utterances of training speakers, or of held-out ones; `voice` is the speaker.

    What the aligner calls "ah" is AH_OR_AX. cache: folder that keeps the alignments for the next time. Utterances whose
    words do not fit are left out. Raises InputError for a folder without its table, MissingDependencyError without
    pocketsphinx, AudioError for a file that is no sound.
    """
    found = []
    for row in rows(folder):
        if (split_of("speaker", row["speaker"]) != "train") == held_out and float(row.get("qc") or 1) >= SURE:
            samples = mono16k(*load_audio(folder / row["file"]))
            steps = _aligned(samples.numpy(), row["text"], cache)
            if steps is not None:
                found.append(labelled(samples, steps, row["speaker"], row["text"]))
    return found


def rows(folder: Path) -> list[dict[str, str]]:
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


def labelled(samples: torch.Tensor, steps: np.ndarray, voice: str = "", text: str = "") -> LabelledUtterance:
    """Make a levelled utterance of samples [N] and the class of each hundredth of a second, int [N // STEP]."""
    first = np.flatnonzero(np.diff(steps, prepend=-1))
    classes = np.where(steps[first] == CLASS_NAMES.index("ah"), AH_OR_AX, steps[first])
    pcm = (samples * levelling_gain(samples) * 32767).clamp(-32767, 32767).numpy().astype(np.int16)
    return LabelledUtterance(pcm, first * STEP, classes, voice, text)


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
