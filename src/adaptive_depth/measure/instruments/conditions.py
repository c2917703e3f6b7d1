"""What a measurement depends on besides the network: the device, its clock, its load."""

import os
import platform
from pathlib import Path
from statistics import mean
from typing import Any

import torch


def describe(device: torch.device) -> dict[str, Any]:
    """The device and what runs on it."""
    return {
        "type": device.type,
        "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else _processor(),
        "platform": platform.platform(),
        "torch": str(torch.__version__),
        "threads": torch.get_num_threads(),
    }


def moment(device: torch.device) -> dict[str, Any]:
    """Current clock, temperature and load, as far as the machine reports them."""
    told: dict[str, Any] = {
        "clock_mhz": _clock(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
    }
    if hasattr(os, "getloadavg"):
        told["load"] = round(os.getloadavg()[0], 2)
    if device.type == "cuda":
        told |= {"gpu_clock_mhz": _of_gpu("clock_rate", device), "gpu_celsius": _of_gpu("temperature", device)}
    return {name: value for name, value in told.items() if value is not None}


def _of_gpu(name: str, device: torch.device) -> float | None:
    try:
        return getattr(torch.cuda, name)(device)
    except (ModuleNotFoundError, RuntimeError):  # needs NVIDIA's Python package and a working driver
        return None


def _clock() -> float | None:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    clocks = [float(line.partition(":")[2]) for line in lines if line.startswith("cpu MHz")]
    return round(mean(clocks)) if clocks else None


def _processor() -> str:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "") or platform.processor() or platform.machine()


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:  # another system, or a container without it
        return None
