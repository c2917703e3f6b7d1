"""Memory: the peak that tensors take in one forward pass."""

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def peak_bytes(runs: Mapping[str, Callable[[], Any]], device: torch.device) -> dict[str, int] | None:
    """Peak allocation of one pass of each, in bytes; None on a device that does not report it.

    On a CPU torch's profiler sees every tensor allocation, but not the libraries' own scratch memory. On a GPU the
    caching allocator keeps count.
    """
    if device.type == "cpu":
        return _on_cpu(runs)
    if device.type == "cuda":
        return {skip: _on_gpu(run, device) for skip, run in runs.items()}
    return None


def weight_bytes(module: nn.Module) -> int:
    """Bytes of the distinct parameters and buffers that a sub-network uses."""
    tensors = {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def input_bytes(leaves: list[Any]) -> int:
    return sum(leaf.numel() * leaf.element_size() for leaf in leaves if isinstance(leaf, Tensor))


def _on_gpu(run: Callable[[], Any], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _on_cpu(runs: Mapping[str, Callable[[], Any]]) -> dict[str, int]:
    profiler = torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True)
    with _quiet():
        profiler.start()
    try:
        for skip, run in runs.items():
            with torch.profiler.record_function(f"pass {skip}"):
                run()
    finally:
        with _quiet():
            profiler.stop()
    events = sorted(profiler.profiler.kineto_results.events(), key=lambda event: event.start_ns())  # type: ignore[union-attr]
    passes = {event.name(): event for event in events if event.name().startswith("pass ")}
    changes = [(event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"]  # type: ignore[attr-defined]
    return {skip: _peak(changes, passes[f"pass {skip}"]) for skip in runs}


def _peak(changes: list[tuple[int, int]], during: Any) -> int:
    """The highest sum of the changes so far, from the start of one pass to its end."""
    start = during.start_ns()
    held = peak = 0
    for time, change in changes:
        if start <= time <= start + during.duration_ns():
            held += change
            peak = max(peak, held)
    return peak


@contextmanager
def _quiet() -> Iterator[None]:
    """Drop what the profiler's library writes to the process's stderr when it starts and stops (not errors)."""
    try:
        stderr = sys.__stderr__.fileno()  # type: ignore[union-attr]
        kept = os.dup(stderr)
    except (AttributeError, OSError, ValueError):  # no stderr: nothing to keep quiet
        yield
        return
    with open(os.devnull, "w") as nowhere:  # noqa: PTH123 - a device, not a file
        os.dup2(nowhere.fileno(), stderr)
    try:
        yield
    finally:
        os.dup2(kept, stderr)
        os.close(kept)
