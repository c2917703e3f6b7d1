"""Energy, by counters of the device: NVML on NVIDIA GPUs, RAPL on Intel and AMD processors, a Jetson's own sensors.

zeus (the extra `energy`) finds and reads them. Without counters, nothing is estimated.
"""

import random
import warnings
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from math import ceil
from statistics import median
from typing import Any

import torch

from ...packages import install

_WINDOW_MS = 500.0  # counters move every 1 to 100 ms
_ROUNDS = 3
_NOT_HERE = "not measurable here: "

Meter = Callable[[Callable[[], Any]], float]  # joules that a call draws


def find_meter(device: torch.device) -> tuple[Meter | None, str]:
    """What measures the energy of this device, and what it reads; or None and why there is none."""
    if find_spec("zeus") is None:
        return None, _NOT_HERE + f"zeus is not installed, {install('energy')}"
    from zeus.monitor import ZeusMonitor

    on_gpu = device.type == "cuda"
    gpus = [device.index if device.index is not None else torch.cuda.current_device()] if on_gpu else []
    try:
        with warnings.catch_warnings(action="ignore"):  # about missing sensors
            # For zeus, None means all processors.
            monitor = ZeusMonitor(gpu_indices=gpus, cpu_indices=[] if on_gpu else None)
    except Exception as error:  # noqa: BLE001 - drivers fail in many ways; all mean: no counter
        return None, f"{_NOT_HERE}{' '.join(str(error).split())}"
    if monitor.soc_is_present:
        return _meter(monitor, _of_board), "the board's own sensors, for the whole board"
    if gpus:
        return _meter(monitor, _of_gpus), f"NVML, GPU {gpus[0]}"
    if monitor.cpu_indices:
        return _meter(monitor, _of_processors), f"RAPL, {len(monitor.cpu_indices)} processor package(s) and memory"
    return None, _NOT_HERE + "no energy counter (NVML, RAPL, Jetson) can be read"


def _meter(monitor: Any, joules: Callable[[Any], float]) -> Meter:
    def measure(work: Callable[[], Any]) -> float:
        monitor.begin_window("passes")
        try:
            work()
        except BaseException:
            # An open window would make the next one fail.
            monitor.end_window("passes", cancel=True)
            raise
        return joules(monitor.end_window("passes"))

    return measure


def _of_board(window: Any) -> float:
    return (getattr(window.soc_energy, "total_energy_mj", None) or 0.0) / 1000


def _of_gpus(window: Any) -> float:
    return sum(window.gpu_energy.values())


def _of_processors(window: Any) -> float:
    return sum((window.cpu_energy or {}).values()) + sum((window.dram_energy or {}).values())


def energy_of_all(
    runs: Mapping[str, Callable[[], Any]],
    wait: Callable[[], None],
    latency_ms: Mapping[str, float],
    meter: Meter,
    on_round: Callable[[int, int], None],
) -> dict[str, float] | None:
    """Millijoules of one pass by skip: medians of half-second windows; None if the counters did not advance.

    Idle power is included: the device draws it for as long as the pass takes.
    """
    drawn: dict[str, list[float]] = {skip: [] for skip in runs}
    order, shuffle = list(runs), random.Random(0).shuffle
    for done in range(_ROUNDS):
        shuffle(order)
        for skip in order:
            passes = max(1, ceil(_WINDOW_MS / latency_ms[skip]))
            joules = meter(lambda run=runs[skip], passes=passes: _repeat(run, wait, passes))
            drawn[skip].append(1000 * joules / passes)
        on_round(done + 1, _ROUNDS)
    if not all(millijoules > 0 for windows in drawn.values() for millijoules in windows):
        return None
    return {skip: median(windows) for skip, windows in drawn.items()}


def _repeat(run: Callable[[], Any], wait: Callable[[], None], passes: int) -> None:
    for _ in range(passes):
        run()
    wait()
