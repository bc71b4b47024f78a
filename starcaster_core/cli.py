"""The command line: everything the node pack does, and the training, without ComfyUI."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import threading
import traceback
from importlib import import_module

from .errors import StarcasterError, explained

DEBUG = "--debug"

# command -> (module with add_arguments(parser) and run(args), one line of help)
COMMANDS = {
    "generate": ("generate", "make a talking portrait: picture + voice + camera path -> video"),
    "synth": ("data.synth", "make synthetic talking heads with exact ground truth"),
    "clips": ("data.clips", "turn a folder of real videos into training clips"),
    "train": ("training.portrait", "train a model, stage after stage"),
    "evaluate": ("evaluation.evaluate", "measure a model on held-out clips"),
    "assemble": ("models.public.assemble", "make one paper-scale checkpoint out of public weights"),
    "delta": ("models.public.delta", "make a small file of what training added to the public weights"),
    "bench": ("benchmark", "measure seconds of computing per second of video"),
    "bench-gpu": ("benchmark.gpu", "measure the paper's scale on a GPU, with random weights"),
}


def build_parser(command: str | None) -> argparse.ArgumentParser:
    """Only the module of the command that was asked for is imported."""
    parser = argparse.ArgumentParser(
        prog="python -m starcaster_core" if sys.argv[0].endswith("__main__.py") else "starcaster",
        description="STARCaster: talking portraits by autoregressive video diffusion.",
    )
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, (module, summary) in COMMANDS.items():
        sub = commands.add_parser(
            name, help=summary, description=summary, formatter_class=argparse.ArgumentDefaultsHelpFormatter
        )
        sub.add_argument(
            DEBUG, action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error as well"
        )
        if name == command:
            import_module(f".{module}", __package__).add_arguments(sub)
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Whatever fails is said in one sentence; `--debug` shows the traceback as well.

    Exit codes: 0 done, 1 failed, 2 wrong usage, 130 interrupted.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a finished run
    command = next((word for word in arguments if word in COMMANDS), None)
    before = on_being_told_to_stop(interrupt)
    try:
        args = build_parser(command).parse_args(arguments)
        import_module(f".{COMMANDS[args.command][0]}", __package__).run(args)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if DEBUG in arguments:
            traceback.print_exc()
        print(f"error: {explained(error) or unforeseen(command, error)}", file=sys.stderr)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def on_being_told_to_stop(handler) -> dict:
    """Handle what the system sends to end a program as Ctrl-C is: temporary files are removed. Return the old handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number in numbers}


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def unforeseen(command: str | None, error: Exception) -> StarcasterError:
    """Return an error of the program as a sentence."""
    got = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return StarcasterError(f"to {command}", got, f"This was not foreseen: add {DEBUG} and report what it shows.")
