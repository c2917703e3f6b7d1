"""Context managers around a training: seeded random numbers, and signals that wait for the end of a step."""

import random
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def seeded(seed: int | None) -> Iterator[None]:
    """Seed the random numbers of torch, NumPy and Python inside; their former state is restored afterwards."""
    if seed is None:
        yield
        return
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 - transforms draw from the global state
    with torch.random.fork_rng():
        random.seed(seed)
        # NumPy takes 32 bits only.
        np.random.seed(seed % 2**32)  # noqa: NPY002
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)  # noqa: NPY002


@contextmanager
def stopping(also_interrupt: bool) -> Iterator[threading.Event]:
    """Defer SIGTERM until the step is done, if in the main thread.

    So is Ctrl-C if a checkpoint can be written; a second one interrupts at once.
    """
    asked = threading.Event()
    # Python only lets the main thread set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def ask(*_: Any) -> None:
        asked.set()
        signal.signal(signal.SIGINT, before[signal.SIGINT])

    signal.signal(signal.SIGTERM, ask)
    if also_interrupt:
        signal.signal(signal.SIGINT, ask)
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
