"""The one door by which commands end: done, interrupted, or failed with a sentence."""

from __future__ import annotations

import argparse
import io
import sys
import traceback
from collections.abc import Callable, Sequence

from .errors import StarcasterError, explained
from .signals import INTERRUPTED, interruptible

DEBUG = "--debug"


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the option that shows tracebacks."""
    parser.add_argument(
        DEBUG, action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error as well"
    )


def run_command(name: str, work: Callable[[], object], arguments: Sequence[str] | None = None) -> int:
    """Call `work` and return the exit code: 0 done, 1 failed, 130 interrupted. Whatever fails is said in one sentence.

    arguments: the command's words, the process's own by default; with DEBUG among them the traceback is shown as well.
    argparse's own exit, 2 for wrong usage, passes through.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a finished run
    try:
        with interruptible():
            work()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if DEBUG in (sys.argv if arguments is None else arguments):
            traceback.print_exc()
        print(f"error: {explained(error) or unforeseen(name, error)}", file=sys.stderr)
        return 1
    return 0


def unforeseen(name: str, error: Exception) -> StarcasterError:
    """Return an error of the program as a sentence."""
    got = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return StarcasterError(f"to {name}", got, f"This was not foreseen: add {DEBUG} and report what it shows.")
