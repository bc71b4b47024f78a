"""What Ctrl-C, `kill` and a closed terminal do to a command: one sentence, and never a traceback."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

STOPPING = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]
INTERRUPTED = 130  # exit code, as shells give it


@contextmanager
def ending_at_once() -> Iterator[None]:
    """In this block a signal ends the process. It is for imports: nothing has begun that could be lost, and an
    exception in the middle of one could come out as anything."""
    with handling(_end):
        yield


@contextmanager
def interruptible() -> Iterator[None]:
    """In this block every such signal raises KeyboardInterrupt, so that what was begun is put in order."""
    with handling(_raise):
        yield


@contextmanager
def handling(handler: Callable) -> Iterator[None]:
    """Handle the signals by `handler` in this block. Ignored ones stay ignored, as `nohup` wants.

    Only the main thread may say so; in others the block changes nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in STOPPING}
    for number, old in before.items():
        if old is not signal.SIG_IGN:
            signal.signal(number, handler)
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, signal.SIG_DFL if old is None else old)


def _end(number, frame) -> None:
    os.write(2, b"interrupted\n")
    os._exit(INTERRUPTED)


def _raise(number, frame) -> None:
    raise KeyboardInterrupt
