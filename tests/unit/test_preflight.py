"""What cannot be made is refused with the numbers, before work is begun; what can be made is not."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from starcaster_core import preflight
from starcaster_core.errors import InputError
from starcaster_core.preflight import LEAST, check_disk, check_memory, free_memory
from starcaster_core.video import FORMATS, write_video

PHOTO = Path(preflight.__file__).parent / "assets" / "portrait.png"


def test_every_format_has_a_least_size():
    assert LEAST.keys() == FORMATS.keys()


@pytest.mark.parametrize("format", FORMATS)
def test_a_video_that_no_disk_holds_is_refused_with_the_numbers(tmp_path, format):
    with pytest.raises(
        InputError, match=r"at least \d+\.\d GB of free disk for 2000000000000 frames of 512x512, got \d"
    ):
        check_disk(tmp_path / "missing" / "o", 2 * 10**12, 512, 512, format)
    check_disk(tmp_path / "missing" / "o", 250, 512, 512, format)


@pytest.mark.parametrize("format", FORMATS)
def test_the_least_is_less_than_a_video_takes(tmp_path, format):
    """Of a photo that barely moves."""
    with Image.open(PHOTO) as image:
        photo = np.asarray(image.convert("RGB").resize((256, 256)))
    frames = [np.roll(photo, shift // 5, 1) for shift in range(50)]
    path = tmp_path / f"o{FORMATS[format].suffix}"
    write_video(path, frames, 25, format=format)
    size = sum(file.stat().st_size for file in (path.iterdir() if path.is_dir() else [path]))
    assert LEAST[format] * 50 * 256 * 256 < size


def test_memory_that_is_not_there_is_refused(monkeypatch):
    with pytest.raises(InputError, match=r"Wanted 3.0 GB of free memory for frames, got 2.0 GB. Make fewer."):
        check_memory(3e9, "frames", "Make fewer.", free=2e9)
    check_memory(1e9, "frames", "Make fewer.", free=2e9)
    monkeypatch.setattr(preflight, "free_memory", lambda: None)
    check_memory(1e18, "frames", "Make fewer.")


def test_free_memory_is_read_where_linux_tells():
    free = free_memory()
    assert free is None or 10**7 < free < 10**14
