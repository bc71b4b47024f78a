"""Work handed to a thread of its own, in order and a little ahead at most: decoding and encoding beside sampling."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

END = object()
PATIENCE = 0.1  # seconds between looks at whether the other side is still there


class Background:
    """Calls `work(item)` for each item put, in a thread; use it in a `with` block.

    The block ends when all items are done. What `work` raises is raised by the next `put` or at the end of the block;
    when the block is left by an exception, items that wait are dropped, and the one under way is finished up to its
    next `yield`, if `work` is a generator function.
    """

    def __init__(self, work: Callable[[Any], Any], ahead: int = 2, finish: bool = False):
        """ahead: items that may wait; `put` blocks while there are as many, so memory is bounded. finish: items that
        wait are done, too, when the block is left by an exception."""
        self._work, self._items, self._finish = work, queue.Queue(maxsize=ahead), finish
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="starcaster video", daemon=True)

    def __enter__(self) -> Background:
        self._thread.start()
        return self

    def put(self, item: Any) -> None:
        while True:
            self._raise()
            if self._stopped.is_set():
                raise RuntimeError("Background.put after the work was stopped")
            try:
                return self._items.put(item, timeout=PATIENCE)
            except queue.Full:
                continue

    def __exit__(self, kind, *_) -> None:
        try:
            if kind is None:
                self.put(END)
            elif self._finish:
                with suppress(BaseException):  # of the work: the one that ended the block matters
                    self.put(END)
            else:
                self._stopped.set()
        finally:
            self._thread.join()
        if kind is None:
            self._raise()

    def _run(self) -> None:
        while not self._stopped.is_set():
            try:
                item = self._items.get(timeout=PATIENCE)
            except queue.Empty:
                continue
            if item is END:
                return
            try:
                steps = self._work(item)
                for _ in steps if isinstance(steps, Iterator) else ():
                    if self._stopped.is_set():
                        return
            except BaseException as error:  # noqa: BLE001  raised again where it can be seen
                self._error = error
                return

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            self._stopped.set()
            raise error


def one_ahead(work: Callable[[Any], Any], items: Iterable) -> Iterator:
    """Yield `work(item)` of items, in order; a thread computes the next one while one is used.

    What `work` raises is raised in its item's place. Left early, the iteration waits for the work under way.
    """
    with ThreadPoolExecutor(1, "starcaster ahead") as pool:
        begun: deque[Future] = deque()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > 1:
                    yield begun.popleft().result()
            for last in begun:
                yield last.result()
        finally:
            pool.shutdown(cancel_futures=True)
