"""A thread that runs an event loop's tasks one after the other."""

import asyncio
import queue
import threading
from collections.abc import Callable
from typing import Any


class Thread:
    """One thread that runs its tasks in turn. A pass that never returns does not keep the process alive."""

    def __init__(self) -> None:
        self._given: queue.SimpleQueue[Any] = queue.SimpleQueue()
        threading.Thread(target=self._work, name="passes", daemon=True).start()

    def run(self, work: Callable[[], Any]) -> "asyncio.Future[Any]":
        """The result or exception of `work`, in the caller's event loop."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._given.put((work, loop, future))
        return future

    def end(self) -> None:
        self._given.put(None)

    def _work(self) -> None:
        while (given := self._given.get()) is not None:
            work, loop, future = given
            try:
                found, error = work(), None
            except Exception as raised:  # noqa: BLE001 - goes to the caller
                found, error = None, raised
            try:
                loop.call_soon_threadsafe(_settle, future, found, error)
            except RuntimeError:  # the loop is closed: no caller is left
                return


def _settle(future: "asyncio.Future[Any]", found: Any, error: Exception | None) -> None:
    if future.done():  # cancelled meanwhile
        return
    if error is None:
        future.set_result(found)
    else:
        future.set_exception(error)
