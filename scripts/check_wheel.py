"""Build the wheel, install it into a fresh environment and render one second there with the `starcaster` command.

    python scripts/check_wheel.py

The environment is new but for the dependencies: a .pth file shows it the packages of the Python that runs this script,
because a torch of its own would be 5 GB. The package itself must come from the wheel, and the command runs in an empty
folder. An editable install is made and imported the same way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
CORE = "starcaster_core"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "NOTICE")
SECONDS, FPS = 1, 25
WHERE = f"import {CORE}; print({CORE}.__file__)"
PROBE = f"import sys; from {CORE}.video.probe import probe; v = probe(sys.argv[1]); print(v.frames, v.audio_codec)"


def main() -> None:
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="starcaster-wheel-") as folder:
        scratch = Path(folder).resolve()
        source = copy_sources(scratch / "source")
        wheel = build(source, scratch / "dist")
        say(f"{wheel.name}, {wheel.stat().st_size / 1e6:.0f} MB")
        check_contents(wheel)
        python = make_environment(scratch / "installed")
        install(python, wheel)
        check_render(python, scratch)
        editable = make_environment(scratch / "editable")
        install(editable, "--editable", source)
        check_origin(editable, source, scratch)
    say(f"built, installed and rendered in {time.monotonic() - started:.0f} s")


def copy_sources(target: Path) -> Path:
    """Copy what a wheel is made from. A `build` folder in the checkout would carry old files into it."""
    shutil.copytree(REPO / CORE, target / CORE, ignore=shutil.ignore_patterns("__pycache__", ".*"))
    for name in SOURCES:
        shutil.copy(REPO / name, target)
    return target


def build(source: Path, target: Path) -> Path:
    pip("wheel", "--no-deps", "--wheel-dir", target, source)
    (wheel,) = target.glob("*.whl")
    return wheel


def check_contents(wheel: Path) -> None:
    """Compare the wheel with the folder: every file of the core, code and data, and nothing beside it."""
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    skipped = ("__pycache__", ".DS_Store")
    paths = [path for path in (REPO / CORE).rglob("*") if path.is_file() and not {*path.parts} & {*skipped}]
    wanted = {path.relative_to(REPO).as_posix() for path in paths}
    if names != wanted:
        sys.exit(
            f"The wheel should hold the files of {CORE} and no others. Missing: {sorted(wanted - names) or 'none'}; "
            f"too many: {sorted(names - wanted) or 'none'}. Correct [tool.setuptools] in pyproject.toml."
        )


def make_environment(folder: Path) -> Path:
    """Make an empty environment that also sees this Python's packages, and return its Python."""
    run([sys.executable, "-m", "venv", "--without-pip", folder])
    python = binary(folder, "python")
    packages = Path(output([python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"]))
    shared = {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}
    (packages / "dependencies.pth").write_text("\n".join(sorted(shared)) + "\n")
    return python


def install(python: Path, *what: object) -> None:
    pip("install", "--no-deps", *what, python=python)


def check_render(python: Path, scratch: Path) -> None:
    """Render a second of the shipped portrait and voice, and count its frames."""
    package = check_origin(python, python.parents[1], scratch)
    assets, video = package / "assets", scratch / "one_second.mp4"
    command = binary(python.parents[1], "starcaster")
    if not command.exists():
        sys.exit("The wheel should bring the command `starcaster`. Name it in [project.scripts] of pyproject.toml.")
    usage = output([command, "--help"], cwd=scratch).split("\n")[0]
    if not usage.startswith("usage: starcaster "):
        sys.exit(f"`starcaster --help` should begin with 'usage: starcaster', but says {usage!r}.")
    run([command, "generate", "--portrait", assets / "portrait.png", "--speech", assets / "voice.flac",
         "--camera", "orbit", "--seconds", SECONDS, "--seed", 1, "--out", video], cwd=scratch)  # fmt: skip
    frames, audio = output([python, "-c", PROBE, video], cwd=scratch).split()
    if int(frames) != SECONDS * FPS or audio == "None":
        sys.exit(f"The video should have {SECONDS * FPS} frames and sound, but has {frames} and audio {audio}.")


def check_origin(python: Path, inside: Path, cwd: Path) -> Path:
    """Return the folder the package is imported from, which must lie inside `inside`."""
    package = Path(output([python, "-c", WHERE], cwd=cwd)).resolve().parent
    if not package.is_relative_to(inside):
        sys.exit(f"{CORE} should be imported from {inside}, but is from {package}.")
    return package


def binary(environment: Path, name: str) -> Path:
    return environment / ("Scripts" if os.name == "nt" else "bin") / (name + (".exe" if os.name == "nt" else ""))


def pip(*arguments: object, python: Path | None = None) -> None:
    target = ["--python", python] if python else []
    run([sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", *target, *arguments])


def run(command: list[object], cwd: Path | None = None) -> None:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean_environment())
    if done.returncode:
        sys.exit(f"This command failed ({done.returncode}): {' '.join(map(str, command))}")


def output(command: list[object], cwd: Path | None = None) -> str:
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=clean_environment(), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"This command failed ({done.returncode}): {' '.join(map(str, command))}")
    return done.stdout.strip()


def clean_environment() -> dict[str, str]:
    """Return the environment without what would show Python the checkout."""
    return {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}


def say(message: str) -> None:
    print(f"[wheel] {message}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
