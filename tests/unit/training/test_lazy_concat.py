"""Encoded clips that stay on disk are indexed as if they were in memory, and are not read before."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from safetensors.torch import save_file

from starcaster_core.errors import InputError
from starcaster_core.training.latents import ClipSet, load_clips
from starcaster_core.training.lazy_concat import LazyConcat


@pytest.fixture
def parts() -> list[torch.Tensor]:
    return [torch.randn(n, 10, 3, 2, generator=torch.Generator().manual_seed(n)) for n in (4, 1, 5)]


def test_indexed_like_one_tensor(parts):
    rows, whole = LazyConcat(parts), torch.cat(parts)
    assert rows.shape == whole.shape and len(rows) == 10
    chosen, at = torch.tensor([0, 9, 4, 4]), torch.tensor([[0, 1, 2], [7, 8, 9], [3, 3, 3], [5, 0, 5]])
    for index in ((chosen[:, None], at), (chosen, at[:, 0]), 3, -1, (5, slice(2, 4)), (4, 7), chosen):
        assert torch.equal(rows[index], whole[index])
    assert torch.equal(rows[2, at[0]], whole[2, at[0]])
    with pytest.raises(IndexError):
        rows[10]


def write(folder, clips: int, frames: int, side: int, leave_out: str = "") -> None:
    fields = {
        "latents": torch.zeros(clips, frames, 16, side, side).half(),
        "speech": torch.zeros(clips, frames, 64).half(),
        "camera": torch.zeros(clips, frames, 25),
        "mouth": torch.zeros(clips, frames, 4),
        "eyes": torch.zeros(clips, frames, 4),
        "head_motion": torch.zeros(clips, frames, 7),
        "embedding": torch.zeros(clips, 128),
        "kind": torch.zeros(clips, dtype=torch.long),
        "split": torch.zeros(clips, dtype=torch.long),
        "identity": torch.zeros(clips, dtype=torch.long),
    }
    assert fields.keys() == ClipSet.__annotations__.keys()
    fields.pop(leave_out, None)
    save_file(fields, folder / f"shard-{len(list(folder.iterdir()))}.safetensors")


READ = """
import sys
from pathlib import Path
from starcaster_core.training.latents import load_clips

def held():  # MB, anonymous and mapped
    lines = Path("/proc/self/status").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssFile"))) / 1024

before = held()
clips = load_clips(Path(sys.argv[1]))
clips.latents[3, :16].float().sum()
print(held() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_latents_stay_on_disk_until_they_are_asked_for(tmp_path):
    for _ in range(2):
        write(tmp_path, clips=16, frames=100, side=32)  # 50 MB
    done = subprocess.run([sys.executable, "-c", READ, str(tmp_path)], capture_output=True, text=True, check=True)
    assert float(done.stdout) < 20
    assert load_clips(tmp_path).latents.shape == (32, 100, 16, 32, 32)


def test_clips_of_an_earlier_version_are_refused(tmp_path):
    write(tmp_path, 2, 4, 2)
    write(tmp_path, 2, 4, 2, leave_out="head_motion")
    with pytest.raises(InputError, match=r"shard-1.safetensors without head_motion.*Encode them again"):
        load_clips(tmp_path)
    with pytest.raises(InputError, match="none in"):
        load_clips(tmp_path / "nothing")
