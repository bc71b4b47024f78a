"""File names that stay where they should."""

from __future__ import annotations

import os
import re
from pathlib import Path

from ..errors import InputError, shown
from ..files import LONGEST_NAME

LONGEST = 200  # bytes of a part; file systems take 255, and a counter and a suffix are added
LONGEST_PATH = 4000  # bytes; Linux takes 4096
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
FIX = "Use letters, digits, spaces, - and _; a / puts the file into a folder inside the output folder."


def check_name(prefix: str) -> str:
    """The same file name prefix, when it names a place inside the output folder on every operating system.

    Raises InputError for an empty prefix, parts of more than LONGEST bytes, absolute paths, drive letters, `..`, NUL
    and other control characters, the characters < > : " | ? * and backslash, Windows' device names, and parts that end
    in a dot or space.
    """
    if not isinstance(prefix, str) or not prefix.strip():
        raise _refusal("nothing")
    longest = max(len(part.encode("utf-8", "replace")) for part in prefix.split("/"))
    if longest > LONGEST or len(prefix) > 5 * LONGEST:
        raise _refusal(f"one of {max(longest, len(prefix))} bytes, more than {LONGEST}")
    if re.search(r"[\x00-\x1f\x7f\ud800-\udfff]", prefix):
        raise _refusal(f"{prefix!r} with a control character")
    if prefix.startswith("/") or re.match(r"[A-Za-z]:", prefix):
        raise _refusal(f"{prefix!r}, an absolute path")
    if reserved := re.search(r'[<>:"|?*\\]', prefix):
        raise _refusal(f"{prefix!r} with the reserved character {reserved.group()}")
    for part in prefix.split("/"):
        if part in ("", ".", ".."):
            raise _refusal(f"{prefix!r}, which leaves its folder or has an empty part")
        if part[-1] in ". ":
            raise _refusal(f"{prefix!r}, where a part ends in a dot or a space")
        if DEVICES.fullmatch(part):
            raise _refusal(f"{prefix!r}, where {part} is a device name on Windows")
    return prefix


def _refusal(got: str) -> InputError:
    return InputError("a file name inside the output folder", got, FIX)


def check_output(path: Path, folder: bool = False) -> None:
    """Raise InputError unless a file can be written at `path`, as far as one can tell beforehand; folder: or a folder.

    Missing folders on the way are fine. Refused are addresses, names too long for a disk, folders in the place of the
    file, files in the place of folders, and folders without the permission to write.
    """
    wanted, text = "a place for a new file on this computer", shown(path, 160)
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(path)):
        raise InputError(wanted, f"the address {text}", "Write to a local file and copy it from there.")
    if "\0" in str(path):
        raise InputError(wanted, f"a name with a NUL in it: {text}", "Choose another name.")
    size = max((len(os.fsencode(part)) for part in path.parts), default=0)
    if size > LONGEST_NAME:
        raise InputError(f"names of at most {LONGEST_NAME} bytes", f"one of {size}: {text}", "Choose a shorter name.")
    if len(os.fsencode(os.path.abspath(path))) > LONGEST_PATH:
        raise InputError(f"a path of at most {LONGEST_PATH} bytes", f"a longer one: {text}", "Choose a shorter one.")
    if path.is_dir() and not folder:
        raise InputError(wanted, f"{text}, which is a folder", "Add a file name.")
    above = next((parent for parent in Path(os.path.abspath(path)).parents if os.path.lexists(parent)), Path("/"))
    if not above.is_dir():
        raise InputError("a folder to write into", f"{shown(above, 160)}, which is a file", "Choose another folder.")
    if not os.access(above, os.W_OK):
        raise InputError(
            f"permission to write into the folder {shown(above, 160)}", "none", "Choose another folder, or change it."
        )
