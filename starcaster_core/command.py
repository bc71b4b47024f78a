"""The one door by which commands end: done, interrupted, or failed with a sentence."""

from __future__ import annotations

import argparse
import io
import signal
import sys
import threading
import traceback
from collections.abc import Callable

from .errors import StarcasterError, explained

DEBUG = "--debug"


def add_debug(parser: argparse.ArgumentParser) -> None:
    """Add the option that shows tracebacks."""
    parser.add_argument(
        DEBUG, action="store_true", default=argparse.SUPPRESS, help="show the traceback of an error as well"
    )


def run_command(name: str, work: Callable[[], object], debug: bool) -> int:
    """Call `work` and return the exit code: 0 done, 1 failed, 130 interrupted. Whatever fails is said in one sentence.

    debug: show the traceback as well. argparse's own exit, 2 for wrong usage, passes through.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name that is no text must not end a finished run
    before = on_being_told_to_stop(interrupt)
    try:
        work()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except Exception as error:
        if debug:
            traceback.print_exc()
        print(f"error: {explained(error) or unforeseen(name, error)}", file=sys.stderr)
        return 1
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return 0


def on_being_told_to_stop(handler) -> dict:
    """Handle what the system sends to end a program as Ctrl-C is: temporary files are removed. Return the old
    handlers."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    return {number: signal.signal(number, handler) or signal.SIG_DFL for number in numbers}


def interrupt(*_) -> None:
    raise KeyboardInterrupt


def unforeseen(name: str, error: Exception) -> StarcasterError:
    """Return an error of the program as a sentence."""
    got = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
    return StarcasterError(f"to {name}", got, f"This was not foreseen: add {DEBUG} and report what it shows.")
