"""File names that stay where they should."""

from __future__ import annotations

import re

from ..errors import InputError

LONGEST = 200  # characters; file systems take 255, and a counter and a suffix are added
DEVICES = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
FIX = "Use letters, digits, spaces, - and _; a / puts the file into a folder inside the output folder."


def check_name(prefix: str) -> str:
    """The same file name prefix, when it names a place inside the output folder on every operating system.

    Raises InputError for an empty or overlong prefix, absolute paths, drive letters, `..`, NUL and other control
    characters, the characters < > : " | ? * and backslash, Windows' device names, and parts that end in a dot or space.
    """
    if not isinstance(prefix, str) or not prefix.strip():
        raise _refusal("nothing")
    if len(prefix) > LONGEST:
        raise _refusal(f"{len(prefix)} characters, more than {LONGEST}")
    if re.search(r"[\x00-\x1f\x7f]", prefix):
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
