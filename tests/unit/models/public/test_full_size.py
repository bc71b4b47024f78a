"""The paper's scale in earnest: every public file at its real size, assembled and loaded. About 7 GB of disk,
minutes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from starcaster_core.models.public.assemble import Ingredients, assemble, image_unet, motion_modules, shapes_of
from starcaster_core.models.public.layouts import below
from starcaster_core.models.public.weights import Lazy
from starcaster_core.models.public.writer import write_streaming
from starcaster_core.presets import PRESETS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
STATUS = Path("/proc/self/status")


def anonymous_memory() -> int:
    """Bytes this process holds that are not a file's."""
    line = next(line for line in STATUS.read_text().splitlines() if line.startswith("RssAnon"))
    return int(line.split()[1]) * 1024


def write_part(path: Path, shapes: dict) -> Path:
    """Half precision files of repeated noise, as large as the published ones."""
    noise = torch.randn(1 << 16, generator=torch.Generator().manual_seed(0)) * 0.02

    def read(shape):
        number = torch.Size(shape).numel()
        return noise.repeat(-(-number // len(noise)))[:number].reshape(shape)

    weights = {name: Lazy(shape, lambda shape=shape: read(shape)) for name, shape in shapes.items()}
    write_streaming(path, weights, {}, torch.float16)
    return path


@pytest.fixture
def folder(tmp_path):
    if shutil.disk_usage(tmp_path).free < 9e9:
        pytest.skip("needs 9 GB of free disk for the files")
    yield tmp_path
    shutil.rmtree(tmp_path)


@pytest.mark.skipif(not STATUS.exists(), reason="reads the memory of this process from /proc")
def test_assembling_the_real_sizes_takes_little_memory(folder):
    shapes = shapes_of(PRESETS["sd15"])
    motion = {name: shape for name, shape in motion_modules(shapes).items() if not name.endswith(".pe")}
    parts = {
        "unet": write_part(folder / "unet.safetensors", image_unet(shapes)),
        "identity_encoder": write_part(folder / "encoder.safetensors", below("identity_tokens.text.", shapes)),
        "vae": write_part(folder / "vae.safetensors", below("vae.kl.", shapes)),
        "motion": write_part(folder / "motion.safetensors", motion),
    }
    before, most = anonymous_memory(), 0

    def watch(_done, _total):
        nonlocal most
        most = max(most, anonymous_memory() - before)

    out = folder / "sd15.safetensors"
    assemble(Ingredients(**parts), out, progress=watch)
    assert out.stat().st_size > 3e9
    print(f"{out.stat().st_size / 1e9:.2f} GB written with at most {most / 1e6:.0f} MB of memory")
    assert most < 500e6

    with safe_open(out, "pt") as file, safe_open(parts["unet"], "pt") as unet:
        assert len(file.keys()) == len(shapes)
        name = "up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.weight"
        assert torch.equal(file.get_tensor(f"unet.{name}"), unet.get_tensor(name))
