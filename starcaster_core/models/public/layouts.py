"""From the names in a published file to ours: recognise the layout, rename, and refuse whatever does not fit
exactly."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from ...errors import CheckpointError
from .weights import Lazy, open_weights, weights_file

Shapes = dict[str, tuple[int, ...]]
NAMED = 5  # names of each kind in an error


@dataclass(frozen=True)
class Layout:
    """One way in which a network's weights are named.

    name: for people, and for the assembled file's metadata.
    sign: a pattern that one of its names matches and no name of the other layouts does.
    rename: names in the file -> {our name: name in the file}.
    ignored: a pattern of names that are left out on purpose, such as heads that only training needs.
    """

    name: str
    sign: str
    rename: Callable[[Iterable[str]], dict[str, str]]
    ignored: str = r"$^"


@dataclass(frozen=True)
class Part:
    """What was read from one file: tensors by our names, and what the metadata should say about it."""

    file: Path
    layout: str
    weights: dict[str, Lazy]
    facts: dict = field(default_factory=dict)


def read_part(path: str | Path, title: str, layouts: tuple[Layout, ...], expected: Shapes) -> Part:
    """The weights of a network from a file or folder, all of them and nothing else.

    title: what it is called in errors, with its article. expected: shapes by our names.
    Raises CheckpointError naming missing, unexpected and misshapen weights.
    """
    file = weights_file(path, title)
    found = open_weights(file, title)
    layout, renamed = recognise(found, file, title, layouts)
    return Part(file, layout.name, fit(renamed, expected, file, title))


def recognise(
    found: dict[str, Lazy], file: Path, title: str, layouts: tuple[Layout, ...]
) -> tuple[Layout, dict[str, Lazy]]:
    """-> the layout, and the tensors under our names; what the layout has no name for keeps its own."""
    for layout in layouts:
        if any(re.search(layout.sign, key) for key in found):
            kept = {name: lazy for name, lazy in found.items() if not re.search(layout.ignored, name)}
            names = layout.rename(kept)
            strangers = kept.keys() - set(names.values())
            return layout, {ours: kept[name] for ours, name in names.items()} | {name: kept[name] for name in strangers}
    raise CheckpointError(
        f"{title} ({' or '.join(layout.name for layout in layouts)} names)",
        f"{file.name} with {listed(found)}",
        "This is another model's file, or a layout that is not known: docs/paper-scale.md lists the files.",
    )


def fit(found: dict[str, Lazy], expected: Shapes, file: Path, title: str) -> dict[str, Lazy]:
    """The tensors in the shapes expected; a trailing 1x1 (a linear map stored as a convolution) makes no difference."""
    faults = []
    if missing := expected.keys() - found.keys():
        faults.append(f"{len(missing)} missing ({listed(missing)})")
    if unexpected := found.keys() - expected.keys():
        faults.append(f"{len(unexpected)} unexpected ({listed(unexpected)})")
    misshapen = [
        f"{name} {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in expected.items()
        if name in found and without_ones(found[name].shape) != without_ones(shape)
    ]
    if misshapen:
        faults.append(f"{len(misshapen)} of another shape ({listed(misshapen)})")
    if faults:
        raise CheckpointError(
            f"all weights of {title}, no more and no less",
            f"{file.name}: {'; '.join(faults)}",
            "It is damaged, or another model's: docs/paper-scale.md lists the files.",
        )
    return {name: found[name].reshaped(shape) for name, shape in expected.items()}


def without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    while len(shape) > 2 and shape[-1] == 1:
        shape = shape[:-1]
    return shape


def listed(names: Iterable[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def renaming(*steps: tuple[str, str]) -> Callable[[Iterable[str]], dict[str, str]]:
    """A `Layout.rename` of regular expressions, each applied in turn: (pattern, replacement)."""

    def rename(names: Iterable[str]) -> dict[str, str]:
        renamed = {}
        for name in names:
            ours = name
            for pattern, replacement in steps:
                ours = re.sub(pattern, replacement, ours)
            renamed[ours] = name
        return renamed

    return rename


def below(prefix: str, shapes: Shapes) -> Shapes:
    """The shapes whose names start with the prefix, without it."""
    return {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
