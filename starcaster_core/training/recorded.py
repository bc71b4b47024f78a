"""Recorded speech (`data/recordings.py`) as labelled utterances, to train and to measure the phonetic encoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from ..data.aligner import STEP
from ..data.phonemes import AH_OR_AX, CLASS_NAMES
from ..data.recordings import Recording, read_recording, speakers_rows
from ..speech.spectrum import levelling_gain
from .utterances import LabelledUtterance


def recorded(folder: Path, held_out: bool, cache: Path | None = None) -> list[LabelledUtterance]:
    """Read and align the utterances of training speakers, or of held-out ones; `voice` is the speaker.

    What the aligner calls "ah" is AH_OR_AX. Utterances whose words do not fit are left out. cache and errors: as for
    `read_recording`; InputError for a folder without its table.
    """
    read = (read_recording(folder, row, cache) for row in speakers_rows(folder, held_out))
    return [labelled(recording) for recording in read if recording is not None]


def labelled(recording: Recording) -> LabelledUtterance:
    """Return a recording, levelled, with its classes."""
    classes = recording.steps[recording.starts]
    classes = np.where(classes == CLASS_NAMES.index("ah"), AH_OR_AX, classes)
    gain = levelling_gain(torch.from_numpy(recording.samples)).item()
    pcm = (recording.samples * gain * 32767).clip(-32767, 32767).astype(np.int16)
    return LabelledUtterance(pcm, recording.starts * STEP, classes, recording.speaker, recording.text)
